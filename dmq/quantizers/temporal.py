"""How the time embedding is kept: ranges per step (FSC), a cache of its features, and the choice between
the two.

Decided from statistics and errors alone; what is decided becomes modules in `cache` and `apply`.
"""

from dataclasses import replace

import numpy as np
import torch

from ..errors import DmqError
from ..numerics.affine import grid
from ..recipe import FLOAT, Cache, Temporal
from ..results import (
    ActivationQParams,
    ActivationStats,
    ModelInfo,
    Plan,
    PlannedLayer,
    TemporalBlock,
    TimeEmbedding,
)
from .resolve import temporal_block


def time_embedding(
    info: ModelInfo, spec: Temporal, steps: int, cached: np.ndarray | None = None
) -> TimeEmbedding:
    """The decision for the time embedding as a whole; `cached` [K, T] is what a selection chose.

    Raises DmqError if the model has no temporal block, or if a selection is asked for where a cache
    can only be built per request."""
    block = temporal_block(info)
    if not isinstance(spec.cache, Cache):
        return TimeEmbedding(block=block, spec=spec)
    if spec.cache.selection != "none" and not block.finite:
        raise DmqError(
            f"recipe.temporal.cache.selection is {spec.cache.selection!r}, but the features depend "
            f"on {', '.join(block.depends)}, so that the cache is built per request. Set selection "
            "to 'none'."
        )
    if spec.cache.selection == "none":
        cached = np.ones((len(block.projections), steps), dtype=bool)
    if cached is None:
        raise ValueError(
            "a selection needs the errors of the time embedding and the cache first, see select()"
        )
    return TimeEmbedding(block=block, spec=spec, cached=cached)


def keep_time(
    rows: list[PlannedLayer], time: TimeEmbedding, stats: ActivationStats, symmetric: bool
) -> list[PlannedLayer]:
    """The layers of a plan after the decision for the time embedding: banks per step, layers that a
    cache replaces.
    """
    if time.spec.fsc != "none":
        rows = _with_step_banks(rows, time.block, stats, symmetric)
    if time.per_request:
        why = "builds the cache of a request"
        return [_in_float(row, why) if row.layer.name in time.block.layers else row for row in rows]
    gone = find_dropped(time)
    return [_drop_layer(row) if row.layer.name in gone else row for row in rows]


def find_dropped(time: TimeEmbedding) -> frozenset[str]:
    """Names of the layers that nothing needs any more: g_k where all its steps are cached, h if
    all of all are.
    """
    if time.cached is None or time.per_request:
        return frozenset()
    whole_features: np.ndarray = np.all(time.cached, axis=1)
    if whole_features.all():
        return frozenset(time.block.layers)
    pairs = zip(time.block.projections, whole_features, strict=True)
    return frozenset(p.name for p, whole in pairs if whole and p.name not in time.block.embeddings)


def select(
    computed: np.ndarray, stored: np.ndarray, granularity: str, block: TemporalBlock
) -> np.ndarray:
    """Which features come from the cache, [K, T] bool: those whose error is smaller there.

    `computed` and `stored` [K, T] are relative squared errors of the time embedding and of the cache. By
    "row" each feature is chosen by itself; by "block" all steps of a projection go where the mean
    over the steps is smaller. Source: tfm, "Disturbance-aware selection" (derived; the published
    rule is not known)."""
    if granularity == "block":
        cached = np.repeat((stored.mean(1) < computed.mean(1))[:, None], computed.shape[1], 1)
    else:
        cached = stored < computed
    # An embedding that is read as it is also feeds the others: it is cached only where nothing is
    # computed from it.
    for k, projection in enumerate(block.projections):
        if projection.name in block.embeddings:
            fed = [
                j
                for j, other in enumerate(block.projections)
                if other.source == projection.source and j != k
            ]
            cached[k] &= cached[fed].all(0)
    return cached


def time_embedding_only(plan: Plan) -> Plan:
    """`plan` with everything outside of the time embedding in float, and without a cache: what the
    time embedding alone does.
    """
    assert plan.temporal is not None
    inside = set(plan.temporal.block.layers)
    rows = tuple(
        row if row.layer.name in inside else _in_float(row, "time embedding only")
        for row in plan.layers
    )
    return replace(
        plan,
        layers=rows,
        attention=(),
        vector_bits=FLOAT,
        temporal=replace(plan.temporal, cached=None),
    )


def _in_float(row: PlannedLayer, why: str) -> PlannedLayer:
    return replace(
        row,
        weights=replace(row.weights, bits=FLOAT),
        activation_bits=FLOAT,
        reason=why,
        bank=None,
        weight_bytes=4 * row.layer.num_weights,
    )


def _drop_layer(row: PlannedLayer) -> PlannedLayer:
    return replace(row, dropped=True, reason="", bank=None, weight_bytes=0, bias_bytes=0)


# --- ranges per step ------------------------------------------------------------------------------


def _with_step_banks(
    rows: list[PlannedLayer], block: TemporalBlock, stats: ActivationStats, symmetric: bool
) -> list[PlannedLayer]:
    """A range per step for the inputs of the block's layers, exactly what was seen: at a t it is a
    single vector.

    All projections of an embedding read the same vector, so those of equal bits share one bank.
    """
    shared = {
        p.name: (p.source, p.activation is None)
        for p in block.projections
        if p.name not in block.embeddings
    }
    made: dict[tuple, ActivationQParams] = {}
    kept = []
    for row in rows:
        if row.layer.name in block.layers and row.bank is not None:
            key = (shared.get(row.layer.name, row.layer.name), row.activation_bits)
            if key not in made:
                made[key] = _step_bank(row.bank, stats, symmetric)
            row = replace(row, bank=made[key])
        kept.append(row)
    return kept


def _step_bank(
    bank: ActivationQParams, stats: ActivationStats, symmetric: bool
) -> ActivationQParams:
    s, bits = stats.index[bank.site.name, bank.site.point], bank.bits[bank.slot]
    low, high = (torch.tensor(end[s]) for end in (stats.minimum, stats.maximum))
    scale, zero = grid(low, high, torch.tensor(bits.astype(np.int64)), symmetric)
    return ActivationQParams(
        site=bank.site,
        bits=bits,
        scale=scale.numpy(),
        zero=zero.numpy().astype(np.int32),
        slot=np.arange(stats.steps, dtype=np.int16),
    )
