"""Ranges along the quantized trajectory (PCR)."""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import jsonio
from ..models.libraries import import_libraries
from ..models.libraries import load as load_model
from ..progress import Progress, progress_timer, relay_each
from ..recipe import PerTensor
from ..results import ActivationStats, GroupErrors, Plan, ProgressiveRanges
from ..store import folders, learned
from ..store.artifact import compute, load, places, save
from .model import LearnedCodes
from .model_info import get_info_for
from .questions import Progressive


@places.register(Progressive)
def _(
    question: Progressive, statistics: ActivationStats, relaxed: tuple[int, ...]
) -> Sequence[Path]:
    run = statistics.fingerprint, statistics.sampler, statistics.timesteps
    asked = jsonio.key_data(question.recipe), *run
    return folders.answer_places("progressive", *asked, list(relaxed))


@compute.register(Progressive)
def _(
    question: Progressive,
    partial: Path,
    statistics: ActivationStats,
    relaxed: tuple[int, ...],
    plan: Plan,
    errors: GroupErrors,
    codes: LearnedCodes,
) -> Generator[Progress, None, tuple[ProgressiveRanges, ActivationStats]]:
    """Denoiser calls that are finished are kept: the next call replays them without observing."""
    yield Progress("Load the model", 0, 1)
    import_libraries()
    from ..calibration.progressive import CallDone, calibrate_progressively

    work = calibrate_progressively(
        load_model(question.recipe.model),
        question.recipe,
        plan,
        (statistics, errors),
        codes.codes,
        learned.load_calls(partial),
    )
    at = progress_timer("Set the ranges along the quantized trajectory")

    def report(*seen: Any) -> Iterator[Progress]:
        if isinstance(seen[0], CallDone):
            learned.save_call(partial, seen[0].call, seen[0].stats, seen[0].grids)
        else:
            yield at(*seen)

    return (yield from relay_each(work, report)), statistics


@save.register(Progressive)
def _(
    question: Progressive, folder: Path, value: tuple[ProgressiveRanges, ActivationStats]
) -> None:
    """`value` has the statistics of the capture too: what is equal to them is not kept twice."""
    ranges, base = value
    recipe = question.recipe
    by_channel = not isinstance(recipe.activations.granularity, PerTensor)
    splits = get_info_for(recipe).splits
    learned.save_progressive(folder, ranges, base, by_channel=by_channel, splits=splits)


@load.register(Progressive)
def _(question: Progressive, folder: Path, statistics: ActivationStats) -> ProgressiveRanges:
    return learned.load_progressive(folder, statistics)
