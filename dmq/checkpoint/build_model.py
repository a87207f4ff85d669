"""A quantized model of stored tensors: the counterpart of `quantizers.apply.quantized`, without the
float model.

    opened       a skeleton gets a place for each stored tensor, where what it stands for was
    assembled    the places are replaced by quantized layers, banks and tables, in place

In between somebody fills the skeleton's ordinary parameters.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DmqError
from ..models.adapter import AbstractAdapter
from ..models.attention import make_products_explicit
from ..models.borrow import replace
from ..models.loading import ADAPTERS
from ..numerics.packing import unpack
from ..quantizers.apply import MakeLayer, simulated_layer
from ..quantizers.bank import Clock, bank_module
from ..quantizers.cache import CachedFeature, FeatureTable, Gone, install_cache
from ..quantizers.codes import WeightCodes
from ..quantizers.layers import make_fake_quantized
from ..recipe import FLOAT, SIMULATED, compiles, lowered
from ..results import Plan, Site
from ..runtime.convert import finish_model, pack_layer
from .settings import Content, cache_layout, cache_rows, quantized_layout
from .weight_layout import layout, restore


Fetch = Callable[[str], Tensor]  # the stored tensor of a name


class Held(nn.Module):
    """A place for stored tensors in a skeleton, and for more such places."""


def open_model(model: nn.Module, content: Content) -> None:
    """Put places for the stored tensors into the skeleton `model`, and take out what no longer is.

    Raises DmqError if the skeleton is not the model of the plan.
    """
    modules = dict(model.named_modules())
    for row in content.plan.layers:
        layer = modules.get(row.layer.name)
        if (
            layer is None
            or not hasattr(layer, "weight")
            or tuple(layer.weight.shape) != row.layer.shape
        ):
            raise DmqError(
                f"{row.layer.name:.200}: the model has no such layer; config.json and the plan do "
                "not fit."
            )
    for row in content.plan.layers:
        if row.dropped:
            replace(model, row.layer.name, Gone())
    for root in find_gone(content.plan):
        replace(model, root, Gone())
    for name in content.codes:
        parent, _, leaf = name.rpartition(".")
        owner = modules.get(parent)
        if owner is None or owner._parameters.get(leaf) is None:
            raise DmqError(
                f"{name:.200}: the model has no such parameter; config.json and its codes do not "
                "fit."
            )
        del owner._parameters[leaf]
        owner.add_module(leaf, Held())
    for name, (dtype, shape) in quantized_layout(content.settings).items():
        *path, leaf = name.split(".")
        place = model
        for step in path:
            if step not in place._modules:
                place.add_module(step, Held())
            place = place.get_submodule(step)
        place.register_buffer(leaf, torch.empty(shape, dtype=dtype, device="meta"))


@torch.no_grad()
def assemble_model(
    model: nn.Module, content: Content, fetch: Fetch, mode: str, dtype: torch.dtype
) -> None:
    """Make the opened skeleton, whose ordinary parameters are there, the quantized model that
    `content` describes.

    What it computes in float has `dtype`. Codes are unpacked layer by layer.
    """
    plan, clock = (
        content.plan,
        Clock(content.plan.timesteps, content.plan.unknown_timestep, adapter_of(content).timestep),
    )
    device = next(
        (x.device for x in (*model.parameters(), *model.buffers()) if x.device.type != "meta"), None
    )
    model._modules.pop("dmq", None)
    weights = {f"{row.layer.name}.weight": row.layer.shape for row in plan.layers}
    for name in content.codes:
        # Of a weight that is made into a layer below, the shape is enough.
        value = (
            torch.zeros((), dtype=dtype, device=device).expand(weights[name])
            if name in weights
            else (codes_in(content, name, fetch).dequantize().to(device, dtype))
        )
        parent, _, leaf = name.rpartition(".")
        owner = model.get_submodule(parent)
        del owner._modules[leaf]
        owner.register_parameter(leaf, nn.Parameter(value, False))
    make: MakeLayer = simulated_layer if mode == SIMULATED else pack_layer
    banks: dict[Site, nn.Module] = {}
    for row in plan.layers:
        if row.dropped or row.format == "float":
            continue
        layer: Any = model.get_submodule(row.layer.name)
        if row.bank and row.bank.site not in banks:
            banks[row.bank.site] = bank_module(row.bank, clock).to(device)
        bank = banks[row.bank.site] if row.bank else nn.Identity()
        if row.weights.bits == FLOAT:
            made = make_fake_quantized(layer, layer.weight, layer.bias, bank)
        else:
            codes = codes_in(content, f"{row.layer.name}.weight", fetch)
            made = make(layer, row, bank, codes.to(device) if device else codes)
        replace(model, row.layer.name, made)
    if plan.attention:
        make_products_explicit(model)
        for operand in plan.attention:
            name = f"{operand.site.name}.processor.{operand.site.point}"
            replace(model, name, bank_module(operand, clock).to(device))
    _add_time(model, plan, clock, fetch, adapter_of(content), device)
    model.requires_grad_(False)
    vars(model).update(plan=plan, clock=clock)
    if mode != SIMULATED:
        finish_model(
            model, plan, torch.bfloat16 if lowered(mode) else dtype, compiling=compiles(mode)
        )


def codes_in(content: Content, name: str, fetch: Fetch) -> WeightCodes:
    """The codes of a parameter, in memory of their own.

    Raises DmqError if nothing can be computed with them.
    """
    plain = content.codes[name]
    try:
        return restore({part: fetch(f"{name}.{part}") for part in layout(plain)}, plain)
    except DmqError as error:
        raise DmqError(f"{name}: {error}") from None


def adapter_of(content: Content) -> AbstractAdapter:
    """How the denoiser is called; DmqError if this dmq does not know."""
    name = content.settings.get("adapter")
    found = next((adapter for adapter in ADAPTERS if adapter.name == name), None)
    if found is None:
        raise DmqError(f"the adapter {name!r:.40} is of a newer dmq. Update dmq.")
    return found


# --- the time embedding --------------------------------------------------------------------------------


def find_gone(plan: Plan) -> tuple[str, ...]:
    """Modules that a cache of all features takes the place of."""
    time = plan.temporal
    if time is None or time.cached is None or time.per_request or not time.cached.all():
        return ()
    return time.block.embeddings


def _add_time(
    model: nn.Module,
    plan: Plan,
    clock: Clock,
    fetch: Fetch,
    adapter: AbstractAdapter,
    device: torch.device | None,
) -> None:
    """Hooks that find the step, and the tables of the cache."""
    time = plan.temporal
    cached = time is not None and time.cached is not None
    used = [*(row.bank for row in plan.layers if row.bank), *plan.attention]
    clock.needed = cached or any(len(bank.bits) > 1 or not bank.dynamic for bank in used)
    if cached or used:
        model.register_forward_pre_hook(clock.before_call, with_kwargs=True)
    if time is None or time.cached is None:
        return
    if time.per_request:
        install_cache(model, model, time, adapter, clock)
    else:
        for k, kept in cache_rows(plan).items():
            projection = time.block.projections[int(k)]
            steps = time.cached[int(k)].nonzero()[0].tolist()
            row = [steps.index(i) if i in steps else None for i in range(len(plan.timesteps))]
            computed = None if None not in row else model.get_submodule(projection.name)
            table = _table(
                kept, {part: fetch(f"dmq.cache.{k}.{part}") for part in cache_layout(kept)}
            ).to(device)
            table.like = table.like.to(next(model.parameters()).dtype)
            replace(model, projection.name, CachedFeature(table, clock, row, computed))


def _table(kept: Mapping[str, int], parts: Mapping[str, Tensor]) -> FeatureTable:
    rows, width, bits = kept["rows"], kept["width"], kept["bits"]
    table = FeatureTable(torch.zeros(rows, width), bits)
    if bits == 16:
        table.codes = parts["codes"].clone()
        return table
    table.codes = unpack(parts["codes"], bits, rows * width).view(rows, width)
    table.scale, table.zero = parts["scale"].clone(), parts["zero"].to(torch.int32)
    if not (table.scale.isfinite().all() and (table.scale > 0).all()):
        raise DmqError("the cache in it has scales that nothing can be computed with.")
    return table
