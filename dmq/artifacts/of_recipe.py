"""Which questions a recipe asks. Each function is given a recipe and what its budget was shared out
to, and leaves out what the answer does not depend on."""

import dataclasses
from collections.abc import Iterable

from ..models.work_plan import get_placement
from ..quantizers.resolve import resolve, temporal_block
from ..recipe import (
    FLOAT,
    SIMULATED,
    Activations,
    ActiveSteps,
    Cache,
    Gptq,
    LearnedGroups,
    LowRank,
    MseSearch,
    NoCache,
    Override,
    Predictor,
    Recipe,
    Relaxing,
    Sensitivity,
    Tiar,
    Uniform,
    WeightFormat,
    Weights,
)
from .model_info import get_info, get_info_for
from .questions import (
    ActivationErrors,
    BlockRounding,
    Capture,
    GroupSearch,
    LayerCodes,
    LayerCosts,
    MixScores,
    ModelPlan,
    Progressive,
    QuantizedModel,
    RecipeCodes,
    RelaxedSteps,
    SiteErrors,
    TimeErrors,
    TimeRounding,
    Windows,
)


Allocation = tuple[Override, ...]


def ask_capture(recipe: Recipe) -> Capture:
    """The capture that `recipe` stands on."""
    return Capture(model=recipe.model, sampling=recipe.sampling, calibration=recipe.calibration)


def keep_to_float_trajectory(recipe: Recipe) -> Recipe:
    """`recipe` with ranges from the float trajectory and the same bits at all steps: what PCR
    starts from.
    """
    return dataclasses.replace(recipe, progressive=None, relaxing=None, engine=SIMULATED)


def drop_names(recipe: Recipe) -> Recipe:
    """`recipe` without what no trajectory of its quantized model depends on."""
    return dataclasses.replace(recipe, name="", unknown_timestep="error", engine=SIMULATED)


# --- groups, ranges, errors -----------------------------------------------------------------------


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


def ask_search(recipe: Recipe) -> GroupSearch | None:
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
        fingerprint=get_info(recipe.model).fingerprint,
    )


def ask_windows(recipe: Recipe, allocation: Allocation = ()) -> Windows:
    """The measurement of windows for the settings in `recipe.relaxing` or its defaults."""
    spec = recipe.relaxing or Relaxing()
    plain = drop_names(keep_to_float_trajectory(recipe))
    return Windows(recipe=plain, allocation=allocation, windows=spec.windows, images=spec.images)


def ask_relaxed(recipe: Recipe, allocation: Allocation = ()) -> RelaxedSteps:
    """Which steps of `recipe` have more bits."""
    return RelaxedSteps(recipe=drop_names(recipe), allocation=allocation)


def ask_ranges(recipe: Recipe, allocation: Allocation = ()) -> Progressive | None:
    """The ranges of a progressive `recipe`; None if they are those of the float trajectory."""
    if recipe.progressive is None:
        return None
    return Progressive(recipe=drop_names(recipe), allocation=allocation)


def ask_site_errors(recipe: Recipe, allocation: Allocation = (), least: int = 0) -> SiteErrors:
    """The errors of all partitions of `recipe`'s steps."""
    if recipe.progressive is None and not isinstance(recipe.calibration_steps, ActiveSteps):
        # So that moving a boundary, and all else that is no part of it, finds the same answer.
        recipe = Recipe(
            model=recipe.model,
            sampling=recipe.sampling,
            calibration=recipe.calibration,
            calibration_steps=recipe.calibration_steps,
            weights=recipe.weights,
            activations=recipe.activations,
            split_shortcuts=recipe.split_shortcuts,
            protection=recipe.protection,
            overrides=recipe.overrides,
        )
        allocation = ()
    return SiteErrors(recipe=drop_names(recipe), allocation=allocation, least=least)


def ask_errors(recipe: Recipe, allocation: Allocation = ()) -> ActivationErrors:
    """The errors under `recipe`'s partition."""
    return ActivationErrors(recipe=drop_names(recipe), allocation=allocation)


def is_per_step(recipe: Recipe) -> bool:
    """Does every activation have a range at every step (FSC), whatever the grouping says?"""
    return recipe.temporal is not None and recipe.temporal.fsc == "all"


# --- codes ----------------------------------------------------------------------------------------


def needs_inputs(form: object) -> bool:
    """Is a weight of this format learned from the inputs of its layer?"""
    return isinstance(form, Gptq) or (isinstance(form, LowRank) and form.smooth)


def ask_layer_codes(recipe: Recipe) -> tuple[LayerCodes, ...]:
    """The layers of an allocated `recipe` whose codes are learned from their inputs: those of GPTQ,
    and low rank with smoothing.

    Inputs are smoothed where they are in float or have dynamic ranges: calibrated ranges are of
    other inputs."""
    formats = (recipe.weights.format, *(override.format for override in recipe.overrides))
    if not any(needs_inputs(form) for form in formats):
        return ()
    capture = ask_capture(recipe)
    asked = (
        _layer_codes(capture, name, row.weights, row.split, recipe.activations, row.activation_bits)
        for name, row in resolve(get_info_for(recipe), recipe).items()
        if row.weights.bits < FLOAT and needs_inputs(row.weights.format)
    )
    return tuple(question for question in asked if question)


def ask_variants(
    recipe: Recipe, choices: Iterable[WeightFormat], layers: Iterable[str]
) -> dict[tuple[str, WeightFormat], LayerCodes]:
    """By layer and choice: what must be learned to make `layers` into `choices`, inputs in float."""
    learned = [choice for choice in choices if needs_inputs(choice.format) and choice.bits < FLOAT]
    if not learned:
        return {}
    splits = (get_info_for(recipe).splits or {}) if recipe.split_shortcuts else {}
    capture, names = ask_capture(recipe), tuple(layers)
    asked = {
        (name, choice): _layer_codes(
            capture, name, choice, splits.get(name, 0), Activations(), FLOAT
        )
        for choice in learned
        for name in names
    }
    return {key: question for key, question in asked.items() if question}


def _layer_codes(
    capture: Capture,
    layer: str,
    choice: WeightFormat | Weights,
    split: int,
    inputs: Activations,
    bits: int,
) -> LayerCodes | None:
    """None for a split weight of low rank: its two sides are not smoothed."""
    weights = Weights(bits=choice.bits, format=choice.format)
    if isinstance(choice.format, Gptq):
        return LayerCodes(capture=capture, layer=layer, weights=weights, split=split)
    if split:
        return None
    rounded = Activations(bits=FLOAT)
    if bits < FLOAT:
        rounded = Activations(bits=bits, symmetric=inputs.symmetric, dynamic=inputs.dynamic)
    return LayerCodes(capture=capture, layer=layer, weights=weights, inputs=rounded)


def learns_time_rounding(recipe: Recipe) -> bool:
    """Is rounding of the time embedding to be learned? Not if a cache takes the place of it all."""
    spec = recipe.temporal
    if spec is None or not isinstance(spec.rounding, Tiar):
        return False
    return isinstance(spec.cache, NoCache) or spec.cache.selection != "none"


def ask_time_rounding(recipe: Recipe) -> TimeRounding | None:
    """The rounding of an allocated `recipe`'s time embedding; None if nothing is to be learned.

    Layers that are on no uniform grid keep their own codes."""
    if not learns_time_rounding(recipe):
        return None
    info = get_info_for(recipe)
    inside = set(temporal_block(info).layers)
    formats = {
        name: row.weights
        for name, row in resolve(info, recipe).items()
        if name in inside and row.weights.bits < FLOAT and isinstance(row.weights.format, Uniform)
    }
    if not formats:
        return None
    assert recipe.temporal is not None and isinstance(recipe.temporal.rounding, Tiar)
    return TimeRounding(
        capture=ask_capture(recipe), formats=tuple(formats.items()), spec=recipe.temporal.rounding
    )


def ask_blocks(recipe: Recipe, allocation: Allocation = ()) -> BlockRounding | None:
    """The rounding of `recipe`'s blocks; None if none is to be learned."""
    if recipe.reconstruction is None:
        return None
    plain = drop_names(keep_to_float_trajectory(recipe))
    return BlockRounding(recipe=plain, allocation=allocation)


def ask_codes(recipe: Recipe, allocation: Allocation = ()) -> RecipeCodes:
    """All codes of `recipe` that are learned."""
    return RecipeCodes(recipe=drop_names(recipe), allocation=allocation)


# --- plan and model -------------------------------------------------------------------------------


def ask_plan(recipe: Recipe, allocation: Allocation = (), *, blocks: bool = False) -> ModelPlan:
    """`recipe` resolved for its model; `blocks`: with what was learned of them."""
    plain = dataclasses.replace(recipe, name="", engine=SIMULATED)
    return ModelPlan(
        recipe=plain, allocation=allocation, blocks=blocks and recipe.reconstruction is not None
    )


def selects_cached(recipe: Recipe) -> bool:
    """Does the plan depend on which temporal features are distorted most?

    Without such a block, or if more than t enters, the plan says why there can be no selection."""
    spec = recipe.temporal
    if spec is None or not isinstance(spec.cache, Cache) or spec.cache.selection == "none":
        return False
    block = get_info_for(recipe).temporal
    return block is not None and block.finite


def learns_time_with_blocks(recipe: Recipe) -> bool:
    """Is the rounding of the time embedding learned with the blocks instead of by itself?"""
    return recipe.reconstruction is not None and recipe.reconstruction.time


def ask_time_errors(
    recipe: Recipe, allocation: Allocation = (), *, codes: bool = False
) -> TimeErrors:
    """What `recipe` does to temporal features; `codes`: with those that are learned from inputs."""
    if not learns_time_with_blocks(recipe):  # which leaves the time embedding alone
        recipe = dataclasses.replace(recipe, reconstruction=None)
    plain = drop_names(keep_to_float_trajectory(recipe))
    return TimeErrors(recipe=plain, allocation=allocation, codes=codes)


def ask_model(recipe: Recipe, allocation: Allocation = ()) -> QuantizedModel:
    """The quantized denoiser of `recipe`, where models run now."""
    nameless = dataclasses.replace(recipe, name="")
    return QuantizedModel(recipe=nameless, allocation=allocation, placement=get_placement())


# --- what a budget is shared out by ---------------------------------------------------------------


def ask_costs(recipe: Recipe, ask: Sensitivity) -> LayerCosts:
    """The answer to `ask` for the model of `recipe`."""
    ask = _drop_unused(ask)
    return LayerCosts(subject=_make_subject(recipe, ask), ask=ask)


def ask_scores(recipe: Recipe, spec: Predictor) -> MixScores:
    """What random mixes tell of the model of `recipe`."""
    subject = Recipe(
        name="",
        model=recipe.model,
        sampling=dataclasses.replace(recipe.sampling, steps=spec.steps),
        calibration=recipe.calibration,
    )
    return MixScores(subject=subject, spec=spec)


def ask_budget(recipe: Recipe) -> LayerCosts | MixScores | None:
    """What `recipe`'s budget is shared out by; None if it has none."""
    if recipe.mixed is None:
        return None
    plain, by = dataclasses.replace(recipe, mixed=None), recipe.mixed.by
    return ask_scores(plain, by) if isinstance(by, Predictor) else ask_costs(plain, by)


def _drop_unused(ask: Sensitivity) -> Sensitivity:
    """`ask` with settings that do not matter as they are by default."""
    if ask.how != "fisher":
        ask = dataclasses.replace(ask, probes=Sensitivity.probes)
    if ask.measure != "noise":
        return dataclasses.replace(ask, steps=Sensitivity.steps)
    return ask if ask.how == "fisher" else dataclasses.replace(ask, seed=Sensitivity.seed)


def _make_subject(recipe: Recipe, ask: Sensitivity) -> Recipe:
    """The recipe of the model that is compared with: weights in float, and activations too unless
    asked for.
    """
    weights = Weights(bits=FLOAT)
    if any(isinstance(choice.format, Uniform) for choice in ask.choices):
        weights = dataclasses.replace(recipe.weights, bits=FLOAT, format=Uniform())
    if not ask.activations:
        return Recipe(
            name="",
            model=recipe.model,
            sampling=recipe.sampling,
            calibration=recipe.calibration,
            weights=weights,
            activations=Activations(bits=FLOAT),
            split_shortcuts=recipe.split_shortcuts,
        )
    overrides = [override for override in recipe.overrides if override.activation_bits is not None]
    return dataclasses.replace(
        recipe,
        name="",
        unknown_timestep="error",
        weights=weights,
        temporal=None,
        reconstruction=None,
        progressive=None,
        relaxing=None,
        mixed=None,
        overrides=tuple(
            dataclasses.replace(override, weight_bits=None, format=None) for override in overrides
        ),
    )
