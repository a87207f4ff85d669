"""How long what a recipe lacks will take here: denoiser calls that are counted beforehand, times the
seconds of one on this machine."""

from dataclasses import dataclass
from functools import singledispatch

from ..artifacts.calls import recorded_calls
from ..artifacts.questions import Capture, LayerCosts, MixScores, Progressive, Windows
from ..errors import DmqError
from ..models.work_plan import CAPTURING, time_step
from ..recipe import Recipe
from ..store.artifact import Artifact
from .steps import Step


SIMULATED_SLOWER = 1.6  # a quantized model against the float one
LABELLED_AT_ONCE = 8  # images of a mix


@dataclass(frozen=True)
class Calls:
    """Denoiser calls of batches of so many `images`, each `slower` times as long as the float
    model's.
    """

    images: int
    count: int
    slower: float = 1.0


@singledispatch
def count_calls(question: Artifact) -> tuple[Calls, ...] | None:
    """The denoiser calls that the answer takes; None where its time does not follow from them."""
    return None


@count_calls.register
def _(question: Capture) -> tuple[Calls, ...]:
    steps, spec = question.sampling.steps, question.calibration
    whole, rest = divmod(spec.samples, spec.batch)
    batches = (Calls(spec.batch, whole * steps, CAPTURING), Calls(rest, steps, CAPTURING))
    return tuple(calls for calls in batches if calls.images and calls.count)


@count_calls.register
def _(question: Windows) -> tuple[Calls, ...]:
    steps = question.recipe.sampling.steps
    windows = min(question.windows, steps)
    float_model = Calls(question.images, steps)
    return float_model, Calls(question.images, (windows + 1) * steps, SIMULATED_SLOWER)


@count_calls.register
def _(question: Progressive) -> tuple[Calls, ...]:
    recipe = question.recipe  # all images go through a step together
    slower = SIMULATED_SLOWER * CAPTURING
    return (Calls(recipe.calibration.samples, recipe.sampling.steps, slower),)


@count_calls.register
def _(question: LayerCosts) -> tuple[Calls, ...] | None:
    ask = question.ask
    if ask.how != "measure" or ask.mode != "only":
        return None  # passes with gradients, in as many sweeps as memory asks for
    from ..artifacts.cost_part import called_layers

    cells = len(called_layers(question.subject.model)) * len(ask.choices)
    steps = question.subject.sampling.steps
    if ask.measure != "noise":
        return (Calls(ask.images, (cells + 1) * steps),)
    recorded = steps if recorded_calls(question.subject, ask.images) is None else 0
    return (Calls(ask.images, recorded + (cells + 1) * min(ask.steps, steps)),)


@count_calls.register
def _(question: MixScores) -> tuple[Calls, ...] | None:
    spec = question.spec
    if spec.label == "noise":
        return None
    whole, rest = divmod(spec.images, LABELLED_AT_ONCE)
    mixes = spec.configurations + spec.repeats + 1 + (spec.repeats > 0)  # and the float model's
    batches = (Calls(LABELLED_AT_ONCE, whole * mixes * spec.steps), Calls(rest, mixes * spec.steps))
    return tuple(calls for calls in batches if calls.images and calls.count)


def estimate_seconds(recipe: Recipe, step: Step) -> float | None:
    """Seconds for what `step` lacks, from a few denoiser calls made now; None where it cannot be
    told.

    Raises DmqError if the model cannot be loaded."""
    try:
        questions = step.questions(recipe)
    except DmqError:  # what it asks depends on what is missing
        return None
    counted = [count_calls(question) for question in questions]
    if not counted or None in counted:
        return None
    return sum(
        calls.count * calls.slower * time_step(recipe.model, recipe.sampling, calls.images)
        for several in counted
        for calls in several or ()
    )
