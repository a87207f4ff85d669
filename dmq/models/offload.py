"""Weights that lie on the CPU and visit the GPU while a pipeline runs: diffusers' own ways, put on
and taken off.

Nobody may change a loaded model, and these ways move its weights about. So they hold for one run:
afterwards every module has the very tensors that it had before, which the models that borrowed them
share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from diffusers import DiffusionPipeline
from torch import nn

from .placement import Place


@contextmanager
def place_offloaded(pipe: DiffusionPipeline, place: Place) -> Iterator[None]:
    """While the block lasts, `pipe` runs on the device of `place` from weights that stay on the
    CPU.

    model: one part of the pipeline visits at a time. sequential: one layer. group: one layer, while
    the next ones are fetched already (on CUDA; elsewhere as sequential). Not by accelerate's hooks
    for layers, which replace parameters by plain tensors."""
    if place.offload == "none":
        yield
        return
    parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    with _restore([module for part in parts for module in part.modules()]):
        if place.offload == "model":
            pipe.enable_model_cpu_offload(device=place.device)
        else:
            pipe.enable_group_offload(
                onload_device=torch.device(place.device),
                offload_type="leaf_level",
                low_cpu_mem_usage=True,
                use_stream=place.offload == "group" and place.kind == "cuda",
            )
        yield


@contextmanager
def _restore(modules: list[nn.Module]) -> Iterator[None]:
    """When the block ends, every parameter and buffer is as it was, object and memory; what was
    put on is off.
    """
    before = [
        (table, name, tensor, tensor.data)
        for module in modules
        for table in cast(tuple[dict[str, Any], ...], (module._parameters, module._buffers))
        for name, tensor in table.items()
        if tensor is not None
    ]
    known = [(module, set(vars(module))) for module in modules]
    try:
        yield
    finally:
        for module, names in known:
            for name in (
                set(vars(module)) - names
            ):  # a replaced `forward`, and the hooks that it calls
                del vars(module)[name]
        for table, name, tensor, data in before:
            tensor.data = data
            table[name] = tensor
