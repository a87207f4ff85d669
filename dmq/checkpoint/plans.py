"""A plan as plain data for a checkpoint's configuration, and back.

Its arrays go into the file of tensors, under names that begin with "dmq.":

    dmq.banks.K.bits     uint8 [slots]
    dmq.banks.K.scale    float32, dmq.banks.K.zero int32: [slots], [slots, C] or [slots, runs]; none where ranges come
    dmq.banks.K.slot     uint8 [T], int16 where there are more slots than a byte can count; none with one dynamic slot
    dmq.cache.chosen     uint8, one bit for each feature, where a selection chose rows

Banks that layers share are stored once. What is read may come from anybody: everything is checked,
and what is wrong is one DmqError."""

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import jsonio
from ..recipe import FLOAT, Cache, NoCache, Temporal, Weights
from ..results import (
    ActivationQParams,
    Layer,
    Plan,
    PlannedLayer,
    Site,
    TemporalBlock,
    TimeEmbedding,
)
from ..store import codec
from .weight_layout import LARGEST, Layout


PLAIN_FIELDS = (
    "model",
    "fingerprint",
    "timesteps",
    "unknown_timestep",
    "attention_sites",
    "vector_bits",
    "vector_bytes",
    "float_bytes",
    "relaxed",
    "relaxed_bits",
    "progressive",
    "step_sizes",
)
ROW = ("activation_bits", "reason", "weight_bytes", "bias_bytes", "dropped", "learned", "split")
DTYPES = {
    torch.uint8: np.uint8,
    torch.int16: np.int16,
    torch.int32: np.int32,
    torch.float32: np.float32,
}


def plan_data(plan: Plan) -> dict[str, Any]:
    """`plan` without its arrays, as JSON holds it."""
    specs = list(dict.fromkeys(row.weights for row in plan.layers))
    banks = banks_of(plan)
    place = {bank.site: k for k, bank in enumerate(banks)}
    rows = [
        asdict(row.layer)
        | {"weights": specs.index(row.weights), "bank": place[row.bank.site] if row.bank else None}
        | {name: getattr(row, name) for name in ROW if name in _ALWAYS or getattr(row, name)}
        for row in plan.layers
    ]
    return {name: getattr(plan, name) for name in PLAIN_FIELDS} | {
        "weights": [jsonio.to_data(spec) for spec in specs],
        "layers": rows,
        "banks": [_bank_data(bank) for bank in banks],
        "attention": [place[bank.site] for bank in plan.attention],
        "temporal": _time_data(plan.temporal),
    }


def plan_tensors(plan: Plan) -> dict[str, Tensor]:
    """The arrays of `plan` by name."""
    tensors: dict[str, Tensor] = {}
    for k, bank in enumerate(banks_of(plan)):
        for part, (dtype, shape) in _bank_layout(_bank_data(bank), len(plan.timesteps)).items():
            x = np.ascontiguousarray(getattr(bank, part)).astype(DTYPES[dtype]).reshape(shape)
            tensors[f"dmq.banks.{k}.{part}"] = torch.from_numpy(x.copy())
    time = plan.temporal
    if time is not None and time.cached is not None and _selection(time) == "row":
        chosen = np.packbits(time.cached.reshape(-1), bitorder="little")
        tensors["dmq.cache.chosen"] = torch.from_numpy(chosen)
    return tensors


def banks_of(plan: Plan) -> list[ActivationQParams]:
    """All banks of `plan`, those that layers share once."""
    shared = {row.bank.site: row.bank for row in plan.layers if row.bank}
    return [*shared.values(), *plan.attention]


def plan_layout(data: Mapping[str, Any]) -> Layout:
    """The tensors that belong to a plan's plain data. Raises DmqError if it contradicts itself."""
    with codec.reading("the plan in it", "export it again"):
        steps = len(data["timesteps"])
        made = {
            f"dmq.banks.{k}.{part}": x
            for k, bank in enumerate(data["banks"])
            for part, x in _bank_layout(bank, steps).items()
        }
        time = _time_embedding(data, None)
        if time is not None and _selection(time) == "row":
            made["dmq.cache.chosen"] = (
                torch.uint8,
                (-(-len(time.block.projections) * steps // 8),),
            )
    return made


def plan_from(data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Plan:
    """The inverse of `plan_data` and `plan_tensors`.

    Raises DmqError if something in it is not what it should be.
    """
    with codec.reading("the plan in it", "export it again"):
        for name, (dtype, shape) in plan_layout(data).items():
            if (tensors[name].dtype, tuple(tensors[name].shape)) != (dtype, shape):
                raise ValueError(f"{name} is another tensor")
        steps = len(data["timesteps"])
        specs = [jsonio.from_data(Weights, spec, "weights") for spec in data["weights"]]
        banks = [_bank(k, bank, tensors, steps) for k, bank in enumerate(data["banks"])]
        sites = {bank.site for bank in banks}
        if len(sites) < len(banks):
            raise ValueError("two banks of one site")
        rows = tuple(_row(row, specs, banks) for row in data["layers"])
        told = {"unknown_timestep": data.get("on_miss"), **data}  # its first name
        return codec.from_parts(
            Plan,
            {name: told[name] for name in PLAIN_FIELDS},
            layers=rows,
            attention=tuple(banks[_place(k, banks)] for k in data["attention"]),
            temporal=_time_embedding(data, tensors.get("dmq.cache.chosen")),
        )


_ALWAYS = ("activation_bits", "weight_bytes", "bias_bytes")


# --- banks ----------------------------------------------------------------------------------------


def _bank_data(bank: ActivationQParams) -> dict[str, Any]:
    return {
        "site": asdict(bank.site),
        "slots": len(bank.bits),
        "shape": list(bank.scale.shape),
        "axis": bank.axis,
        "parts": list(bank.parts),
        "dynamic": bank.dynamic,
        "symmetric": bank.symmetric,
    }


def _bank_layout(data: Mapping[str, Any], steps: int) -> Layout:
    slots, shape = data["slots"], tuple(data["shape"])
    whole = all(type(n) is int and 0 <= n <= LARGEST for n in (slots, *shape))
    if not whole or math.prod(shape) > LARGEST or not 1 <= slots <= max(1, steps) or len(shape) > 2:
        raise ValueError(f"a bank of {slots!r:.20} slots and shape {shape!r:.60}")
    made: Layout = {"bits": (torch.uint8, (slots,))}
    if data["dynamic"]:
        return made | ({"slot": (torch.uint8, (steps,))} if slots > 1 else {})
    if shape[0] != slots:
        raise ValueError(f"a bank of {slots} slots with {shape[0]} scales")
    slot = torch.uint8 if slots <= 256 else torch.int16
    return made | {
        "scale": (torch.float32, shape),
        "zero": (torch.int32, shape),
        "slot": (slot, (steps,)),
    }


def _bank(
    k: int, data: Mapping[str, Any], tensors: Mapping[str, Tensor], steps: int
) -> ActivationQParams:
    parts = {part: tensors[f"dmq.banks.{k}.{part}"].numpy() for part in _bank_layout(data, steps)}
    none = np.zeros(0, np.float32)
    scale, zero = parts.get("scale", none), parts.get("zero", none.astype(np.int32))
    slot = parts.get("slot", np.zeros(steps, np.uint8)).astype(np.int16)
    bits = parts["bits"]
    if slot.size and not 0 <= int(slot.min()) <= int(slot.max()) < len(bits):
        raise ValueError(f"dmq.banks.{k}.slot names slots that are not there")
    if not (
        np.isfinite(scale).all() and (scale > 0).all() and ((bits >= 1) & (bits <= FLOAT)).all()
    ):
        raise ValueError(f"dmq.banks.{k} has scales or bits that nothing can be computed with")
    if zero.size and (zero.min() < 0 or (zero.reshape(len(bits), -1).max(1) > 2.0**bits - 1).any()):
        raise ValueError(f"dmq.banks.{k}.zero is outside of its grid")
    made = codec.from_parts(
        ActivationQParams,
        {name: data[name] for name in ("axis", "parts", "dynamic", "symmetric")},
        site=codec.from_parts(Site, data["site"]),
        bits=bits,
        scale=scale,
        zero=zero,
        slot=slot,
    )
    channels = made.axis is not None and not made.dynamic
    if (
        made.dynamic not in ("", "token", "place", "call", "sample")
        or (scale.ndim == 2) != channels
    ):
        raise ValueError(f"dmq.banks.{k}: its ranges and its axis do not fit")
    if made.parts and (
        min(made.parts) < 1 or (scale.ndim == 2 and scale.shape[1] != len(made.parts))
    ):
        raise ValueError(f"dmq.banks.{k}: its runs of channels do not fit")
    return made


# --- layers and the time embedding ---------------------------------------------------------------------


def _row(
    data: Mapping[str, Any], specs: list[Weights], banks: list[ActivationQParams]
) -> PlannedLayer:
    told = {name: data[name] for name in ROW if name in data}
    return codec.from_parts(
        PlannedLayer,
        {"reason": ""} | told,
        layer=codec.from_parts(Layer, {f.name: data[f.name] for f in fields(Layer)}),
        weights=specs[_place(data["weights"], specs)],
        bank=None if data["bank"] is None else banks[_place(data["bank"], banks)],
    )


def _place(k: Any, among: list[Any]) -> int:
    if type(k) is not int or not 0 <= k < len(among):
        raise ValueError(f"{k!r:.40} is no place in a list of {len(among)}")
    return k


def _selection(time: TimeEmbedding) -> str:
    cache = time.spec.cache
    return "" if time.cached is None or isinstance(cache, NoCache) else cache.selection


def _time_data(time: TimeEmbedding | None) -> dict[str, Any] | None:
    if time is None:
        return None
    data = {
        "block": asdict(time.block),
        "spec": jsonio.to_data(time.spec),
        "cached": time.cached is not None,
    }
    if time.cached is None or _selection(time) != "block":
        return data
    return data | {"blocks": time.cached.all(1).tolist()}


def _time_embedding(data: Mapping[str, Any], chosen: Tensor | None) -> TimeEmbedding | None:
    """`chosen` may be missing where only names and shapes are asked for."""
    kept = data["temporal"]
    if kept is None:
        return None
    block = codec.from_parts(TemporalBlock, kept["block"])
    spec = jsonio.from_data(Temporal, kept["spec"], "temporal")
    made = TimeEmbedding(block=block, spec=spec)
    if not kept["cached"]:
        return made
    if not isinstance(spec.cache, Cache):
        raise ValueError("a cache that the recipe does not ask for")
    shape = (len(block.projections), len(data["timesteps"]))
    cached = np.ones(shape, dtype=bool)
    if spec.cache.selection == "block":
        cached &= np.array([flag is True for flag in kept["blocks"]], dtype=bool)[:, None]
    elif spec.cache.selection == "row" and chosen is not None:
        count = math.prod(shape)
        cached = (
            np.unpackbits(chosen.numpy(), count=count, bitorder="little")
            .astype(bool)
            .reshape(shape)
        )
    return TimeEmbedding(block=block, spec=spec, cached=cached)
