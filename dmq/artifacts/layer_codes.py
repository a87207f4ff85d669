"""Codes of weights learned from the inputs of their layers: GPTQ, and low rank with smoothed inputs.

All inputs are those of the float model, whatever else a recipe quantizes: layers do not depend on
each other, so that what was learned for one is good in every recipe, and an interruption loses
nothing finished. (GPTQ as released walks through the blocks and gives each the outputs of the
rounded ones before it.)"""

import contextlib
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import engine, jsonio
from ..errors import DmqError
from ..models.libraries import import_libraries
from ..models.libraries import load as load_model
from ..progress import Progress, progress_timer, relay, relay_each, run_to_end
from ..results import ActivationStats
from ..store import captures, folders
from ..store.artifact import Answer, compute, compute_together, load, places, save, store
from ..store.learned import load_rounding, save_rounding
from .calls import denoiser_calls
from .questions import LayerCodes, LayerCodeSet


if TYPE_CHECKING:
    from ..reconstruction.from_inputs import LearnedWeight

LEARN = "Learn weights from their inputs"
MAX_GROUPS = 16  # of layers, for a cluster
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
    first: LayerCodes,
    questions: Sequence[LayerCodes],
    already: int,
    statistics: ActivationStats,
    *,
    scheduler: str = "",
    workers: int = 1,
) -> Generator[Any, None, None]:
    """`scheduler` and `workers` are those of `engine.run`: groups of layers go there."""
    at, done, total = progress_timer(LEARN, already), already, already + len(questions)
    if scheduler or workers != 1:
        learned: list[Answer] = []

        def keep(group: LayerGroup, kept: list) -> None:
            from ..reconstruction.from_inputs import from_arrays

            several = zip(group.questions, kept, strict=True)
            learned.extend(Answer(each, from_arrays(*parts)) for each, parts in several)

        groups = _group(questions, 4 * workers if workers > 1 else MAX_GROUPS)
        work = engine.run(learn_group, groups, kept=keep, scheduler=scheduler, workers=workers)
        with contextlib.closing(work):
            for _ in work:
                while learned:
                    yield learned.pop(0)
                    done += 1
                yield at(done, total)
        return

    def report(item: Any) -> Iterator[Any]:
        nonlocal done
        yield item
        if isinstance(item, Answer):
            done += 1
            yield at(done, total)

    yield from relay_each(_learn(questions, statistics), report)


@dataclass(frozen=True)
class LayerGroup:
    """Layers of one model that a worker learns together."""

    questions: tuple[LayerCodes, ...]


def learn_group(group: LayerGroup) -> list[tuple[dict[str, np.ndarray], dict[str, Any]]]:
    """What `to_arrays` makes of the codes of each question.

    Runs anywhere: it loads the model by name, and captures or records what is not in its run
    folder."""
    statistics = run_to_end(store.get(group.questions[0].capture))
    from ..reconstruction.from_inputs import to_arrays

    answers = [item for item in _learn(group.questions, statistics) if isinstance(item, Answer)]
    values = {answer.question: answer.value for answer in answers}
    return [to_arrays(values[question]) for question in group.questions]


def _group(questions: Sequence[LayerCodes], count: int) -> list[LayerGroup]:
    """The questions in at most `count` groups; those of a layer stay together."""
    layers = list(dict.fromkeys(question.layer for question in questions))
    parts = [set(part) for part in np.array_split(layers, min(count, len(layers)))]
    return [LayerGroup(tuple(each for each in questions if each.layer in part)) for part in parts]


def _learn(
    questions: Sequence[LayerCodes], statistics: ActivationStats
) -> Generator[Any, None, None]:
    """Layers share moments, and as many as memory holds a pass."""
    yield Progress("Load the model", 0, 1)
    import_libraries()
    from ..capture.moments import in_turns, second_moments, spread_calls
    from ..reconstruction.from_inputs import channel_inputs, learn_weight

    recipe = questions[0].capture.recipe
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
