"""A plan in sentences and rows of a table."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from ..recipe import FLOAT, Cache, Tiar, Uniform, format_name
from ..results import ActivationQParams, Plan, PlannedLayer, TimeEmbedding


MAX_NAMES = 4  # float layers that a sentence names before it counts them


def describe_plan(plan: Plan) -> str:
    """What is quantized to what, and everything that stays in float, in one sentence."""
    formats = Counter(row.format for row in plan.layers if row.format != "float").most_common()
    counts = [f"{n} of {len(plan.layers)} layers {name}" for name, n in formats[:1]]
    counts += [f"{n} {name}" for name, n in formats[1:]]
    if plan.attention:
        bits = _bit_names(plan.attention)
        counts.append(f"{len(plan.attention)} of {plan.attention_sites} attention operands {bits}")
    split = sum(row.split > 0 for row in plan.layers)
    unsmoothed = sum(row.unsmoothed for row in plan.layers)
    blocks = sum(row.learned == "block" for row in plan.layers)
    parts = (
        (", ".join(counts) or "nothing quantized", True),
        (f"float: {describe_float(plan)}", True),
        (plan.temporal and f"time embedding: {describe_time_embedding(plan.temporal)}", True),
        (f"shortcut split in {split} layers", split),
        (
            f"low rank without smoothing in {unsmoothed} layers, whose ranges are calibrated",
            unsmoothed,
        ),
        (f"rounding of {blocks} layers learned block by block", blocks),
        (f"step sizes of {plan.step_sizes} activations learned", plan.step_sizes),
        ("ranges from the quantized trajectory", plan.progressive),
        (describe_dynamic(plan), True),
        (describe_relaxed(plan), True),
    )
    return "; ".join(text for text, holds in parts if text and holds)


def describe_float(plan: Plan) -> str:
    """What stays in float: some layers by name, then how many more, attention, 1-D parameters."""
    rows = [row for row in plan.layers if row.format == "float"]
    left = [f"{row.layer.name} ({row.reason})" for row in rows[:MAX_NAMES]]
    left += [f"{len(rows) - MAX_NAMES} more layers"] if len(rows) > MAX_NAMES else []
    if len(plan.attention) < plan.attention_sites:
        left.append(f"{plan.attention_sites - len(plan.attention)} attention operands")
    left += ["1-D parameters"] if plan.vector_bits == FLOAT else []
    return ", ".join(left) or "nothing"


def describe_dynamic(plan: Plan) -> str:
    """Which activations have dynamic ranges: "activations A8 dynamic per token"; "" if none has."""
    banks = [
        bank for bank in (*(row.bank for row in plan.layers), *plan.attention) if bank and bank.per
    ]
    if not banks:
        return ""
    named = {bank.per: range_unit(bank) for bank in banks}
    first, *others = [per for per in ("token", "sample", "call", "place") if per in named]
    where = {"place": "those of 1 x 1"}
    but = ", ".join(f"per {named[per]} in {where.get(per, 'convolutions')}" for per in others)
    return f"activations {_bit_names(banks)} dynamic per {named[first]}{f' ({but})' * bool(but)}"


def describe_relaxed(plan: Plan) -> str:
    """Which steps have more activation bits: "10 of 50 steps (40 to 49) with 10-bit activations"."""
    if not plan.relaxed:
        return ""
    first, last = plan.relaxed[0], plan.relaxed[-1]
    run = last - first + 1 == len(plan.relaxed)
    which = f"{first} to {last}" if run else ", ".join(map(str, plan.relaxed))
    return (
        f"{len(plan.relaxed)} of {len(plan.timesteps)} steps ({which}) with "
        f"{plan.relaxed_bits}-bit activations"
    )


def describe_time_embedding(time: TimeEmbedding) -> str:
    """How the time embedding is kept, in one sentence."""
    spec, parts = time.spec, [f"{len(time.block.layers)} layers"]
    if isinstance(spec.rounding, Tiar):
        parts.append(f"rounding learned (TIAR, {spec.rounding.iterations} iterations)")
    if spec.fsc != "none":
        parts.append("ranges per step " + ("here" if spec.fsc == "tib" else "for all activations"))
    if isinstance(spec.cache, Cache) and time.cached is not None:
        kind = "half-precision" if spec.cache.bits == 16 else f"{spec.cache.bits}-bit"
        built = ""
        if time.per_request:
            enters = ", ".join(time.block.depends[1:])
            built = f", built per request since {enters} enters, from the float time embedding"
        parts.append(
            f"{kind} cache of {int(time.cached.sum())} of {time.cached.size} features{built} "
            f"({time.cache_bytes} bytes{' each' * time.per_request})"
        )
    return ", ".join(parts)


def range_unit(bank: ActivationQParams) -> str:
    """What gets a range at run time: "token", "sample", "call", "pixel of the call"; "" if none."""
    return {"place": "pixel of the call"}.get(bank.per, bank.per)


def plan_rows(plan: Plan) -> list[dict[str, str | int]]:
    """A row for each layer, the cache, and each quantized attention operand: bits, rounding, reason,
    bytes.
    """
    first = {row.bank.site: row.layer.name for row in reversed(plan.layers) if row.bank}
    rows = []
    for row in plan.layers:
        bank = row.bank if row.bank and first[row.bank.site] == row.layer.name else None
        rows.append(
            _row(
                row.layer.name,
                row.layer.kind,
                row.weight_bytes + row.bias_bytes + (bank.bytes if bank else 0),
                block=row.layer.block,
                weights="cached" if row.dropped else _weight_bits(row),
                activations="cached" if row.dropped else _activation_bits(row),
                groups=len(row.bank.bits) if row.bank else 0,
                rounding=row.rounding,
                reason=row.reason,
            )
        )
    if plan.cache_bytes:
        rows.append(_row("cache of temporal features", "cache", plan.cache_bytes))
    return rows + [
        _row(
            bank.site.label,
            "attention",
            bank.bytes,
            block=bank.site.block,
            activations=_bank_bits(bank),
            groups=len(bank.bits),
        )
        for bank in plan.attention
    ]


def _row(layer: str, kind: str, size: int, **more: Any) -> dict[str, str | int]:
    texts = dict.fromkeys(("block", "weights", "activations", "groups", "rounding", "reason"), "")
    return {"layer": layer, "kind": kind} | texts | {"groups": 0} | more | {"bytes": size}


def _bit_names(banks: Iterable[ActivationQParams]) -> str:
    """Such as "A8/A10"."""
    return "/".join(f"A{b}" for b in sorted({int(b) for bank in banks for b in bank.bits}))


def _bits(bits: int) -> str:
    return "float" if bits == FLOAT else f"{bits} bit"


def _weight_bits(row: PlannedLayer) -> str:
    """Such as "8 bit", or "KMC-4" off the uniform grid."""
    uniform = isinstance(row.weights.format, Uniform)
    return _bits(row.weights.bits) if uniform else format_name(row.weights)


def _activation_bits(row: PlannedLayer) -> str:
    return _bits(row.activation_bits) if row.bank is None else _bank_bits(row.bank)


def _bank_bits(bank: ActivationQParams) -> str:
    """Such as "8 bit", "8 and 10 bit" where some steps have more, or "8 bit per token" where ranges
    are dynamic.
    """
    per = f" per {range_unit(bank)}" if bank.per else ""
    return f"{' and '.join(map(str, sorted(set(bank.bits.tolist()))))} bit{per}"
