"""What is known of a recipe: all of it at once, since nothing is learned or measured here.

Every `get_` raises DmqError that says what is missing, and how it is made."""

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from .. import jsonio
from ..allocation.overrides import to_overrides
from ..artifacts import store
from ..artifacts.block_rounding import load_finished
from ..artifacts.model_info import get_info
from ..artifacts.of_recipe import (
    ask_blocks,
    ask_budget,
    ask_capture,
    ask_codes,
    ask_errors,
    ask_layer_codes,
    ask_model,
    ask_plan,
    ask_ranges,
    ask_relaxed,
    ask_search,
    ask_site_errors,
    ask_time_errors,
    ask_time_rounding,
    ask_windows,
    drop_names,
    learns_time_with_blocks,
)
from ..artifacts.questions import BlockRounding, Progressive, Windows
from ..describe import describe_float, describe_plan
from ..errors import DmqError
from ..models.libraries import import_libraries
from ..recipe import SIMULATED, Budget, Override, Recipe, compiles
from ..results import (
    ActivationStats,
    Coverage,
    GroupErrors,
    Plan,
    PredictorResult,
    ProgressiveRanges,
    SearchResult,
    SensitivityTable,
    TemporalErrors,
    WindowEffects,
)


if TYPE_CHECKING:
    from torch import nn

    from ..artifacts.model import LearnedCodes
    from ..quantizers.codes import WeightCodes
    from ..reconstruction.block import LearnedBlocks
    from ..reconstruction.from_inputs import LearnedWeight
    from ..trajectory.errors import ErrorTable


# --- statistics, groups, errors -------------------------------------------------------------------


def has_capture(recipe: Recipe) -> bool:
    """Are there statistics for `recipe`, so that errors and a plan are known at once?"""
    return store.find(ask_capture(recipe)) is not None


def get_statistics(recipe: Recipe) -> ActivationStats:
    """The activation statistics that `recipe` stands on."""
    return store.value(ask_capture(recipe))


def has_search(recipe: Recipe) -> bool:
    """Is what `recipe` must know of a search there? True if it needs none."""
    question = ask_search(recipe)
    return question is None or store.find(question) is not None


def get_search(recipe: Recipe) -> SearchResult:
    """What the search that `recipe` stands on has found."""
    question = ask_search(recipe)
    if question is None:
        raise DmqError(
            "nothing to search: set grouping to LearnedGroups, or calibration_steps to ActiveSteps."
        )
    return store.value(question)


def get_site_errors(recipe: Recipe) -> "ErrorTable":
    """The error of every partition of the steps; made once per choice of bits and range."""
    return store.value(ask_site_errors(recipe, get_allocation(recipe)))


def get_errors(recipe: Recipe) -> GroupErrors:
    """The activations' quantization error under `recipe`'s partition, per site and step.

    Statistics know nothing of ranges that are dynamic; shown is then what calibrated ones would
    do."""
    return store.value(ask_errors(recipe, get_allocation(recipe)))


def get_error_curves(recipe: Recipe, counts: tuple[int, ...]) -> dict[str, list[float]]:
    """Total relative error against the number of groups, for uniform and for optimal cuts."""
    return _error_curves(get_site_errors(recipe), counts)


@lru_cache(maxsize=8)
def _error_curves(table: "ErrorTable", counts: tuple[int, ...]) -> dict[str, list[float]]:
    from ..trajectory.grouping import error_against_count

    return error_against_count(table, counts)


# --- bits -----------------------------------------------------------------------------------------


def get_budget_table(recipe: Recipe) -> SensitivityTable | None:
    """What `recipe`'s budget is shared out by; None if it is not known yet."""
    question = ask_budget(recipe)
    if recipe.mixed is None or question is None or store.missing(question):
        return None
    answer = store.value(question)
    return _table_of(answer, recipe.mixed.level) if isinstance(answer, PredictorResult) else answer


@lru_cache(maxsize=8)
def _table_of(scores: PredictorResult, level: str) -> SensitivityTable:
    return scores.ridge_table() if level == "ridge" else scores.table(level)


def get_allocation(recipe: Recipe) -> tuple[Override, ...]:
    """An override for each layer that `recipe`'s budget has a choice for; none without a budget.

    Raises DmqError too if the budget cannot be kept."""
    if recipe.mixed is None:
        return ()
    table, question = get_budget_table(recipe), ask_budget(recipe)
    if table is None:
        raise DmqError(question.absent if question else "")
    first_last = recipe.protection.first_last
    layers = frozenset(
        layer.name
        for layer in get_info(recipe.model).layers
        if not (first_last and layer.role in ("first", "last"))
    )
    return _allocate(table, layers, recipe.mixed.budget)


@lru_cache(maxsize=8)
def _allocate(
    table: SensitivityTable, layers: frozenset[str], budget: Budget
) -> tuple[Override, ...]:
    from ..allocation.budget import allocate  # scipy takes a good part of the app's start

    return to_overrides(allocate(table.only(layers), budget))


def allocate_bits(recipe: Recipe) -> Recipe:
    """`recipe` with overrides in place of its budget; itself if it has none."""
    if recipe.mixed is None:
        return recipe
    overrides = (*get_allocation(recipe), *recipe.overrides)
    return dataclasses.replace(recipe, mixed=None, overrides=overrides)


# --- codes ----------------------------------------------------------------------------------------


def has_layer_codes(recipe: Recipe) -> bool:
    """Have all codes been learned that are learned from inputs? True if there are none."""
    return all(store.find(question) for question in ask_layer_codes(allocate_bits(recipe)))


def get_layer_codes(recipe: Recipe) -> "dict[str, LearnedWeight]":
    """What was learned from inputs, by layer."""
    questions = ask_layer_codes(allocate_bits(recipe))
    missing = sum(store.find(question) is None for question in questions)
    if missing:
        raise DmqError(
            f"recipe.weights.format: {missing} of {len(questions)} weights were not learned from "
            "inputs yet; they are when images are generated, or run `dmq learn` with this recipe."
        )
    return {question.layer: store.value(question) for question in questions}


def has_time_rounding(recipe: Recipe) -> bool:
    """Has the rounding of the time embedding been learned, or is there none to be learned?"""
    question = ask_time_rounding(allocate_bits(recipe))
    return question is None or store.find(question) is not None


def find_blocks(recipe: Recipe) -> BlockRounding | None:
    """The learned rounding of `recipe`'s blocks, if it is there."""
    question = ask_blocks(recipe, get_allocation(recipe))
    return question if question and store.find(question) else None


def has_blocks(recipe: Recipe) -> bool:
    """Has the rounding of the blocks been learned, or is there none to be learned?"""
    return recipe.reconstruction is None or find_blocks(recipe) is not None


def get_blocks(recipe: Recipe) -> "LearnedBlocks | None":
    """What was learned of the blocks; None if there is nothing to be learned."""
    question = ask_blocks(recipe, get_allocation(recipe))
    return store.value(question) if question else None


def get_blocks_by_now(recipe: Recipe) -> "LearnedBlocks | None":
    """What there is of the rounding of the blocks, finished or interrupted; None if nothing yet."""
    question = ask_blocks(recipe, get_allocation(recipe))
    if question is None:
        return None
    if store.find(question):
        return store.value(question)
    return load_finished(question, store.partial(question))


def get_codes(recipe: Recipe) -> "LearnedCodes":
    """All codes of `recipe` that are learned."""
    return store.value(ask_codes(recipe, get_allocation(recipe)))


def get_time_codes(recipe: Recipe) -> "Mapping[str, WeightCodes]":
    """Codes learned for the time embedding among others: with the blocks, or alone; and those that
    are learned from inputs, once they have been.
    """
    with_blocks = learns_time_with_blocks(recipe)
    question = (
        ask_blocks(recipe, get_allocation(recipe))
        if with_blocks
        else ask_time_rounding(allocate_bits(recipe))
    )
    weights = get_layer_codes(recipe) if has_layer_codes(recipe) else {}
    codes = {layer: weight.codes for layer, weight in weights.items()}
    return codes | dict(store.value(question).codes if question else {})


def get_time_errors(recipe: Recipe) -> TemporalErrors:
    """What `recipe` does to the temporal features, beside treating the time embedding as all other
    layers.

    Runs the time embedding alone, which takes seconds. Raises DmqError too if the model has no
    temporal block that dmq knows."""
    allocation, codes = get_allocation(recipe), has_layer_codes(recipe)
    return store.value(ask_time_errors(recipe, allocation, codes=codes))


# --- along the quantized trajectory (PCR) ---------------------------------------------------------


def find_windows(recipe: Recipe) -> Windows | None:
    """The measurement of `recipe`'s windows, if it is there."""
    question = ask_windows(recipe, get_allocation(recipe))
    return question if store.find(question) else None


def has_windows(recipe: Recipe) -> bool:
    """Is there what `recipe`'s choice of relaxed steps stands on? True if it needs no measuring."""
    auto = recipe.relaxing is not None and recipe.relaxing.where == "auto"
    return not auto or find_windows(recipe) is not None


def get_window_effects(recipe: Recipe) -> WindowEffects:
    """What leaving each window of steps in float does to the images of `recipe`."""
    return store.value(ask_windows(recipe, get_allocation(recipe)))


def get_relaxed_steps(recipe: Recipe) -> tuple[int, ...]:
    """The steps of `recipe` with more bits, in sampling order."""
    if recipe.relaxing is None:
        return ()
    return store.value(ask_relaxed(recipe, get_allocation(recipe)))


def find_ranges(recipe: Recipe) -> Progressive | None:
    """The ranges of a progressive `recipe`, if they are there."""
    question = ask_ranges(recipe, get_allocation(recipe))
    return question if question and store.find(question) else None


def has_ranges(recipe: Recipe) -> bool:
    """Have the ranges of `recipe` been set along the quantized trajectory, or need they not be?"""
    return recipe.progressive is None or find_ranges(recipe) is not None


def get_ranges(recipe: Recipe) -> ProgressiveRanges | None:
    """The ranges of `recipe` and what was seen on the quantized trajectory; None if they are those
    of the float one.
    """
    question = ask_ranges(recipe, get_allocation(recipe))
    return store.value(question) if question else None


def count_finished_calls(recipe: Recipe) -> int:
    """How many denoiser calls are finished of a calibration of `recipe` that was stopped."""
    question = ask_ranges(recipe, get_allocation(recipe))
    return len(list(store.partial(question).glob("[0-9]*"))) if question else 0


def trajectory_key(recipe: Recipe) -> tuple:
    """All that the images of `recipe` depend on, plain data."""
    seen, relaxed = get_statistics(recipe), list(get_relaxed_steps(recipe))
    asked = jsonio.key_data(drop_names(recipe))
    return asked, seen.fingerprint, seen.sampler, seen.timesteps, relaxed


# --- plan and model -------------------------------------------------------------------------------


def get_plan(recipe: Recipe) -> Plan:
    """The recipe resolved for its model: what every layer gets, and the exact bytes."""
    blocks = find_blocks(recipe) is not None
    return store.value(ask_plan(recipe, get_allocation(recipe), blocks=blocks))


def get_simulated(recipe: Recipe) -> "nn.Module":
    """The simulated denoiser of `recipe`: a new model with a clock of its own; the float one stays
    as it was.
    """
    return get_model(dataclasses.replace(recipe, engine=SIMULATED))


def get_model(recipe: Recipe) -> "nn.Module":
    """The quantized denoiser of `recipe`, simulated or executed as its `engine` says."""
    import_libraries()
    from ..models.borrow import borrow

    model = store.value(ask_model(recipe, get_allocation(recipe)))
    # What is compiled belongs to its very modules.
    return model if compiles(recipe.engine) else borrow(model)


def get_coverage(recipe: Recipe) -> Coverage:
    """What is quantized to what, what stays in float and, if it is executed, what runs where."""
    plan = get_plan(recipe)
    kernels: tuple[dict[str, int], dict[str, int]] = {}, {}
    if recipe.engine != SIMULATED:
        from ..runtime.convert import count_kernels

        kernels = count_kernels(get_model(recipe))
    return Coverage(
        quantized=describe_plan(plan),
        in_float=describe_float(plan),
        engine=recipe.engine,
        kernels=kernels[0],
        fell_back=kernels[1],
    )
