"""Codes that are learned from the inputs of layers, as they are kept in the run folder: one file
for each layer.

What was learned for one recipe serves all others in which a layer is made into the same, and
measurements of sensitivity too."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import jsonio
from ..errors import DmqError
from ..models.libraries import import_libraries
from ..recipe import FLOAT, Activations, Gptq, LowRank, Recipe, WeightFormat, Weights, format_name
from ..store import captures
from ..store.learned import load_rounding, rounding_folder
from .known import info_for, statistics
from .mixing import resolved


if TYPE_CHECKING:
    from ..quantizers.codes import WeightCodes
    from ..reconstruction.from_inputs import LearnedWeight


STEPS, IMAGES = 50, 16  # of the float model's trajectory that are looked at, if it has so many
AT_ONCE = 2  # images at each step, which take turns


@dataclass(frozen=True, kw_only=True)
class Task:
    """A layer whose codes are learned from its inputs, and what they depend on beside these."""

    layer: str
    weights: Weights  # bits and format; what else there is speaks of other formats
    split: int = 0
    inputs: Activations | None = None  # how its inputs are rounded, where that matters


def learned_from_inputs(recipe: Recipe) -> tuple[Task, ...]:
    """The layers of `recipe` whose codes are learned from their inputs: those of GPTQ, and low rank
    with smoothing.

    Inputs are smoothed where they are in float or have dynamic ranges: calibrated ranges are
    of other inputs."""
    recipe = resolved(recipe)
    chosen = (recipe.weights.format, *(override.format for override in recipe.overrides))
    if not any(needs_inputs(form) for form in chosen):
        return ()
    from ..quantizers.resolve import resolve

    tasks = (
        _task(name, row.weights, row.split, recipe.activations, row.activation_bits)
        for name, row in resolve(info_for(recipe), recipe).items()
        if row.weights.bits < FLOAT and needs_inputs(row.weights.format)
    )
    return tuple(task for task in tasks if task)


def variants(
    recipe: Recipe, choices: Iterable[WeightFormat], layers: Iterable[str]
) -> dict[tuple[str, str], Task]:
    """By layer and short name of the choice: what must be learned to make `layers` into
    `choices`, inputs in float.
    """
    asked, names = [choice for choice in choices if needs_inputs(choice.format)], tuple(layers)
    splits = (info_for(recipe).splits or {}) if recipe.split_shortcuts else {}
    tasks = {
        (name, format_name(choice)): _task(name, choice, splits.get(name, 0), Activations(), FLOAT)
        for choice in asked
        if choice.bits < FLOAT
        for name in names
    }
    return {key: task for key, task in tasks.items() if task}


def needs_inputs(form: object) -> bool:
    """Is a weight of this format learned from the inputs of its layer?"""
    return isinstance(form, Gptq) or (isinstance(form, LowRank) and form.smooth)


def _task(
    layer: str, choice: WeightFormat | Weights, split: int, inputs: Activations, bits: int
) -> Task | None:
    """None for a split weight of low rank: its two sides are not smoothed."""
    weights = Weights(bits=choice.bits, format=choice.format)
    if isinstance(choice.format, Gptq):
        return Task(layer=layer, weights=weights, split=split)
    if split:
        return None
    rounded = Activations(bits=bits, symmetric=inputs.symmetric, dynamic=inputs.dynamic)
    return Task(
        layer=layer, weights=weights, inputs=rounded if bits < FLOAT else Activations(bits=FLOAT)
    )


def place(recipe: Recipe, task: Task, *, own: bool = False) -> Path:
    """Where the codes of `task` are or will be, learned on the images that the capture of
    `recipe` drew.
    """
    stats = statistics(recipe)
    what = jsonio.key_data(task.weights), task.split, task.inputs and jsonio.key_data(task.inputs)
    source = captures.capture_key(recipe), stats.fingerprint, stats.sampler, stats.timesteps
    folder = rounding_folder("weights", *what, *source, STEPS, IMAGES, AT_ONCE, own=own)
    if not own and not (folder / task.layer).is_dir():  # of those that ship, some may be there
        return (
            rounding_folder("weights", *what, *source, STEPS, IMAGES, AT_ONCE, own=True)
            / task.layer
        )
    return folder / task.layer


def has_learned_weights(recipe: Recipe) -> bool:
    """Have all codes been learned that are learned from inputs? True if there are none."""
    return all(place(recipe, task).is_dir() for task in learned_from_inputs(recipe))


def weights_result(recipe: Recipe) -> "dict[str, LearnedWeight]":
    """What was learned from inputs, by layer. Raises DmqError if some of it was not learned yet."""
    tasks = learned_from_inputs(recipe)
    missing = sum(not place(recipe, task).is_dir() for task in tasks)
    if missing:
        raise DmqError(
            f"recipe.weights.format: {missing} of {len(tasks)} weights were not learned from "
            "inputs yet; they are when images are generated, or run `dmq learn` with this recipe."
        )
    return {task.layer: load_learned(recipe, task) for task in tasks}


def learned_weights(recipe: Recipe) -> "dict[str, WeightCodes]":
    """The codes of the layers of `recipe` that are learned from inputs; raises DmqError if they
    were not yet.
    """
    return {name: learned.codes for name, learned in weights_result(recipe).items()}


def load_learned(recipe: Recipe, task: Task) -> "LearnedWeight":
    """What is kept of `task`."""
    import_libraries()
    from ..reconstruction.from_inputs import from_arrays

    return from_arrays(*load_rounding(place(recipe, task)))


def weights_changed(recipe: Recipe) -> tuple[int, ...]:
    """When each of the codes of `recipe` that are learned from inputs was kept; 0 for those that
    are not there.
    """
    files = (place(recipe, task) / "rounding.safetensors" for task in learned_from_inputs(recipe))
    return tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)
