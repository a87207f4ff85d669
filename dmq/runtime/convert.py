"""From a float model and a plan to one that really computes on few bits, and what of it does."""

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..models.adapter import AbstractAdapter
from ..models.borrow import parameters_of
from ..numerics.memory import keep_freed_memory
from ..numerics.processor import multiplies_bfloat16
from ..quantizers.apply import quantize_model
from ..quantizers.codes import WeightCodes
from ..results import Plan, PlannedLayer
from .attention import attend_in_chunks, long_attention
from .compiled import compile_model
from .layers import PackedLayer, packed_layers


@torch.no_grad()
def execute_model(
    model: nn.Module,
    plan: Plan,
    adapter: AbstractAdapter,
    learned: Mapping[str, WeightCodes] | None = None,
    rest: torch.dtype = torch.float32,
    kernels: bool = True,
    compiling: bool = False,
) -> nn.Module:
    """A model that executes `plan` on integer kernels; like `quantizers.apply.quantized` in all
    else.

    What stays in float is computed in `rest`, float32 or bfloat16; inputs and outputs of the model
    are float32 all the same. Without `kernels` every layer runs in floating point, as the
    simulation does, with its weight kept in codes. `compiling` has all between layers on codes
    compiled, at the first call. Raises DmqError as `quantized` does."""
    quantized_model = quantize_model(
        model, plan, adapter, learned, partial(pack_layer, kernels=kernels)
    )
    return finish_model(quantized_model, plan, rest, kernels, compiling)


def pack_layer(
    layer: nn.Module, row: PlannedLayer, bank: nn.Module, codes: WeightCodes, kernels: bool = True
) -> PackedLayer:
    """The layer that computes on `codes` in the place of `layer`: a
    `quantizers.apply.MakeLayer`.
    """
    return PackedLayer(layer, codes, parameters_of(layer)[1], bank, kernels)


def finish_model(
    quantized_model: nn.Module,
    plan: Plan,
    rest: torch.dtype = torch.float32,
    kernels: bool = True,
    compiling: bool = False,
) -> nn.Module:
    """`quantized model` itself, whose layers are packed, with all else that an executed model has; see
    `execute_model`.
    """
    keep_freed_memory()
    # Where a processor does not multiply bfloat16, pieces take up to 20 times as long as torch's
    # own kernel.
    if (
        kernels
        and not plan.attention
        and multiplies_bfloat16()
        and (not compiling or long_attention(quantized_model))
    ):
        attend_in_chunks(quantized_model)
    if (
        rest == torch.bfloat16
        and next(quantized_model.parameters()).device.type == "cpu"
        and not multiplies_bfloat16()
    ):
        vars(quantized_model)["clock"].notes.append(
            "this processor only emulates bfloat16: with the rest in float32 it is faster."
        )
    if rest != torch.float32:
        nn.Module.to(
            quantized_model, rest
        )  # not its own `to`: diffusers refuses to cast models that it knows as quantized
        quantized_model.register_forward_pre_hook(partial(_lower, rest), with_kwargs=True)
        quantized_model.register_forward_hook(_raise)
    return compile_model(quantized_model) if compiling else quantized_model


def find_kernels(model: nn.Module) -> dict[str, tuple[str, str]]:
    """What runs each layer of an executed `model`: a kernel's name and "", or "reference" and why."""
    return {name: (layer.kernel, layer.why) for name, layer in packed_layers(model)}


def count_kernels(model: nn.Module) -> tuple[dict[str, int], dict[str, int]]:
    """How many layers of an executed `model` each kernel runs, and how many none does, by reason."""
    runs = find_kernels(model).values()
    on = Counter(kernel for kernel, why in runs if not why)
    return dict(on), dict(Counter(why for _, why in runs if why))


def _lower(
    rest: torch.dtype, model: nn.Module, args: tuple, kwargs: dict[str, Any]
) -> tuple[tuple, dict[str, Any]]:
    return _cast(args, rest), _cast(kwargs, rest)


def _raise(model: nn.Module, args: tuple, output: Any) -> Any:
    return _cast(output, torch.float32)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Floating-point tensors in `value`, however deep, as `dtype`; timesteps, which have one
    axis at most, stay.
    """
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() and value.ndim > 1 else value
    if isinstance(
        value, dict
    ):  # the outputs of diffusers are dicts, and have to stay what they are
        made = {key: _cast(own, dtype) for key, own in value.items()}
        return type(value)(**made) if type(value) is not dict else made
    return (
        type(value)(_cast(own, dtype) for own in value)
        if isinstance(value, tuple | list)
        else value
    )
