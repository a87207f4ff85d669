"""How far the temporal features are from the float ones, and what a cache of them would do.

Features are [T, R, C] for each projection: T steps in sampling order, R rows of conditioning (1
where t is all)."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ..models.adapter import AbstractAdapter
from ..models.temporal import temporal_features, timestep_rows
from ..numerics.threads import one_thread
from ..quantizers.apply import quantize_model
from ..quantizers.cache import FeatureTable
from ..quantizers.codes import WeightCodes
from ..quantizers.temporal import select, time_embedding_only
from ..recipe import Cache, Temporal
from ..results import ActivationStats, Plan, TemporalBlock, TemporalErrors, cache_bytes


CACHE_BITS = range(4, 17)


def cosines(made: Tensor, wanted: Tensor) -> np.ndarray:
    """Of every feature with its float one, the worst over the rows of conditioning; [T, R, C]
    twice to [T].
    """
    return (
        torch.nn.functional.cosine_similarity(made.double(), wanted.double(), dim=-1)
        .amin(1)
        .float()
        .numpy()
    )


def relative_errors(made: Tensor, wanted: Tensor) -> np.ndarray:
    """Squared error over squared length, mean over the rows of conditioning; [T, R, C] twice to
    [T].
    """
    error, power = (x.double().square().sum(-1) for x in (made - wanted, wanted))
    return (error / power.clamp(min=1e-30)).mean(1).float().numpy()


def shifts(made: Tensor, wanted: Tensor) -> np.ndarray:
    """At which step the float feature nearest by angle is, minus the step, the largest over the
    rows; [T] int32.

    Source: tfm, "information mismatch", with the sign of "the model believes to be this much
    later".

    >>> shifts(torch.eye(3)[[1, 1, 2], None], torch.eye(3)[:, None]).tolist()
    [1, 0, 0]
    """
    unit = torch.nn.functional.normalize(wanted.double(), dim=-1)
    near = torch.einsum("irc,jrc->rij", torch.nn.functional.normalize(made.double(), dim=-1), unit)
    # Rounding must not make of two equal steps the wrong one: the step itself wins unless another
    # is really nearer.
    near += 1e-12 * torch.eye(len(made))
    moved = near.argmax(-1) - torch.arange(len(made))
    worst = moved.abs().argmax(0, keepdim=True)
    return moved.gather(0, worst)[0].int().numpy()


@torch.no_grad()
def step_features(
    model: nn.Module,
    adapter: AbstractAdapter,
    block: TemporalBlock,
    timesteps: tuple[float, ...],
    given: Mapping[str, Tensor],
) -> list[Tensor]:
    """The features of `model` at every step for the rows of `given`, [T, R, C_k] for each
    projection, on the CPU.

    A quantized model has its clock set, so that each step is computed with the grids that it has
    when sampling."""
    clock = vars(model).get("clock")
    rows = max([len(x) for x in given.values()], default=1)
    made = []
    for t in timesteps:
        if clock is not None:
            clock.set(t)
        made.append(
            temporal_features(model, adapter, block, timestep_rows([t]).repeat(rows), given)
        )
    return [torch.stack(feature).cpu() for feature in zip(*made, strict=True)]


def cached_features(features: Tensor, bits: int) -> Tensor:
    """What a cache of `bits` makes of [T, R, C] float features, each row with a scale of its
    own.
    """
    table = FeatureTable(features.flatten(0, 1), bits)
    return table(torch.arange(len(table.codes))).reshape(features.shape)


def measure_time_embedding(
    model: nn.Module,
    adapter: AbstractAdapter,
    before: Plan,
    computed: Plan,
    stats: ActivationStats,
    given: Mapping[str, Tensor],
    learned: Mapping[str, WeightCodes],
    losses: np.ndarray,
    note: str = "",
) -> TemporalErrors:
    """The temporal features under two plans of the float `model`, and under the cache that the
    recipe asks for.

    `before` treats the time embedding as all other layers, `computed` has its ranges per step and the
    codes `learned`; neither has a cache, the recipe's spec is that of `computed`. `given` [R, ...]
    is what enters beside t."""
    assert computed.temporal is not None
    block, spec = computed.temporal.block, computed.temporal.spec
    ask = adapter, block, computed.timesteps, given
    with one_thread():
        wanted = step_features(model, *ask)
        plain = step_features(quantize_model(model, time_embedding_only(before), adapter), *ask)
        ours = step_features(
            quantize_model(model, time_embedding_only(computed), adapter, learned), *ask
        )
        tables = {bits: [cached_features(x, bits) for x in wanted] for bits in CACHE_BITS}
    errors = {bits: _each(relative_errors, made, wanted) for bits, made in tables.items()}
    error_computed = _each(relative_errors, ours, wanted)
    cached, stored = _from_cache(spec, error_computed, errors, block)
    final = ours
    if isinstance(spec.cache, Cache):
        table = tables[spec.cache.bits]
        final = [_mix(row, ours[k], table[k]) for k, row in enumerate(cached)]
    # Modules that only hold weights for others, such as the projections of Hunyuan-DiT's pooler,
    # see nothing.
    inputs = tuple(name for name in _distinct_inputs(block) if (name, "input") in stats.index)
    rows = [stats.index[name, "input"] for name in inputs]
    inside = [row for row in computed.layers if row.layer.name in block.layers]
    return TemporalErrors(
        block=block,
        timesteps=computed.timesteps,
        conditionings=wanted[0].shape[1],
        cosine_before=_each(cosines, plain, wanted),
        cosine_computed=_each(cosines, ours, wanted),
        cosine_after=_each(cosines, final, wanted),
        shift_before=_each(shifts, plain, wanted),
        shift_after=_each(shifts, final, wanted),
        error_before=_each(relative_errors, plain, wanted),
        error_computed=error_computed,
        error_cached=stored,
        cached=cached,
        inputs=inputs,
        low=stats.minimum[rows],
        high=stats.maximum[rows],
        cache_bits=np.array(CACHE_BITS),
        cache_errors=np.stack(list(errors.values())),
        cache_sizes=np.array(
            [_cache_size(block, len(computed.timesteps), bits) for bits in CACHE_BITS]
        ),
        computed_bytes=sum(row.weight_bytes + row.bias_bytes for row in inside)
        + sum({row.bank.site: row.bank.bytes for row in inside if row.bank}.values()),
        vectors=_first(wanted),
        vectors_before=_first(plain),
        vectors_after=_first(final),
        losses=losses,
        note=note,
    )


def _from_cache(
    spec: Temporal, computed: np.ndarray, errors: Mapping[int, np.ndarray], block: TemporalBlock
) -> tuple[np.ndarray, np.ndarray]:
    """Which features come from the cache, and their errors there (nan without one), both [K, T]."""
    if not isinstance(spec.cache, Cache):
        return np.zeros(computed.shape, dtype=bool), np.full(computed.shape, np.nan, np.float32)
    stored = errors[spec.cache.bits]
    if spec.cache.selection == "none":
        return np.ones(computed.shape, dtype=bool), stored
    return select(computed, stored, spec.cache.selection, block), stored


def _each(
    of: Callable[[Tensor, Tensor], np.ndarray], made: list[Tensor], wanted: list[Tensor]
) -> np.ndarray:
    return np.stack([of(a, b) for a, b in zip(made, wanted, strict=True)])


def _mix(row: np.ndarray, computed: Tensor, cached: Tensor) -> Tensor:
    return torch.where(torch.from_numpy(row)[:, None, None], cached, computed)


def _first(features: list[Tensor]) -> tuple[np.ndarray, ...]:
    return tuple(x[:, 0].numpy() for x in features)


def _cache_size(block: TemporalBlock, steps: int, bits: int) -> int:
    return sum(cache_bytes(steps, projection.width, bits) for projection in block.projections)


def _distinct_inputs(block: TemporalBlock) -> tuple[str, ...]:
    """The layers of h, and one projection for each embedding: all others read the same vectors."""
    ends = {p.name: p.source for p in block.projections if p.name not in block.embeddings}
    first = {source: name for name, source in reversed(ends.items())}
    return tuple(name for name in block.layers if name not in ends or first[ends[name]] == name)
