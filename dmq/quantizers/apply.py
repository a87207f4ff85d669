"""A quantized model from a float one and a plan: a new model that shares the memory of whatever
stays as it was.
"""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from ..errors import DmqError
from ..models.adapter import AbstractAdapter
from ..models.attention import make_products_explicit
from ..models.borrow import borrow, parameters_of, replace
from ..models.layer_counts import fingerprint
from ..numerics.threads import one_thread
from ..recipe import FLOAT
from ..results import Plan, PlannedLayer, Site
from .bank import Clock, bank_module
from .cache import install_cache
from .codes import LowRankWeight, WeightCodes
from .layers import low_rank_layer, make_fake_quantized
from .plan import vector_format
from .weights import quantize_weight


# From a float layer, its row of the plan, its bank and its codes, the layer that takes its place.
MakeLayer = Callable[[nn.Module, PlannedLayer, nn.Module, WeightCodes], nn.Module]


@torch.no_grad()
def quantize_model(
    model: nn.Module,
    plan: Plan,
    adapter: AbstractAdapter,
    learned: Mapping[str, WeightCodes] | None = None,
    make: MakeLayer | None = None,
) -> nn.Module:
    """A model that simulates `plan`; `model` itself stays as it is, and lends its memory for all
    that stays in float.

    Layers named in `learned` have those codes, in the format that the plan gives them, instead of
    the nearest ones. Layers with codes are made by `make`; without it they are simulated.

    The result has its `plan` and its `clock`, whose `notes` tell of timesteps that were not
    calibrated. It is called by one sampler at a time. Raises DmqError if `model` is quantized
    already, or is not what the plan was made for."""
    _check(model, plan)
    quantized_model = borrow(model)
    clock = Clock(plan.timesteps, plan.unknown_timestep, adapter.timestep)
    banks: dict[Site, nn.Module] = {}
    with one_thread():  # ranges are searched by tens of thousands of small operations
        for row in plan.layers:
            if row.dropped or row.format == "float":
                continue
            layer = quantized_model.get_submodule(row.layer.name)
            if row.bank and row.bank.site not in banks:
                device = layer.get_parameter("weight").device
                banks[row.bank.site] = bank_module(row.bank, clock).to(device)
            bank = banks[row.bank.site] if row.bank else nn.Identity()
            replace(
                quantized_model,
                row.layer.name,
                _layer(layer, row, bank, learned or {}, make or simulated_layer),
            )
    if plan.attention:
        make_products_explicit(quantized_model)
        device = next(quantized_model.parameters()).device
        for operand in plan.attention:
            place = f"{operand.site.name}.processor.{operand.site.point}"
            replace(quantized_model, place, bank_module(operand, clock).to(device))
    if plan.vector_bits < FLOAT:
        _quantize_vectors(quantized_model, plan)
    time = plan.temporal if plan.temporal and plan.temporal.cached is not None else None
    used = [*(row.bank for row in plan.layers if row.bank), *plan.attention]
    clock.needed = time is not None or any(len(bank.bits) > 1 or not bank.dynamic for bank in used)
    if time or used:
        quantized_model.register_forward_pre_hook(clock.before_call, with_kwargs=True)
    if time:
        install_cache(quantized_model, model, time, adapter, clock)
    vars(quantized_model).update(plan=plan, clock=clock)
    return quantized_model


def plan_of(model: nn.Module) -> Plan | None:
    """The plan that `model` was made from; None for a model that is not quantized."""
    return vars(model).get("plan")


def _layer(
    layer: nn.Module,
    row: PlannedLayer,
    bank: nn.Module,
    learned: Mapping[str, WeightCodes],
    make: MakeLayer,
) -> nn.Module:
    weight, bias = parameters_of(layer)
    if row.weights.bits == FLOAT:
        return make_fake_quantized(layer, weight, bias, bank)
    try:
        codes = learned.get(row.layer.name)
        codes = quantize_weight(weight, row.weights, row.split) if codes is None else codes
    except DmqError as error:
        raise DmqError(f"{row.layer.name}: {error}") from None
    if (
        isinstance(codes, LowRankWeight)
        and row.bank
        and codes.smoothing is not None
        and not row.bank.dynamic
    ):
        raise DmqError(
            f"{row.layer.name}: its weight is for smoothed inputs, but the ranges are those of "
            "inputs as they are. "
            "Learn it again for this recipe, or set activations.dynamic."
        )
    return make(layer, row, bank, codes)


def simulated_layer(
    layer: nn.Module, row: PlannedLayer, bank: nn.Module, codes: WeightCodes
) -> nn.Module:
    """A layer that computes in floating point what one on `codes` would."""
    if isinstance(codes, LowRankWeight) and row.bank:
        return _low_rank(layer, bank, codes)
    like, bias = parameters_of(layer)
    weight = nn.Parameter(codes.dequantize().to(like), like.requires_grad)
    return make_fake_quantized(layer, weight, bias, bank)


def _low_rank(layer: nn.Module, bank: nn.Module, codes: LowRankWeight) -> nn.Module:
    like, bias = parameters_of(layer)
    low_rank, rest = (
        nn.Parameter(part.to(like), like.requires_grad)
        for part in (codes.low_rank_weight(), codes.rest_weight())
    )
    smoothing = None if codes.smoothing is None else codes.smoothing.to(like)
    return low_rank_layer(layer, low_rank, rest, bias, bank, smoothing)


def _quantize_vectors(quantized_model: nn.Module, plan: Plan) -> None:
    """Put rounded copies in the place of all 1-D parameters, the biases of layers included."""
    spec = vector_format(plan.layers[0].weights, plan.vector_bits)
    made: dict[int, nn.Parameter] = {}  # a parameter may be in several places
    for module in quantized_model.modules():
        for name, p in module.named_parameters(recurse=False):
            if p.ndim < 2 and id(p) not in made:
                made[id(p)] = nn.Parameter(
                    quantize_weight(p, spec).dequantize().to(p.dtype), p.requires_grad
                )
            if p.ndim < 2:
                setattr(module, name, made[id(p)])


def _check(model: nn.Module, plan: Plan) -> None:
    if plan_of(model) is not None:
        raise DmqError(
            "quantizing twice: this model is quantized already. Start from the float model."
        )
    modules = dict(model.named_modules())
    for row in plan.layers:
        layer = modules.get(row.layer.name)
        if layer is None:
            raise DmqError(
                f"{row.layer.name}: the model has no such layer; the plan was made for "
                f"{plan.model!r}."
            )
        shape = tuple(layer.weight.shape)
        if shape != row.layer.shape:
            raise DmqError(
                f"{row.layer.name}: weight has shape {shape}, the plan expects {row.layer.shape}."
            )
    if fingerprint(model) != plan.fingerprint:
        raise DmqError(
            f"the plan was made for other weights of {plan.model!r} than these. Make a plan anew."
        )
