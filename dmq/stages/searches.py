"""Searches for groups of timesteps (ADP-DM): run, kept, found again."""

import dataclasses
from collections.abc import Callable, Generator
from functools import lru_cache
from pathlib import Path

from .. import runs
from ..errors import DmqError
from ..models.libraries import load
from ..progress import Progress, progress_timer, relay
from ..recipe import ActiveSteps, LearnedGroups, Recipe
from ..results import SearchResult, SearchSnapshot, Trajectory
from .capturing import capture
from .known import info, statistics


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


def searched(recipe: Recipe) -> bool:
    """Is what `recipe` must know of a search there? True if it needs none."""
    return search_spec(recipe) is None or find_search(recipe) is not None


def search_result(recipe: Recipe) -> SearchResult:
    """What the search that `recipe` stands on has found.

    Raises DmqError if it was not run yet, or with another sampler than the statistics.
    """
    folder = find_search(recipe)
    if folder is None:
        raise DmqError(
            f"no groups were learned yet for {recipe.model} with this recipe. Run the search "
            "first: press Search, or run `dmq search`."
        )
    result, stats = _load_search(folder, search_changed(folder)), statistics(recipe)
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
    spec = search_spec(recipe)
    if spec is None:
        raise DmqError(
            "nothing to search: set grouping to LearnedGroups, or calibration_steps to ActiveSteps."
        )
    if searched(recipe) and not again:
        return search_result(recipe)
    yield from capture(recipe)
    yield Progress("Load the model", 0, 1)
    from ..calibration.active import search_groups

    work = search_groups(
        load(recipe.model),
        recipe,
        spec,
        statistics(recipe),
        enough=enough,
        trajectory=recorded_calls(recipe, spec.trajectories),
    )
    at: dict[str, Callable[[int, int], Progress]] = {}

    def told(seen: SearchSnapshot) -> Progress:
        clock = at.setdefault(seen.phase, progress_timer(seen.phase))
        return dataclasses.replace(clock(seen.done, seen.total), snapshot=seen)

    result = yield from relay(work, told)
    runs.save_search(recipe, spec, result)
    return result


def recorded_calls(recipe: Recipe, images: int) -> Trajectory | None:
    """The denoiser calls saved with the capture, if they are of enough images to learn from."""
    folder = runs.find_capture(recipe)
    if folder is None or not (folder / "trajectory.safetensors").is_file():
        return None
    trajectory = runs.load_trajectory(folder)
    guided = (
        2 if recipe.sampling.guidance and any((half >= 0).any() for half in trajectory.half) else 1
    )
    rows = sum(
        len(half) for half, i in zip(trajectory.half, trajectory.step, strict=True) if i == 0
    )
    return trajectory if rows >= guided * images else None


def denoiser_calls(recipe: Recipe, images: int) -> Generator[Progress, None, Trajectory]:
    """The denoiser calls of the first calibration images: those saved with the capture, or
    generated now.
    """
    saved = recorded_calls(recipe, images)
    if saved is not None:
        return saved
    from ..capture.activations import calibration_images
    from ..capture.trajectories import record_trajectory
    from ..models.stepping import stepping

    loaded = load(recipe.model)
    jobs = calibration_images(loaded, dataclasses.replace(recipe.calibration, samples=images))
    prompts, seeds = zip(*jobs, strict=True)
    work = stepping(
        lambda on_step: record_trajectory(
            loaded, prompts=prompts, seeds=seeds, sampling=recipe.sampling, on_step=on_step
        )[0]
    )
    at = progress_timer("Generate images to learn from")
    return (yield from relay(work, lambda i, *_: at(i + 1, recipe.sampling.steps)))


def find_search(recipe: Recipe) -> Path | None:
    return runs.find_search(recipe, search_spec(recipe), info(recipe.model).fingerprint)


def search_changed(folder: Path) -> int:
    return (folder / "search.safetensors").stat().st_mtime_ns


@lru_cache(maxsize=4)
def _load_search(folder: Path, search_changed: int) -> SearchResult:
    return runs.load_search(folder)
