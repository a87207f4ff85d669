"""What only reads finished statistics: each layer's own error under any partition of the steps."""

from dataclasses import dataclass, replace
from functools import lru_cache, singledispatch
from typing import TYPE_CHECKING, Any

import numpy as np

from ..artifacts import Capture, store
from ..recipe import FLOAT, LearnedGroups, PerStep, Recipe
from ..results import GroupErrors
from .known import info
from .searches import group_search, search_result
from .trajectory_ranges import (
    plain,
    progressive_of,
    progressive_ranges,
    relaxed,
    seen_statistics,
)


if TYPE_CHECKING:
    from ..trajectory.errors import ErrorTable


def table(recipe: Recipe) -> "ErrorTable":
    """The error table of `recipe`'s activations: made once per choice of bits and range, cheap
    to ask after that.
    """
    return _table_with(recipe, 0)


def _table_with(recipe: Recipe, least: int) -> "ErrorTable":
    """The error table with at least `least` bits wherever anything is quantized."""
    from ..calibration.selection import step_counts
    from ..quantizers.plan import site_bits

    stats = seen_statistics(recipe)
    bits = site_bits(info(recipe.model), recipe, stats)
    bits = np.where(bits < FLOAT, np.maximum(bits, least), bits)
    counts = step_counts(recipe.calibration_steps, stats.steps, lambda: search_result(recipe))
    source = store.stamp(progressive_of(recipe) or Capture.of(recipe))
    calibrated = replace(
        recipe.activations, dynamic="none"
    )  # what is shown where ranges are dynamic
    which = source, stats.fingerprint, calibrated
    return _table(*which, tuple(bits.tolist()), tuple(counts.tolist()), Held(stats))


@dataclass(frozen=True)
class Held:
    """Carries what was loaded past a cache's key: the key already names its folder."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=6)
def _table(
    _source: tuple,
    _fingerprint: str,
    activations: Any,
    bits: tuple[int, ...],
    counts: tuple[int, ...],
    held: Held,
) -> "ErrorTable":
    from ..trajectory.errors import ErrorTable

    return ErrorTable(held.value, activations, np.array(bits), np.array(counts, float))


def errors(recipe: Recipe) -> GroupErrors:
    """The activations' quantization error under `recipe`'s partition, per site and step, without
    running a model.

    Statistics know nothing of ranges that are dynamic; shown is then what calibrated
    ones would do. Raises DmqError if something that it stands on was not captured, searched,
    measured or calibrated yet."""
    everything_per_step = recipe.temporal is not None and recipe.temporal.fsc == "all"
    chosen = relaxed(recipe)
    if not chosen and recipe.progressive is None:
        return _partitioned(PerStep() if everything_per_step else recipe.grouping, recipe)
    wide = _table_with(recipe, recipe.relaxing.bits) if chosen else None
    # The partition is the one that the float trajectory has led to, cut where the number of bits
    # changes.
    base, ranges = errors(plain(recipe)), progressive_ranges(recipe)
    learned = group_search(recipe) if isinstance(recipe.grouping, LearnedGroups) else None
    partition = recipe.grouping, everything_per_step, learned and store.stamp(learned)
    return _along(table(recipe), wide, chosen, partition, Held((base, ranges)))


@lru_cache(maxsize=16)
def _along(
    usual: "ErrorTable",
    wide: "ErrorTable | None",
    chosen: tuple[int, ...],
    partition: tuple,
    held: Held,
) -> GroupErrors:
    """Errors with some steps relaxed, with ranges set along the quantized trajectory, or both."""
    from ..trajectory.relaxing import relaxed_errors, split

    base, ranges = held.value
    groups = split(base.groups, chosen)
    if ranges is not None:
        made = [made and made.errors_of(groups, ranges.low, ranges.high) for made in (usual, wide)]
    else:
        learned = isinstance(partition[0], LearnedGroups)  # such ranges are not chosen anew
        kept = usual.errors_of(groups, base.low, base.high) if learned else usual.errors(groups)
        made = [kept, wide and wide.errors(groups)]
    return relaxed_errors(made[0], made[1], chosen) if chosen else made[0]


@singledispatch
def _partitioned(grouping: Any, recipe: Recipe) -> GroupErrors:
    """The errors under `recipe`'s grouping, which is `grouping`."""
    return _errors(table(recipe), grouping)


@_partitioned.register
def _learned(grouping: LearnedGroups, recipe: Recipe) -> GroupErrors:
    """Groups and ranges are those of the search; nothing is chosen anew."""
    result = search_result(recipe)
    return _learned_errors(table(recipe), store.stamp(group_search(recipe)), Held(result))


@lru_cache(maxsize=8)
def _learned_errors(made: "ErrorTable", _searched: tuple, held: Held) -> GroupErrors:
    from ..trajectory.search import learned_errors

    return learned_errors(held.value, made)


@lru_cache(maxsize=32)
def _errors(made: "ErrorTable", grouping: Any) -> GroupErrors:
    from ..trajectory.grouping import group_timesteps

    return made.errors(group_timesteps(grouping, made))


def error_curves(recipe: Recipe, counts: tuple[int, ...]) -> dict[str, list[float]]:
    """Total relative error against the number of groups, for uniform and for optimal cuts."""
    return _curves(table(recipe), counts)


@lru_cache(maxsize=8)
def _curves(made: "ErrorTable", counts: tuple[int, ...]) -> dict[str, list[float]]:
    from ..trajectory.grouping import error_against_count

    return error_against_count(made, counts)
