"""Each layer's own error under any partition of the steps, from statistics alone."""

from collections.abc import Generator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..recipe import FLOAT, Activations, LearnedGroups, PerStep
from ..results import (
    ActivationStats,
    GroupErrors,
    ProgressiveRanges,
    SearchResult,
    WindowEffects,
)
from ..store.artifact import compute
from .model_info import get_info
from .of_recipe import is_per_step
from .questions import ActivationErrors, RelaxedSteps, SiteErrors


if TYPE_CHECKING:
    from ..trajectory.errors import ErrorTable

Steps = tuple[int, ...]


@compute.register(RelaxedSteps)
def _(
    question: RelaxedSteps, partial: Path, windows: WindowEffects | None = None
) -> Generator[Any, None, Steps]:
    yield from ()
    from ..trajectory.relaxing import choose_relaxed_steps

    spec = question.recipe.relaxing
    return (
        () if spec is None else choose_relaxed_steps(spec, question.recipe.sampling.steps, windows)
    )


@compute.register(SiteErrors)
def _(
    question: SiteErrors,
    partial: Path,
    statistics: ActivationStats,
    ranges: ProgressiveRanges | None = None,
    search: SearchResult | None = None,
) -> Generator[Any, None, "ErrorTable"]:
    yield from ()
    from ..calibration.selection import step_counts
    from ..quantizers.plan import site_bits

    recipe, seen = question.recipe, ranges.stats if ranges else statistics
    bits = site_bits(get_info(recipe.model), recipe, seen)
    bits = np.where(bits < FLOAT, np.maximum(bits, question.least), bits)
    counts = step_counts(recipe.calibration_steps, seen.steps, search)
    # What is shown where ranges are dynamic: calibrated ones.
    calibrated = replace(recipe.activations, dynamic="none")
    return _error_table(seen, calibrated, tuple(bits.tolist()), tuple(counts.tolist()))


@lru_cache(maxsize=6)  # recipes that differ in groups alone share it
def _error_table(
    stats: ActivationStats, activations: Activations, bits: Steps, counts: Steps
) -> "ErrorTable":
    from ..trajectory.errors import ErrorTable

    return ErrorTable(stats, activations, np.array(bits), np.array(counts, float))


@compute.register(ActivationErrors)
def _(
    question: ActivationErrors,
    partial: Path,
    table: "ErrorTable",
    base: GroupErrors | None = None,
    search: SearchResult | None = None,
    ranges: ProgressiveRanges | None = None,
    relaxed: Steps = (),
    wide: "ErrorTable | None" = None,
) -> Generator[Any, None, GroupErrors]:
    yield from ()
    recipe = question.recipe
    if base is None or not (relaxed or ranges):
        grouping = PerStep() if is_per_step(recipe) else recipe.grouping
        return base or _group(table, grouping, search)
    learned = isinstance(recipe.grouping, LearnedGroups)
    return _along(table, wide if relaxed else None, relaxed, base, ranges, learned)


@lru_cache(maxsize=32)
def _group(table: "ErrorTable", grouping: Any, search: SearchResult | None) -> GroupErrors:
    from ..trajectory.grouping import group_timesteps
    from ..trajectory.search import measure_learned_groups

    # Groups and ranges are those of the search; nothing is chosen anew.
    return (
        measure_learned_groups(search, table)
        if search
        else table.errors(group_timesteps(grouping, table))
    )


@lru_cache(maxsize=16)
def _along(
    usual: "ErrorTable",
    wide: "ErrorTable | None",
    relaxed: Steps,
    base: GroupErrors,
    ranges: ProgressiveRanges | None,
    learned: bool,
) -> GroupErrors:
    """Errors with some steps relaxed, with ranges set along the quantized trajectory, or both.

    The partition is cut where the number of bits changes; ranges that were learned stay."""
    from ..trajectory.relaxing import combine_errors, split_groups

    groups = split_groups(base.groups, relaxed)

    def choose(table: "ErrorTable") -> GroupErrors:
        if ranges is not None:
            return table.errors_of(groups, ranges.low, ranges.high)
        if learned and table is usual:
            return table.errors_of(groups, base.low, base.high)
        return table.errors(groups)

    return combine_errors(choose(usual), choose(wide), relaxed) if wide else choose(usual)
