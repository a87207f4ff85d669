"""What one denoiser call costs and in which order its layers run, seen by making that call with
shapes alone.
"""

import copy
import hashlib
import json
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..recipe import Sampling
from .adapter import LAYERS, AbstractAdapter
from .borrow import borrow
from .sampling_arguments import arguments, has_class_prompts, private


class _Enough(Exception):
    pass


def macs(pipe: DiffusionPipeline, adapter: AbstractAdapter) -> dict[str, int]:
    """Multiply-accumulates of each layer in one denoiser call for one image, in the order the
    layers run.

    The real pipeline is started and stopped before its first call. That call is made with shapes
    alone, by a copy of the denoiser without values; a denoiser that looks at values makes it in
    earnest, which takes as long as a step."""
    denoiser = getattr(pipe, adapter.component(pipe))
    args, kwargs = _first_call(pipe, adapter)
    rows = len(adapter.sample_of(args, kwargs))
    try:
        found = _count_calls(
            _without_values(denoiser),
            *tree_map_only(Tensor, lambda x: x.to("meta"), (args, kwargs)),
        )
    except Exception:  # what a module raises that wants to see a value is its own choice
        found = _count_calls(borrow(denoiser), args, kwargs)
    return {name: n // rows for name, n in found.items()}


def _first_call(pipe: DiffusionPipeline, adapter: AbstractAdapter) -> tuple[tuple, dict[str, Any]]:
    """The arguments of the pipeline's first denoiser call."""
    component = adapter.component(pipe)
    denoiser = borrow(getattr(pipe, component))
    seen: list[tuple[tuple, dict[str, Any]]] = []

    def stop(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        seen.append((args, kwargs))
        raise _Enough

    denoiser.register_forward_pre_hook(stop, with_kwargs=True)
    own = private(pipe)
    setattr(own, component, denoiser)
    try:
        own(
            **arguments(
                own, has_class_prompts(own)[:1] or ["a"], [0], Sampling(steps=2, guidance=0.0)
            )
        )
    except _Enough:
        pass
    return seen[0]


def _without_values(model: nn.Module) -> nn.Module:
    """A copy of `model` on torch's meta device."""
    lent: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().to("meta"), False) for p in model.parameters()
    }
    return copy.deepcopy(model, lent | {id(b): b.detach().to("meta") for b in model.buffers()})


def _count_calls(denoiser: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, int]:
    """Products of each layer in this call of a `denoiser` that nobody else uses."""
    found: dict[str, int] = {}

    def count(name: str, layer: nn.Module, output: Tensor) -> None:
        inner = layer.get_parameter("weight")[0].numel()  # products per output element
        found[name] = found.get(name, 0) + output.numel() * inner

    for name, module in denoiser.named_modules():
        if isinstance(module, LAYERS):
            module.register_forward_hook(lambda m, args, out, name=name: count(name, m, out))
    with torch.no_grad():
        denoiser(*args, **kwargs)
    return found


def fingerprint(denoiser: ModelMixin) -> str:
    """16 hex digits of the denoiser's configuration and of up to 4096 evenly spaced elements of
    each tensor.

    A model that was rounded when it was loaded is known by the weights in its files.
    """
    if known := vars(denoiser).get("known_fingerprint"):
        return known
    config = {key: value for key, value in denoiser.config.items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in denoiser.state_dict().items():
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // 4096)].to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]
