"""Groups of timesteps by differentiable search (ADP-DM)."""

import dataclasses
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from ..errors import DmqError
from ..models.libraries import import_libraries
from ..models.libraries import load as load_model
from ..progress import Progress, progress_timer, relay
from ..results import ActivationStats, SearchResult, SearchSnapshot
from ..store import learned
from ..store.artifact import compute, load, places, save
from .calls import recorded_calls
from .places import own_and_shipped
from .questions import GroupSearch


@places.register(GroupSearch)
def _(question: GroupSearch) -> Sequence[Path]:
    key = learned.search_key(question.recipe, question.spec, question.fingerprint)
    return own_and_shipped("searches", key)


@compute.register(GroupSearch)
def _(
    question: GroupSearch,
    partial: Path,
    statistics: ActivationStats,
    enough: Callable[[], bool] = lambda: False,
) -> Generator[Progress, None, SearchResult]:
    """Each Progress has a `results.SearchSnapshot`; once `enough()`, what is there is finished."""
    yield Progress("Load the model", 0, 1)
    import_libraries()
    from ..calibration.active import search_groups

    recipe, spec = question.recipe, question.spec
    work = search_groups(
        load_model(recipe.model),
        recipe,
        spec,
        statistics,
        enough=enough,
        trajectory=recorded_calls(recipe, spec.trajectories),
    )
    at: dict[str, Callable[[int, int], Progress]] = {}

    def report(seen: SearchSnapshot) -> Progress:
        timer = at.setdefault(seen.phase, progress_timer(seen.phase))
        return dataclasses.replace(timer(seen.done, seen.total), snapshot=seen)

    return (yield from relay(work, report))


@save.register(GroupSearch)
def _(question: GroupSearch, folder: Path, value: SearchResult) -> None:
    learned.save_search(question.recipe, question.spec, value)


@load.register(GroupSearch)
def _(question: GroupSearch, folder: Path, statistics: ActivationStats) -> SearchResult:
    """Raises DmqError too if the search was run with another sampler than the capture."""
    result = learned.load_search(folder)
    for name in ("sampler", "timesteps"):
        ours, theirs = getattr(result, name), getattr(statistics, name)
        if ours != theirs:
            raise DmqError(
                f"the search was run with {name} {ours}, the capture with {theirs}. Search again."
            )
    return result
