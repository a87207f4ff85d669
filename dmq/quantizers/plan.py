"""The recipe resolved for one model: what `resolve` says of layers and operands, with banks and
exact bytes.

Made from statistics and the model's description alone; no model is loaded here."""

from dataclasses import replace

import numpy as np
import torch

from ..errors import DmqError
from ..numerics.affine import grid
from ..recipe import (
    FLOAT,
    Activations,
    PerGroup,
    PerTensor,
    Recipe,
    Uniform,
    Weights,
)
from ..results import (
    ActivationQParams,
    ActivationStats,
    GroupErrors,
    Layer,
    ModelInfo,
    Plan,
    PlannedLayer,
    Site,
)
from .resolve import ResolvedLayer, resolve, resolve_operands
from .temporal import keep_time, time_embedding
from .weights import weight_bytes


def site_bits(info: ModelInfo, recipe: Recipe, stats: ActivationStats) -> np.ndarray:
    """The bits of every site of `stats`, [S] uint8; FLOAT for outputs of layers and whatever stays
    in float.

    Raises DmqError if `stats` are of another model, or if an override matches nothing.
    """
    _check(info, recipe, stats)
    bits = resolve_operands(info, recipe, stats.sites)
    layers = resolve(info, recipe)
    bits |= {
        site: layers[site.name].activation_bits
        for site in stats.sites
        if site.point == "input" and site.name in layers
    }
    return np.array([bits.get(site, FLOAT) for site in stats.sites], dtype=np.uint8)


def make_plan(
    info: ModelInfo,
    recipe: Recipe,
    stats: ActivationStats,
    errors: GroupErrors,
    cached: np.ndarray | None = None,
) -> Plan:
    """The plan of `recipe` for the model that `info` describes, with the ranges and groups that
    `errors` was made of.

    `cached` [K, T] bool is what a selection chose for the cache of temporal features
    (`temporal.select`). Raises DmqError if statistics and model or recipe do not fit, or if an
    override matches nothing."""
    _check(info, recipe, stats)
    operands = resolve_operands(info, recipe, stats.sites)
    resolved = resolve(info, recipe)
    rows = [_plan_layer(row, resolved[row.name], recipe, stats, errors) for row in info.layers]
    vectors = recipe.weights.bits if not recipe.protection.norms_and_biases else FLOAT
    if recipe.temporal is not None:
        time = time_embedding(info, recipe.temporal, stats.steps, cached)
        rows = keep_time(rows, time, stats, recipe.activations.symmetric)
    outside = info.parameters - sum(row.layer.num_weights + _biases(row.layer) for row in rows)
    return Plan(
        model=info.name,
        fingerprint=info.fingerprint,
        timesteps=stats.timesteps,
        unknown_timestep=recipe.unknown_timestep,
        layers=tuple(rows),
        attention=tuple(
            _bank(s, recipe, stats, errors)
            for s, site in enumerate(stats.sites)
            if operands.get(site, FLOAT) < FLOAT
        ),
        attention_sites=len(operands),
        vector_bits=vectors,
        vector_bytes=4 * (outside - sum(info.vectors))
        + sum(_vector_bytes(size, recipe) for size in info.vectors),
        float_bytes=4 * info.parameters,
        temporal=None if recipe.temporal is None else time,
        relaxed=tuple(
            np.flatnonzero((errors.bits != errors.bits.min(1, keepdims=True)).any(0)).tolist()
        ),
        relaxed_bits=recipe.relaxing.bits if recipe.relaxing else FLOAT,
        progressive=recipe.progressive is not None,
    )


def vector_format(weights: Weights, bits: int) -> Weights:
    """How 1-D parameters are quantized when they are not protected: on the uniform grid, with
    one scale each.
    """
    return replace(weights, bits=bits, granularity=PerTensor(), format=Uniform())


def _vector_bytes(size: int, recipe: Recipe) -> int:
    bits = FLOAT if recipe.protection.norms_and_biases else recipe.weights.bits
    return weight_bytes((size,), vector_format(recipe.weights, bits))


# --- banks ----------------------------------------------------------------------------------------


def _plan_layer(
    layer: Layer, made: ResolvedLayer, recipe: Recipe, stats: ActivationStats, errors: GroupErrors
) -> PlannedLayer:
    bank = None
    if made.activation_bits < FLOAT:
        s = stats.index.get((layer.name, "input"))
        if s is None:
            raise DmqError(f"{layer.name}: the statistics do not have its input. Capture again.")
        bank = _bank(s, recipe, stats, errors, made.split, pointwise=layer.pointwise)
    return PlannedLayer(
        layer=layer,
        weights=made.weights,
        activation_bits=made.activation_bits,
        reason=made.reason,
        bank=bank,
        weight_bytes=weight_bytes(layer.shape, made.weights, made.split),
        bias_bytes=_vector_bytes(_biases(layer), recipe) if layer.bias else 0,
        split=made.split,
    )


def _biases(layer: Layer) -> int:
    return layer.shape[0] if layer.bias else 0


def _bank(
    s: int,
    recipe: Recipe,
    stats: ActivationStats,
    errors: GroupErrors,
    split: int = 0,
    *,
    pointwise: bool = False,
) -> ActivationQParams:
    if recipe.activations.dynamic != "none":
        made = _dynamic_bank(s, recipe.activations, stats, errors, split)
        return replace(made, dynamic="place") if pointwise and made.dynamic == "call" else made
    site, slot = stats.sites[s], errors.groups.slot[s]
    first = [int(np.flatnonzero(slot == k)[0]) for k in range(int(slot.max()) + 1)]
    # Operands of attention have no channels that mean the same in every call: one range serves the
    # whole tensor.
    channels = (
        not isinstance(recipe.activations.granularity, PerTensor) and site.kind != "attention"
    )
    if channels:
        low, high = channel_ranges(s, recipe.activations, stats, slot)
    else:
        low, high = errors.low[s, first], errors.high[s, first]
        if split:
            low, high = split_ranges(s, stats, slot, split, low, high)
    bits = errors.bits[s, first].astype(np.uint8)
    scale, zero = slot_grid(site, low, high, bits, recipe.activations.symmetric)
    return ActivationQParams(
        site=site,
        bits=bits,
        scale=scale,
        zero=zero,
        slot=slot.astype(np.int16),
        axis=_channel_axis(site) if channels or split else None,
        parts=(split, stats.channel_min[s].shape[1] - split) if split and not channels else (),
    )


def _dynamic_bank(
    s: int, spec: Activations, stats: ActivationStats, errors: GroupErrors, split: int
) -> ActivationQParams:
    """Groups of steps mean nothing where ranges are dynamic: a slot for each number
    of bits.
    """
    site, none = stats.sites[s], np.zeros(0, np.float32)
    bits, slot = np.unique(errors.bits[s], return_inverse=True)
    return ActivationQParams(
        site=site,
        bits=bits.astype(np.uint8),
        scale=none,
        zero=none.astype(np.int32),
        slot=slot.astype(np.int16),
        axis=_channel_axis(site) if split else None,
        parts=(split, stats.channel_min[s].shape[1] - split) if split else (),
        dynamic=spec.dynamic,
        symmetric=spec.symmetric,
    )


def _channel_axis(site: Site) -> int:
    return 1 if site.kind == "conv" else -1


def slot_grid(
    site: Site, low: np.ndarray, high: np.ndarray, bits: np.ndarray, symmetric: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Scale float32 and zero int32 of the grids from `low` to `high`, [slots] or [slots, C]; `bits`
    [slots].

    Raises DmqError for a range that is not finite.
    """
    if site.point == "probs":
        low, high = np.maximum(low, 0), np.minimum(high, 1)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise DmqError(f"{site.label}: no range was seen at some of its timesteps. Capture again.")
    least, most = (torch.from_numpy(np.asarray(end, dtype=np.float32)) for end in (low, high))
    each = torch.tensor(bits.astype(np.int64)).view(-1, *[1] * (least.ndim - 1))
    scale, zero = grid(least, most, each, symmetric)
    return scale.numpy(), zero.numpy().astype(np.int32)


def channel_ranges(
    s: int, spec: Activations, stats: ActivationStats, slot: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What was seen of every channel in the steps of each slot, [slots, C]; neighbours of a
    group share theirs.
    """
    members = [slot == k for k in range(int(slot.max()) + 1)]
    low = np.stack([stats.channel_min[s][steps].min(0) for steps in members])
    high = np.stack([stats.channel_max[s][steps].max(0) for steps in members])
    if isinstance(spec.granularity, PerGroup):
        starts = np.arange(0, low.shape[1], spec.granularity.size)
        group = np.arange(low.shape[1]) // spec.granularity.size
        low = np.minimum.reduceat(low, starts, axis=1)[:, group]
        high = np.maximum.reduceat(high, starts, axis=1)[:, group]
    return low, high


def split_ranges(
    s: int, stats: ActivationStats, slot: np.ndarray, split: int, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The ranges of a site's first `split` channels and of the others, [slots, 2], from the whole's
    [slots].

    Histograms are of whole tensors, only extremes are known by channel. So each side covers what
    low..high and its own extremes have in common: together the sides clip exactly what the whole
    would, and neither has a coarser grid."""
    lows, highs = channel_ranges(s, Activations(), stats, slot)
    lows = np.minimum.reduceat(lows, [0, split], axis=1)
    highs = np.maximum.reduceat(highs, [0, split], axis=1)
    return np.maximum(lows, low[:, None]), np.minimum(highs, high[:, None])


# --- what must fit --------------------------------------------------------------------------------


def _check(info: ModelInfo, recipe: Recipe, stats: ActivationStats) -> None:
    if stats.fingerprint != info.fingerprint:
        raise DmqError(
            f"the statistics were captured from other weights of {stats.model!r} than those of "
            f"{info.name!r}. Capture again with this model."
        )
    if stats.steps != recipe.sampling.steps:
        raise DmqError(
            f"recipe.sampling.steps is {recipe.sampling.steps}, but the statistics have "
            f"{stats.steps} timesteps. Capture again with {recipe.sampling.steps} steps, or set "
            f"steps to {stats.steps}."
        )
