"""A recipe resolved for its model: the plan, and the quantized model that follows it."""

import dataclasses
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from ..artifacts import Capture, store
from ..describe import describe_float, describe_plan
from ..errors import DmqError
from ..models.libraries import import_libraries, load
from ..models.work_plan import chosen_placement
from ..recipe import FLOAT, SIMULATED, Cache, Recipe, Uniform, compiles, lowered
from ..results import Coverage, Plan
from .blocks_kept import blocks_changed, blocks_result, reconstructed
from .known import info_for
from .local import errors
from .mixing import resolved
from .searches import group_search
from .time_embedding import learned_rounding, learns_rounding, rounding_changed, temporal_errors
from .trajectory_ranges import progressive_of, relaxed, seen_statistics
from .weights_kept import learned_from_inputs, learned_weights, weights_changed, weights_result


if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from ..models.loading import Loaded
    from ..quantizers.weights import QuantizedWeight


def plan(recipe: Recipe) -> Plan:
    """The recipe resolved for its model: what every layer gets, and the exact bytes."""
    from ..quantizers.plan import make_plan

    known = info_for(recipe)
    spec = recipe.temporal
    chosen = spec is not None and isinstance(spec.cache, Cache) and spec.cache.selection != "none"
    # Without such a block, or if more than t enters, the plan says why there can be no selection.
    possible = chosen and known.temporal is not None and known.temporal.finite
    cached = temporal_errors(recipe).cached if possible else None
    made = make_plan(known, resolved(recipe), seen_statistics(recipe), errors(recipe), cached)
    how = _learned_layers(recipe, made)
    rows = tuple(
        dataclasses.replace(row, learned=how.get(row.layer.name, "")) for row in made.layers
    )
    made = dataclasses.replace(made, layers=rows)
    if not (recipe.reconstruction and recipe.reconstruction.steps and reconstructed(recipe)):
        return made
    import_libraries()
    from ..reconstruction.step_sizes import with_step_sizes

    return with_step_sizes(made, blocks_result(recipe).sizes)


def _learned_layers(recipe: Recipe, made: Plan) -> dict[str, str]:
    """How the codes of each layer are learned that does not take its nearest ones."""
    time = set(made.temporal.block.layers) if learns_rounding(recipe) else set()
    how = {
        task.layer: "GPTQ" if task.inputs is None else "low rank, smoothed"
        for task in learned_from_inputs(recipe)
    }
    rows = [
        row
        for row in made.layers
        if row.weights.bits < FLOAT and isinstance(row.weights.format, Uniform)
    ]
    how |= {row.layer.name: "TIAR" for row in rows if row.layer.name in time}
    if recipe.reconstruction is None:
        return how
    if reconstructed(recipe):  # it may have ended before its time
        return how | dict.fromkeys(blocks_result(recipe).codes, "block")
    import_libraries()
    from ..reconstruction.block import trained_layers

    loaded = load(recipe.model)
    blocks = trained_layers(loaded.denoiser, loaded.adapter, made, recipe.reconstruction)
    return how | {name: "block" for formats in blocks.values() for name in formats}


def quantize(recipe: Recipe) -> "nn.Module":
    """The simulated denoiser of `recipe`: a new model with a clock of its own; the float one
    stays as it was.
    """
    return computed(dataclasses.replace(recipe, engine=SIMULATED))


def computed(recipe: Recipe) -> "nn.Module":
    """The quantized denoiser of `recipe`, simulated or executed as its `engine` says; see
    `quantize`.
    """
    import_libraries()
    from ..models.borrow import borrow

    learned, along = group_search(recipe), progressive_of(recipe)
    walks = relaxed(recipe), along and store.stamp(along)
    learnings = rounding_changed(recipe), blocks_changed(recipe), weights_changed(recipe)
    mix = resolved(recipe).overrides if recipe.mixed else ()
    changes = (
        store.stamp(Capture.of(recipe)),
        learned and store.stamp(learned),
        *learnings,
        walks,
        mix,
        chosen_placement(),
    )
    made = _computed(dataclasses.replace(recipe, name=""), changes)
    return (
        made if compiles(recipe.engine) else borrow(made)
    )  # what is compiled belongs to its very modules


@lru_cache(
    maxsize=3
)  # searching the weights' ranges takes seconds, generating again with the same recipe is common
def _computed(recipe: Recipe, _changes: tuple) -> "nn.Module":
    loaded = load(recipe.model)
    check_engine(recipe, loaded)
    learned, blocks = learned_rounding(recipe), blocks_result(recipe)
    made = _made(recipe)(loaded.denoiser, plan(recipe), loaded.adapter, learned_codes(recipe))
    if learned and learned.note:
        made.clock.notes.append(f"rounding of the time embedding: {learned.note}")
    if blocks and blocks.note:
        made.clock.notes.append(f"rounding of the blocks: {blocks.note}")
    for name, weight in weights_result(recipe).items():
        if weight.note:
            made.clock.notes.append(f"{name}: {weight.note}")
    return made


def check_engine(recipe: Recipe, loaded: "Loaded") -> None:
    """Raise DmqError if the engine of `recipe` cannot run where the model does."""
    if recipe.engine != SIMULATED and loaded.place.offload in ("sequential", "group"):
        raise DmqError(
            f"engine {recipe.engine!r}: with offload {loaded.place.offload!r} diffusers brings "
            "parameters to the "
            "device layer by layer, but no packed weights; try --offload model or none, or "
            "simulate."
        )


def _made(recipe: Recipe) -> "Callable[..., nn.Module]":
    """What makes a model from the float one, the plan, the adapter and learned codes."""
    if recipe.engine == SIMULATED:
        from ..quantizers.apply import quantized

        return quantized
    import torch

    from ..runtime.convert import executed

    rest = torch.bfloat16 if lowered(recipe.engine) else torch.float32
    return partial(executed, rest=rest, compiling=compiles(recipe.engine))


def coverage(recipe: Recipe) -> Coverage:
    """What is quantized to what, what stays in float and, if it is executed, what runs where."""
    made = plan(recipe)
    kernels: tuple[dict[str, int], dict[str, int]] = {}, {}
    if recipe.engine != SIMULATED:
        from ..runtime.convert import count_kernels

        kernels = count_kernels(computed(recipe))
    return Coverage(
        quantized=describe_plan(made),
        in_float=describe_float(made),
        engine=recipe.engine,
        kernels=kernels[0],
        fell_back=kernels[1],
    )


def learned_codes(recipe: Recipe) -> "dict[str, QuantizedWeight]":
    """The codes of all layers of `recipe` whose codes were learned.

    Raises DmqError if it was not yet.
    """
    learned, blocks = learned_rounding(recipe), blocks_result(recipe)
    return (
        learned_weights(recipe)
        | (learned.codes if learned else {})
        | (blocks.codes if blocks else {})
    )
