"""What only reads finished statistics: each layer's own error under any partition of the steps."""

from dataclasses import dataclass
from functools import lru_cache, singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import runs
from ..recipe import LearnedGroups, PerStep, Recipe
from ..results import GroupErrors
from .known import info, statistics
from .searches import find_search, search_changed, search_result


if TYPE_CHECKING:
    from ..trajectory.errors import ErrorTable


def table(recipe: Recipe) -> "ErrorTable":
    """The error table of `recipe`'s activations: made once per choice of bits and range, cheap to ask after that."""
    from ..calibration.selection import step_counts
    from ..quantizers.plan import site_bits

    stats = statistics(recipe)
    bits = site_bits(info(recipe.model), recipe, stats)
    counts = step_counts(recipe.calibration_steps, stats.steps, lambda: search_result(recipe))
    which = runs.find_capture(recipe), stats.fingerprint, recipe.activations
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
    _folder: Path, _fingerprint: str, activations: Any, bits: tuple[int, ...], counts: tuple[int, ...], held: Held
) -> "ErrorTable":
    from ..trajectory.errors import ErrorTable

    return ErrorTable(held.value, activations, np.array(bits), np.array(counts, float))


def errors(recipe: Recipe) -> GroupErrors:
    """The activations' quantization error under `recipe`'s partition, per site and step, without running a model."""
    everything_per_step = recipe.temporal is not None and recipe.temporal.fsc == "all"
    return _partitioned(PerStep() if everything_per_step else recipe.grouping, recipe)


@singledispatch
def _partitioned(grouping: Any, recipe: Recipe) -> GroupErrors:
    """The errors under `recipe`'s grouping, which is `grouping`."""
    return _errors(table(recipe), grouping)


@_partitioned.register
def _learned(grouping: LearnedGroups, recipe: Recipe) -> GroupErrors:
    """Groups and ranges are those of the search; nothing is chosen anew."""
    result = search_result(recipe)
    return _learned_errors(table(recipe), find_search(recipe), search_changed(find_search(recipe)), Held(result))


@lru_cache(maxsize=8)
def _learned_errors(made: "ErrorTable", _folder: Path, search_changed: int, held: Held) -> GroupErrors:
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
