"""Learning the codes of weights from the inputs of their layers: GPTQ, and low rank with smoothed
inputs.

All inputs are those of the float model, whatever else a recipe quantizes: layers do not depend on
each other, so that what was learned for one is good in every recipe, and an interruption loses
nothing finished. (GPTQ as released walks through the blocks and gives each the outputs of the
rounded ones before it.)"""

import math
from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING

from ..errors import DmqError
from ..models.libraries import import_libraries, load
from ..progress import Progress, progress_timer, relay
from ..recipe import Recipe, WeightFormat
from ..store.learned import save_rounding
from .capturing import capture
from .known import statistics
from .searches import denoiser_calls
from .weights_kept import (
    AT_ONCE,
    IMAGES,
    STEPS,
    Task,
    learned_from_inputs,
    load_learned,
    place,
    variants,
)


if TYPE_CHECKING:
    from ..quantizers.weights import WeightCodes


def learn_weights(recipe: Recipe, *, again: bool = False) -> Generator[Progress, None, None]:
    """Learn the codes of all layers of `recipe` that are learned from inputs, and keep them layer
    by layer.

    Does nothing where that was done already, unless `again`; `weights_result` tells what was found.
    Layers that are finished when the generator is closed are kept: the next call goes on behind
    them."""
    tasks = learned_from_inputs(recipe)
    yield from _learn(
        recipe, [task for task in tasks if again or not place(recipe, task).is_dir()], len(tasks)
    )


def weight_variants(
    recipe: Recipe, choices: Iterable[WeightFormat], layers: Iterable[str]
) -> "Generator[Progress, None, dict[tuple[str, str], WeightCodes]]":
    """The codes of each of `layers` made into each of the `choices` that are learned from inputs,
    by (layer, label).

    Inputs are in float, as they are where the sensitivity of a layer is measured. Kept as by
    `learn_weights`."""
    yield from capture(recipe)
    asked = variants(recipe, choices, layers)
    yield from _learn(
        recipe, [task for task in asked.values() if not place(recipe, task).is_dir()], len(asked)
    )
    return {key: load_learned(recipe, task).codes for key, task in asked.items()}


def _learn(recipe: Recipe, missing: Sequence[Task], every: int) -> Generator[Progress, None, None]:
    """Learn and keep what is `missing` of `every` task; layers share moments, and as many as
    memory holds a pass.
    """
    if not missing:
        return
    yield Progress("Load the model", 0, 1)
    import_libraries()
    from ..capture.moments import in_turns, second_moments, spread_calls
    from ..reconstruction.from_inputs import channel_inputs, learn_weight, to_arrays

    loaded, stats = load(recipe.model), statistics(recipe)
    by_layer: dict[str, list[Task]] = {}
    for task in missing:
        by_layer.setdefault(task.layer, []).append(task)
    for (
        name
    ) in by_layer:  # said before anything is generated, and before it spreads through the model
        if not loaded.denoiser.get_submodule(name).weight.isfinite().all():
            raise DmqError(
                f"{name}: the weight has NaN or infinite values. Is the checkpoint sound?"
            )
    images = min(IMAGES, recipe.calibration.samples)
    trajectory = yield from denoiser_calls(recipe, images)
    at_once = max(AT_ONCE, math.ceil(images / min(STEPS, recipe.sampling.steps)))
    calls = spread_calls(trajectory, STEPS, images, min(at_once, images))
    already = done = every - len(missing)
    at = progress_timer("Learn weights from their inputs", already)
    for names in in_turns(loaded.denoiser, by_layer):
        shares = {task.inputs.dynamic for name in names for task in by_layer[name] if task.inputs}
        work = second_moments(
            loaded.denoiser,
            trajectory,
            calls,
            names,
            share=shares.pop() if len(shares) == 1 else "token",
        )
        moments = yield from relay(work, progress_timer("Watch the inputs of layers"))
        for name in names:
            for task in by_layer[name]:
                weight, maxima = (
                    loaded.denoiser.get_submodule(name).weight,
                    channel_inputs(stats, name),
                )
                try:
                    learned = learn_weight(
                        weight, task.weights, task.split, moments.get(name), maxima, task.inputs
                    )
                except DmqError as error:
                    raise DmqError(f"{name}: {error}") from None
                save_rounding(place(recipe, task, own=True), *to_arrays(learned))
                done += 1
                yield at(done, every)
            moments.pop(name, None)
