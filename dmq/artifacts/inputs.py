"""What is computed from what: all `inputs` of dmq on one page."""

import dataclasses

from ..recipe import ActiveSteps, LearnedGroups, NoCache, Temporal
from ..store.artifact import Artifact, inputs
from . import of_recipe as ask
from .model_info import get_info
from .questions import (
    ActivationErrors,
    BlockRounding,
    GroupSearch,
    LayerCodes,
    LayerCodeSet,
    LayerCosts,
    MixScores,
    ModelPlan,
    Progressive,
    QuantizedModel,
    RecipeCodes,
    RecipeQuestion,
    RelaxedSteps,
    SiteErrors,
    TimeErrors,
    TimeRounding,
    Windows,
)


Inputs = dict[str, Artifact]


def _need(**questions: Artifact | None) -> Inputs:
    return {name: question for name, question in questions.items() if question is not None}


def _ask_captured(question: RecipeQuestion) -> Inputs:
    """What was seen, on the float trajectory and, if the recipe says so, on the quantized one."""
    recipe, allocation = question.recipe, question.allocation
    return _need(statistics=ask.ask_capture(recipe), ranges=ask.ask_ranges(recipe, allocation))


@inputs.register(GroupSearch)
def _(question: GroupSearch) -> Inputs:
    return {"statistics": ask.ask_capture(question.recipe)}


@inputs.register(RelaxedSteps)
def _(question: RelaxedSteps) -> Inputs:
    spec = question.recipe.relaxing
    if spec is None or spec.where != "auto":
        return {}
    return {"windows": ask.ask_windows(question.recipe, question.allocation)}


@inputs.register(SiteErrors)
def _(question: SiteErrors) -> Inputs:
    recipe = question.recipe
    active = isinstance(recipe.calibration_steps, ActiveSteps)
    return _ask_captured(question) | _need(search=ask.ask_search(recipe) if active else None)


@inputs.register(ActivationErrors)
def _(question: ActivationErrors) -> Inputs:
    recipe, allocation = question.recipe, question.allocation
    needs: Inputs = {"table": ask.ask_site_errors(recipe, allocation)}
    if recipe.relaxing is not None or recipe.progressive is not None:
        # The partition is the one that the float trajectory has led to.
        plain = ask.keep_to_float_trajectory(recipe)
        needs |= {"base": ask.ask_errors(plain, allocation)}
        needs |= _need(ranges=ask.ask_ranges(recipe, allocation))
    elif isinstance(recipe.grouping, LearnedGroups) and not ask.is_per_step(recipe):
        needs |= _need(search=ask.ask_search(recipe))
    if recipe.relaxing is not None:
        needs |= {
            "relaxed": ask.ask_relaxed(recipe, allocation),
            "wide": ask.ask_site_errors(recipe, allocation, recipe.relaxing.bits),
        }
    return needs


# --- codes ----------------------------------------------------------------------------------------


@inputs.register(LayerCodes)
def _(question: LayerCodes) -> Inputs:
    return {"statistics": question.capture}


@inputs.register(LayerCodeSet)
def _(question: LayerCodeSet) -> Inputs:
    return {f"{n}": each for n, each in enumerate(question.questions)}


@inputs.register(TimeRounding)
def _(question: TimeRounding) -> Inputs:
    return {"statistics": question.capture}


@inputs.register(BlockRounding)
def _(question: BlockRounding) -> Inputs:
    # Without what was learned before, were it learned already: step sizes would start from there.
    before = dataclasses.replace(question.recipe, reconstruction=None)
    active = isinstance(before.calibration_steps, ActiveSteps)
    return _need(
        statistics=ask.ask_capture(before),
        plan=ask.ask_plan(before, question.allocation),
        codes=ask.ask_codes(before, question.allocation),
        search=ask.ask_search(before) if active else None,
    )


@inputs.register(RecipeCodes)
def _(question: RecipeCodes) -> Inputs:
    allocated = question.allocated
    learned = ask.ask_layer_codes(allocated)
    return _need(
        layers=LayerCodeSet(questions=learned) if learned else None,
        time=ask.ask_time_rounding(allocated),
        blocks=ask.ask_blocks(question.recipe, question.allocation),
    )


# --- plan and model -------------------------------------------------------------------------------


@inputs.register(ModelPlan)
def _(question: ModelPlan) -> Inputs:
    recipe, allocation = question.recipe, question.allocation
    return _ask_captured(question) | _need(
        errors=ask.ask_errors(recipe, allocation),
        time=ask.ask_time_errors(recipe, allocation) if ask.selects_cached(recipe) else None,
        blocks=ask.ask_blocks(recipe, allocation) if question.blocks else None,
    )


@inputs.register(TimeErrors)
def _(question: TimeErrors) -> Inputs:
    recipe, allocation, allocated = question.recipe, question.allocation, question.allocated
    spec = dataclasses.replace(recipe.temporal or Temporal(), cache=NoCache())
    plain, asked = (
        dataclasses.replace(recipe, temporal=temporal, reconstruction=None)
        for temporal in (Temporal(cache=NoCache()), spec)
    )
    learned = ask.ask_layer_codes(allocated) if question.codes else ()
    blocks = ask.ask_blocks(recipe, allocation)
    return _need(
        statistics=ask.ask_capture(recipe),
        before=ask.ask_plan(plain, allocation),
        after=ask.ask_plan(asked, allocation),
        layers=LayerCodeSet(questions=learned) if learned else None,
        time=None if blocks else ask.ask_time_rounding(allocated),
        blocks=blocks,
    )


@inputs.register(QuantizedModel)
def _(question: QuantizedModel) -> Inputs:
    recipe, allocation = question.recipe, question.allocation
    return {
        "plan": ask.ask_plan(recipe, allocation, blocks=True),
        "codes": ask.ask_codes(recipe, allocation),
    }


# --- along the quantized trajectory (PCR) ---------------------------------------------------------


@inputs.register(Windows)
def _(question: Windows) -> Inputs:
    return {
        "statistics": ask.ask_capture(question.recipe),
        "model": ask.ask_model(question.recipe, question.allocation),
    }


@inputs.register(Progressive)
def _(question: Progressive) -> Inputs:
    start, allocation = dataclasses.replace(question.recipe, progressive=None), question.allocation
    return {
        "statistics": ask.ask_capture(start),
        "relaxed": ask.ask_relaxed(start, allocation),
        "plan": ask.ask_plan(start, allocation, blocks=True),
        "errors": ask.ask_errors(start, allocation),
        "codes": ask.ask_codes(start, allocation),
    }


# --- what a budget is shared out by ---------------------------------------------------------------


@inputs.register(LayerCosts)
def _(question: LayerCosts) -> Inputs:
    subject = question.subject
    layers = (layer.name for layer in get_info(subject.model).layers if layer.macs)
    variants = tuple(ask.ask_variants(subject, question.ask.choices, layers).values())
    return _need(
        statistics=ask.ask_capture(subject),
        search=ask.ask_search(subject) if question.ask.activations else None,
        codes=LayerCodeSet(questions=variants) if variants else None,
    )


@inputs.register(MixScores)
def _(question: MixScores) -> Inputs:
    layers = (layer.name for layer in get_info(question.subject.model).layers if layer.macs)
    variants = tuple(ask.ask_variants(question.subject, question.spec.choices, layers).values())
    return _need(codes=LayerCodeSet(questions=variants) if variants else None)
