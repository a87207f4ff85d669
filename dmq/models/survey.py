"""What one denoiser call costs and in which order its layers run, seen by making that call once."""

import hashlib
import json
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from ..recipe import Sampling
from .adapter import LAYERS, AbstractAdapter
from .borrow import borrow
from .running import arguments, own_prompts, private


class _Enough(Exception):
    pass


def macs(pipe: DiffusionPipeline, adapter: AbstractAdapter) -> dict[str, int]:
    """Multiply-accumulates of each layer in one denoiser call for one picture, in the order the layers run.

    The real pipeline is started on a borrowed denoiser and stopped after its first call.
    """
    component = adapter.component(pipe)
    denoiser = borrow(getattr(pipe, component))
    found: dict[str, int] = {}
    rows = 1

    def count(name: str, layer: nn.Module, output: Tensor) -> None:
        inner = layer.weight[0].numel()  # products per output element
        found[name] = found.get(name, 0) + output.numel() * inner

    def begin(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        nonlocal rows
        rows = len(adapter.sample_of(args, kwargs))

    def stop(*_: Any) -> None:
        raise _Enough

    for name, module in denoiser.named_modules():
        if isinstance(module, LAYERS):
            module.register_forward_hook(lambda m, args, out, name=name: count(name, m, out))
    denoiser.register_forward_pre_hook(begin, with_kwargs=True)
    denoiser.register_forward_hook(stop)
    own = private(pipe)
    setattr(own, component, denoiser)
    try:
        own(**arguments(own, own_prompts(own)[:1] or ["a"], [0], Sampling(steps=2, guidance=0.0)))
    except _Enough:
        pass
    return {name: n // rows for name, n in found.items()}


def fingerprint(denoiser: nn.Module) -> str:
    """16 hex digits of the denoiser's configuration and of up to 4096 evenly spaced elements of each tensor.

    A model that was rounded when it was loaded is known by the weights in its files.
    """
    if known := vars(denoiser).get("known_fingerprint"):
        return known
    config = {key: value for key, value in dict(denoiser.config).items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in denoiser.state_dict().items():
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // 4096)].to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]
