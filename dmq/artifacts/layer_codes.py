"""Codes of weights learned from the inputs of their layers: GPTQ, and low rank with smoothed inputs.

All inputs are those of the float model, whatever else a recipe quantizes: layers do not depend on
each other, so that what was learned for one is good in every recipe, and an interruption loses
nothing finished. (GPTQ as released walks through the blocks and gives each the outputs of the
rounded ones before it.)"""

import math
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import jsonio
from ..errors import DmqError
from ..models.libraries import import_libraries
from ..models.libraries import load as load_model
from ..progress import Progress, progress_timer, relay
from ..results import ActivationStats
from ..store import captures, folders
from ..store.artifact import Answer, compute, compute_together, load, places, save
from ..store.learned import load_rounding, save_rounding
from .calls import denoiser_calls
from .questions import LayerCodes, LayerCodeSet


if TYPE_CHECKING:
    from ..reconstruction.from_inputs import LearnedWeight

MAX_STEPS, MAX_IMAGES = 50, 16  # of the float model's trajectory that are looked at
IMAGES_PER_STEP = 2  # which take turns


@places.register(LayerCodes)
def _(question: LayerCodes, statistics: ActivationStats) -> Sequence[Path]:
    inputs = question.inputs and jsonio.key_data(question.inputs)
    what = jsonio.key_data(question.weights), question.split, inputs
    run = statistics.fingerprint, statistics.sampler, statistics.timesteps
    source = captures.capture_key(question.capture.recipe), *run
    looked_at = MAX_STEPS, MAX_IMAGES, IMAGES_PER_STEP
    several = folders.answer_places("rounding", "weights", *what, *source, *looked_at)
    return [folder / question.layer for folder in several]


@compute_together.register(LayerCodes)
def _(
    first: LayerCodes, questions: Sequence[LayerCodes], already: int, statistics: ActivationStats
) -> Generator[Any, None, None]:
    """Layers share moments, and as many as memory holds a pass."""
    yield Progress("Load the model", 0, 1)
    import_libraries()
    from ..capture.moments import in_turns, second_moments, spread_calls
    from ..reconstruction.from_inputs import channel_inputs, learn_weight

    recipe = first.capture.recipe
    denoiser = load_model(recipe.model).denoiser
    by_layer: dict[str, list[LayerCodes]] = {}
    for question in questions:
        by_layer.setdefault(question.layer, []).append(question)
    for name in by_layer:  # said before anything is generated, and before it spreads
        if not denoiser.get_parameter(f"{name}.weight").isfinite().all():
            raise DmqError(
                f"{name}: the weight has NaN or infinite values. Is the checkpoint sound?"
            )
    images = min(MAX_IMAGES, recipe.calibration.samples)
    trajectory = yield from denoiser_calls(recipe, images)
    at_once = max(IMAGES_PER_STEP, math.ceil(images / min(MAX_STEPS, recipe.sampling.steps)))
    calls = spread_calls(trajectory, MAX_STEPS, images, min(at_once, images))
    done, total = already, already + len(questions)
    at = progress_timer("Learn weights from their inputs", already)
    for names in in_turns(denoiser, by_layer):
        shares = {each.inputs.dynamic for name in names for each in by_layer[name] if each.inputs}
        share = shares.pop() if len(shares) == 1 else "token"
        work = second_moments(denoiser, trajectory, calls, names, share=share)
        moments = yield from relay(work, progress_timer("Watch the inputs of layers"))
        for name in names:
            weight, maxima = (
                denoiser.get_parameter(f"{name}.weight"),
                channel_inputs(statistics, name),
            )
            for each in by_layer[name]:
                form, seen = (each.weights, each.split), (moments.get(name), maxima)
                try:
                    learned = learn_weight(weight, *form, *seen, each.inputs)
                except DmqError as error:
                    raise DmqError(f"{name}: {error}") from None
                yield Answer(each, learned)
                done += 1
                yield at(done, total)
            moments.pop(name, None)


@save.register(LayerCodes)
def _(question: LayerCodes, folder: Path, value: "LearnedWeight") -> None:
    from ..reconstruction.from_inputs import to_arrays

    save_rounding(folder, *to_arrays(value))


@load.register(LayerCodes)
def _(question: LayerCodes, folder: Path) -> "LearnedWeight":
    import_libraries()
    from ..reconstruction.from_inputs import from_arrays

    return from_arrays(*load_rounding(folder))


@compute.register(LayerCodeSet)
def _(
    question: LayerCodeSet, partial: Path, **learned: "LearnedWeight"
) -> Generator[Any, None, "dict[LayerCodes, LearnedWeight]"]:
    yield from ()
    return {each: learned[str(n)] for n, each in enumerate(question.questions)}
