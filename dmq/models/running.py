"""How a diffusers pipeline is called: which arguments it takes, and what one run of it may not share with another."""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.schedulers import SchedulerMixin
from torch import nn

from ..errors import DmqError
from ..recipe import Sampling


def private(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """A pipeline that shares the networks of `pipe` but nothing that a run changes: scheduler, tokenizers."""
    own = copy.copy(pipe)
    own.set_progress_bar_config(disable=True)
    for name, part in pipe.components.items():
        if isinstance(part, SchedulerMixin):
            setattr(own, name, type(part).from_config(part.config))
        elif part is not None and not isinstance(part, nn.Module):
            setattr(own, name, copy.deepcopy(part))  # fast tokenizers keep the padding of their last call
    return own


def prompted(pipe: DiffusionPipeline) -> bool:
    """Does the pipeline take a prompt?"""
    return "prompt" in inspect.signature(pipe.__call__).parameters


def arguments(
    pipe: DiffusionPipeline, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling
) -> dict[str, Any]:
    """What to call `pipe` with for one picture a seed; DmqError if it needs something dmq does not have.

    Each picture has its own generator, so its noise depends on its seed alone.
    """
    known = inspect.signature(pipe.__call__).parameters
    call: dict[str, Any] = {
        "num_inference_steps": sampling.steps,
        "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
    }
    if "guidance_scale" in known:
        call["guidance_scale"] = sampling.guidance
    if "prompt" in known:
        if len(prompts) != len(seeds):
            raise ValueError(f"expected as many prompts as seeds, got {len(prompts)} and {len(seeds)}")
        call["prompt"] = list(prompts)
    elif "batch_size" in known:
        call["batch_size"] = len(seeds)
    named = [p for p in known.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    missing = [p.name for p in named if p.default is p.empty and p.name not in call]
    if missing or not {"prompt", "batch_size"} & set(known):
        needs = ", ".join(missing) or "something other than a prompt"
        raise DmqError(
            f"{type(pipe).__name__} needs {needs}; dmq runs text-to-image and unconditional pipelines."
        )
    return call
