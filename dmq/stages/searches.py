"""Searches for groups of timesteps (ADP-DM) as a recipe asks for them."""

import dataclasses
from collections.abc import Callable, Generator

from ..artifacts import GroupSearch, store
from ..artifacts.calls import denoiser_calls, recorded_calls
from ..errors import DmqError
from ..progress import Progress
from ..recipe import ActiveSteps, LearnedGroups, MseSearch, Recipe
from ..results import SearchResult
from .capturing import capture
from .known import info, statistics


__all__ = [
    "denoiser_calls",
    "group_search",
    "recorded_calls",
    "search",
    "search_result",
    "search_spec",
    "searched",
]


def search_spec(recipe: Recipe) -> LearnedGroups | None:
    """The search that `recipe` stands on, by its groups or by its choice of calibration steps; None
    if on none.

    ActiveSteps say how steps are scored, whatever the groups say.
    """
    grouping, chosen = recipe.grouping, recipe.calibration_steps
    spec = grouping if isinstance(grouping, LearnedGroups) else None
    if isinstance(chosen, ActiveSteps):
        return dataclasses.replace(spec or LearnedGroups(), score=chosen.score, mmd=chosen.mmd)
    return spec


def group_search(recipe: Recipe) -> GroupSearch | None:
    """The search that `recipe` stands on; None if on none."""
    spec = search_spec(recipe)
    if spec is None:
        return None
    return GroupSearch(
        recipe=Recipe(
            model=recipe.model,
            sampling=recipe.sampling,
            calibration=recipe.calibration,
            weights=recipe.weights,
            # Learned ranges take the place of any.
            activations=dataclasses.replace(recipe.activations, range=MseSearch()),
            protection=recipe.protection,
            overrides=recipe.overrides,
        ),
        spec=spec,
        fingerprint=info(recipe.model).fingerprint,
    )


def searched(recipe: Recipe) -> bool:
    """Is what `recipe` must know of a search there? True if it needs none."""
    question = group_search(recipe)
    return question is None or store.find(question) is not None


def search_result(recipe: Recipe) -> SearchResult:
    """What the search that `recipe` stands on has found.

    Raises DmqError if it was not run yet, or with another sampler than the statistics.
    """
    result, stats = store.value(group_search(recipe)), statistics(recipe)
    for name in ("sampler", "timesteps"):
        ours, theirs = getattr(result, name), getattr(stats, name)
        if ours != theirs:
            raise DmqError(
                f"the search was run with {name} {ours}, the capture with {theirs}. Search again."
            )
    return result


def search(
    recipe: Recipe, *, again: bool = False, enough: Callable[[], bool] = lambda: False
) -> Generator[Progress, None, SearchResult]:
    """Learn the groups that `recipe` stands on (ADP-DM); each Progress has a
    `results.SearchSnapshot`.

    Does nothing if that was done already, unless `again`. Once `enough()`, what is there by then is
    finished and kept. Closing the generator leaves no trace. Raises DmqError if the recipe needs no
    search."""
    question = group_search(recipe)
    if question is None:
        raise DmqError(
            "nothing to search: set grouping to LearnedGroups, or calibration_steps to ActiveSteps."
        )
    if again or not searched(recipe):
        yield from capture(recipe)
        yield from store.get(question, again=again, enough=enough)
    return search_result(recipe)
