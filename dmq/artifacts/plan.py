"""A recipe resolved for its model: the plan, and what it does to the time embedding."""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..models.libraries import import_libraries, load
from ..progress import Progress
from ..recipe import FLOAT, Temporal, Uniform
from ..results import ActivationStats, GroupErrors, Plan, ProgressiveRanges, TemporalErrors
from ..store.artifact import compute
from .calls import conditioning
from .model_info import get_info_for
from .of_recipe import ask_layer_codes, learns_time_rounding
from .questions import LayerCodes, ModelPlan, TimeErrors


if TYPE_CHECKING:
    from ..reconstruction.block import LearnedBlocks
    from ..reconstruction.from_inputs import LearnedWeight
    from ..reconstruction.temporal import LearnedRounding


@compute.register(ModelPlan)
def _(
    question: ModelPlan,
    partial: Path,
    statistics: ActivationStats,
    errors: GroupErrors,
    ranges: ProgressiveRanges | None = None,
    time: TemporalErrors | None = None,
    blocks: "LearnedBlocks | None" = None,
) -> Generator[Any, None, Plan]:
    yield from ()
    from ..quantizers.plan import make_plan

    allocated, seen = question.allocated, ranges.stats if ranges else statistics
    cached = time.cached if time else None
    plan = make_plan(get_info_for(allocated), allocated, seen, errors, cached)
    learned = _name_learned_layers(question, plan, blocks)
    rows = tuple(replace(row, learned=learned.get(row.layer.name, "")) for row in plan.layers)
    plan = replace(plan, layers=rows)
    spec = question.recipe.reconstruction
    if blocks is None or spec is None or not spec.steps:
        return plan
    import_libraries()
    from ..reconstruction.step_sizes import with_step_sizes

    return with_step_sizes(plan, blocks.sizes)


def _name_learned_layers(
    question: ModelPlan, plan: Plan, blocks: "LearnedBlocks | None"
) -> dict[str, str]:
    """How the codes of each layer are learned that does not take its nearest ones."""
    recipe, allocated = question.recipe, question.allocated
    how = {
        each.layer: "GPTQ" if each.inputs is None else "low rank, smoothed"
        for each in ask_layer_codes(allocated)
    }
    temporal = plan.temporal if learns_time_rounding(recipe) else None
    time = set(temporal.block.layers) if temporal else set()
    how |= {
        row.layer.name: "TIAR"
        for row in plan.layers
        if row.layer.name in time
        and row.weights.bits < FLOAT
        and isinstance(row.weights.format, Uniform)
    }
    if recipe.reconstruction is None:
        return how
    if blocks is not None:  # it may have ended before its time
        return how | dict.fromkeys(blocks.codes, "block")
    import_libraries()
    from ..reconstruction.block import find_trained_layers

    loaded = load(recipe.model)
    formats = find_trained_layers(loaded.denoiser, loaded.adapter, plan, recipe.reconstruction)
    return how | {name: "block" for layers in formats.values() for name in layers}


@compute.register(TimeErrors)
def _(
    question: TimeErrors,
    partial: Path,
    statistics: ActivationStats,
    before: Plan,
    after: Plan,
    layers: "dict[LayerCodes, LearnedWeight] | None" = None,
    time: "LearnedRounding | None" = None,
    blocks: "LearnedBlocks | None" = None,
) -> Generator[Progress, None, TemporalErrors]:
    """Runs the time embedding alone, beside treating it as all other layers."""
    yield Progress("Load the model", 0, 1)
    import_libraries()
    from ..metrics.temporal import measure_time_embedding

    recipe, learned = question.recipe, blocks or time
    codes = {each.layer: weight.codes for each, weight in (layers or {}).items()}
    assert after.temporal is not None
    after = replace(after, temporal=replace(after.temporal, spec=recipe.temporal or Temporal()))
    loaded = load(recipe.model)
    return measure_time_embedding(
        loaded.denoiser,
        loaded.adapter,
        before,
        after,
        statistics,
        conditioning(recipe),
        codes | dict(learned.codes if learned else {}),
        time.losses if time else np.zeros(0, np.float32),
        learned.note if learned else "",
    )
