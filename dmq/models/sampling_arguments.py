"""How a diffusers pipeline is called: which arguments it takes, and what one run of it may not
share with another.
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from torch import nn

from ..errors import DmqError
from ..recipe import Sampling


def private(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """A pipeline that shares the networks of `pipe` but nothing that a run changes: scheduler,
    tokenizers.
    """
    own = copy.copy(pipe)
    own.set_progress_bar_config(disable=True)
    for name, part in pipe.components.items():
        if isinstance(part, SchedulerMixin):
            setattr(own, name, type(part).from_config(part.config))
        elif part is not None and not isinstance(part, nn.Module):
            setattr(
                own, name, copy.deepcopy(part)
            )  # fast tokenizers keep the padding of their last call
    return own


def is_prompted(pipe: DiffusionPipeline) -> bool:
    """Does the pipeline take a prompt, or a class in its place?"""
    return "prompt" in inspect.signature(pipe.__call__).parameters or _with_classes(pipe)


def has_class_prompts(pipe: DiffusionPipeline) -> tuple[str, ...]:
    """Prompts that only this pipeline understands: the names or numbers of its classes; none if
    it takes words.
    """
    if not _with_classes(pipe):
        return ()
    return tuple(pipe.labels) or tuple(map(str, range(_classes(pipe))))


def arguments(
    pipe: DiffusionPipeline, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling
) -> dict[str, Any]:
    """What to call `pipe` with for one image a seed; DmqError if it needs something dmq does not
    have.

    Each image has its own generator, so its noise depends on its seed alone.
    """
    known = inspect.signature(pipe.__call__).parameters
    if is_prompted(pipe) and len(prompts) != len(seeds):
        raise ValueError(f"expected as many prompts as seeds, got {len(prompts)} and {len(seeds)}")
    call: dict[str, Any] = {
        "num_inference_steps": sampling.steps,
        "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
    }
    if "guidance_scale" in known:
        call["guidance_scale"] = sampling.guidance
    if "prompt" in known:
        call["prompt"] = list(prompts)
    elif _with_classes(pipe):
        call["class_labels"] = [_class_of(pipe, prompt) for prompt in prompts]
    elif "batch_size" in known:
        call["batch_size"] = len(seeds)
    if "clean_caption" in known:
        call["clean_caption"] = (
            False  # else prompts would depend on whether Beautiful Soup is installed
        )
    if "use_resolution_binning" in known:
        call["use_resolution_binning"] = (
            False  # else another size may be generated than asked, and small models refuse
        )
    if "max_sequence_length" in known:
        call |= _readable(pipe, known["max_sequence_length"].default)
    _check_known(pipe, known, call)
    return call | (_with_size(pipe, known, sampling.size) if sampling.size else {})


def _check_known(
    pipe: DiffusionPipeline, known: Mapping[str, inspect.Parameter], call: dict[str, Any]
) -> None:
    named = [p for p in known.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    missing = [p.name for p in named if p.default is p.empty and p.name not in call]
    if missing or not {"prompt", "class_labels", "batch_size"} & set(known):
        needs = ", ".join(missing) or "something other than a prompt"
        raise DmqError(
            f"{type(pipe).__name__} needs {needs}; dmq runs text-to-image, class-conditional and "
            "unconditional pipelines."
        )


def _with_size(
    pipe: DiffusionPipeline, known: Mapping[str, inspect.Parameter], size: int
) -> dict[str, Any]:
    """The arguments for images of `size` x `size` pixels, exactly: some pipelines would take a
    standard size.
    """
    if not {"height", "width"} <= set(known):
        raise DmqError(
            f"{type(pipe).__name__} generates images of one size only; set sampling.size to 0."
        )
    if size % 8:
        raise DmqError(
            f"sampling.size is {size}, but must be a multiple of 8; use {max(8, size // 8 * 8)}."
        )
    return {"height": size, "width": size}


def _readable(pipe: DiffusionPipeline, most: int) -> dict[str, int]:
    """No more tokens than the tokenizer says that its text encoder reads: padding beyond costs
    time and is masked.
    """
    tokenizer = pipe.components.get("tokenizer")
    length = getattr(tokenizer, "model_max_length", most)
    alone = pipe.components.get("tokenizer_2") is None  # of several, each has a length of its own
    return {"max_sequence_length": length} if alone and length < most else {}


def _with_classes(pipe: DiffusionPipeline) -> bool:
    """Must the pipeline be told a class, as DiT's? Others that may be told one generate without."""
    return "class_labels" in inspect.signature(pipe.__call__).parameters and hasattr(
        pipe, "get_label_ids"
    )


def _classes(pipe: DiffusionPipeline) -> int:
    return pipe.transformer.config.num_embeds_ada_norm


def _class_of(pipe: DiffusionPipeline, prompt: str) -> int:
    """The class that a prompt names, by its label or its number."""
    if prompt in pipe.labels:
        return pipe.labels[prompt]
    if prompt.isascii() and prompt.isdigit() and int(prompt) < _classes(pipe):
        return int(prompt)
    some, count = ", ".join(has_class_prompts(pipe)[:3]), _classes(pipe)
    raise DmqError(
        f"{prompt!r:.60} is no class of this model; give a number below {count} or a name: {some}."
    )
