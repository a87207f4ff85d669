"""One thing that is learned or measured for a recipe, after all that it stands on.

Each does nothing if it is there already, unless `again`. What is finished when a generator is closed
is kept, and the next call goes on behind it."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from ..artifacts import layer_costs, mix_scores, store
from ..artifacts.of_recipe import (
    ask_blocks,
    ask_budget,
    ask_capture,
    ask_costs,
    ask_layer_codes,
    ask_ranges,
    ask_scores,
    ask_search,
    ask_time_rounding,
    ask_windows,
)
from ..errors import DmqError
from ..progress import Progress
from ..recipe import Override, Predictor, Recipe, Sensitivity
from ..results import PredictorResult, SearchResult, SensitivityTable, WindowEffects
from ..store.artifact import Artifact
from .answers import allocate_bits, get_allocation


def capture_statistics(
    recipe: Recipe, *, again: bool = False, **how: Any
) -> Generator[Progress, None, Path]:
    """Watch the float model generate the calibration images; returns the folder of the statistics.

    `how` may have `trajectories`: the denoiser calls of so many images are saved beside them
    (`captures.load_trajectory`); `scheduler` and `workers` are those of `engine.run`: batches that
    are finished when the generator is closed are then kept; otherwise, and where calls are saved,
    closing it leaves no trace."""
    yield from _make(question := ask_capture(recipe), again, **how)
    return store.place(question)


def search_groups(
    recipe: Recipe, *, again: bool = False, enough: Callable[[], bool] = lambda: False
) -> Generator[Progress, None, SearchResult]:
    """Learn the groups that `recipe` stands on (ADP-DM); each Progress has a
    `results.SearchSnapshot`.

    Once `enough()`, what is there by then is finished and kept. Closing the generator leaves no
    trace. Raises DmqError if the recipe needs no search."""
    question = ask_search(recipe)
    if question is None:
        raise DmqError(
            "nothing to search: set grouping to LearnedGroups, or calibration_steps to ActiveSteps."
        )
    yield from _make(question, again, enough=enough)
    return store.value(question)


def share_out_bits(
    recipe: Recipe, *, again: bool = False, **shared: Any
) -> Generator[Progress, None, tuple[Override, ...]]:
    """Measure or learn what `recipe`'s budget is shared out by; returns the overrides it comes to.

    `shared` are the `scheduler` and `workers` of `engine.run`."""
    question = ask_budget(recipe)
    if question is not None:
        yield from _make(question, again, **shared)
    return get_allocation(recipe)


def learn_layer_codes(recipe: Recipe, *, again: bool = False) -> Generator[Progress, None, None]:
    """Learn the codes of all layers of `recipe` that are learned from inputs, layer by layer."""
    yield from share_out_bits(recipe)
    yield from store.make(ask_layer_codes(allocate_bits(recipe)), again=again)


def learn_time_rounding(
    recipe: Recipe, *, again: bool = False
) -> Generator[Progress, None, Path | None]:
    """Learn the rounding of the time embedding (TIAR); returns its folder, None if `recipe` needs
    none.

    Closing the generator leaves no trace."""
    yield from share_out_bits(recipe)
    return (yield from _make(ask_time_rounding(allocate_bits(recipe)), again))


def learn_blocks(recipe: Recipe, *, again: bool = False) -> Generator[Progress, None, Path | None]:
    """Learn the rounding of the blocks, after all other codes; returns its folder, None if `recipe`
    needs none.

    A Progress after a block has all that was learned by then as its snapshot."""
    allocation = yield from share_out_bits(recipe)
    return (yield from _make(ask_blocks(recipe, allocation), again))


def measure_windows(
    recipe: Recipe, *, again: bool = False
) -> Generator[Progress, None, WindowEffects]:
    """What leaving each window of steps in float does to images (PCR), whether `recipe` chooses by
    that or not.

    Each Progress has the `results.WindowEffects` so far as its snapshot, once there are some."""
    allocation = yield from share_out_bits(recipe)
    question = ask_windows(recipe, allocation)
    yield from _make(question, again)
    return store.value(question)


def calibrate_ranges(
    recipe: Recipe, *, again: bool = False
) -> Generator[Progress, None, Path | None]:
    """Set the ranges of `recipe` on the trajectory of its quantized model (PCR); returns their
    folder, None if it takes those of the float trajectory.
    """
    allocation = yield from share_out_bits(recipe)
    return (yield from _make(ask_ranges(recipe, allocation), again))


def measure_costs(
    recipe: Recipe, ask: Sensitivity, *, again: bool = False, **shared: Any
) -> Generator[Progress, None, SensitivityTable]:
    """What each layer costs as each of some choices.

    `shared` are the `scheduler` and `workers` of `engine.run`. Raises DmqError for what cannot be
    asked of this model."""
    question = ask_costs(recipe, ask)
    layer_costs.check_question(question)
    yield from _make(question, again, **shared)
    return store.value(question)


def learn_scores(
    recipe: Recipe, spec: Predictor, *, again: bool = False, **shared: Any
) -> Generator[Progress, None, PredictorResult]:
    """Judge random mixes of choices, and learn what makes them good.

    `again` learns anew from the labels that are there; `shared` are the `scheduler` and `workers`
    of `engine.run`. Raises DmqError for questions that make no sense."""
    question = ask_scores(recipe, spec)
    if again or store.find(question) is None:
        mix_scores.check_question(question)
        yield from _make(question, again, **shared)
    return store.value(question)


def _make(
    question: Artifact | None, again: bool, **how: Any
) -> Generator[Progress, None, Path | None]:
    if question is None:
        return None
    if again or store.find(question) is None:
        yield from store.get(question, again=again, **how)
    return store.find(question)
