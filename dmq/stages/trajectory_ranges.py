"""What was calibrated and measured along quantized trajectories, as a recipe asks for it."""

import dataclasses

from .. import jsonio
from ..artifacts import Progressive, Windows, store
from ..recipe import SIMULATED, Recipe, Relaxing
from ..results import ActivationStats, ProgressiveRanges, WindowEffects
from .known import run_of, statistics


def plain(recipe: Recipe) -> Recipe:
    """`recipe` with ranges from the float trajectory and the same bits at all steps: what PCR
    starts from.
    """
    return dataclasses.replace(recipe, progressive=None, relaxing=None, engine=SIMULATED)


def windows_of(recipe: Recipe) -> Windows:
    """The measurement of windows for the settings in `recipe.relaxing` or its defaults.

    Raises DmqError if nothing was captured yet.
    """
    spec = recipe.relaxing or Relaxing()
    return Windows(
        recipe=_asked(plain(recipe)),
        windows=spec.windows,
        images=spec.images,
        run=run_of(recipe),
    )


def windows_measured(recipe: Recipe) -> bool:
    """Is there what `recipe`'s choice of relaxed steps stands on? True if it needs no measuring."""
    auto = recipe.relaxing is not None and recipe.relaxing.where == "auto"
    return not auto or windows_known(recipe)


def windows_known(recipe: Recipe) -> bool:
    """Were the windows of `recipe` measured, whether its choice stands on that or not?"""
    return store.find(windows_of(recipe)) is not None


def window_effects(recipe: Recipe) -> WindowEffects:
    """What leaving each window of steps in float does to the images of `recipe`, as it was
    measured.

    Raises DmqError if it was not measured yet.
    """
    return store.value(windows_of(recipe))


def relaxed(recipe: Recipe) -> tuple[int, ...]:
    """The relaxed steps of `recipe`, in sampling order. Raises DmqError if a choice needs
    measuring first.
    """
    from ..trajectory.relaxing import relaxed_steps

    spec = recipe.relaxing
    if spec is None:
        return ()
    effects = window_effects(recipe) if spec.where == "auto" else None
    return relaxed_steps(spec, recipe.sampling.steps, effects)


def progressive_of(recipe: Recipe) -> Progressive | None:
    """The ranges of a progressive `recipe`; None if they are those of the float trajectory.

    Raises DmqError if a choice of steps needs measuring first.
    """
    if recipe.progressive is None:
        return None
    return Progressive(recipe=_asked(recipe), relaxed=relaxed(recipe), run=run_of(recipe))


def calibrated(recipe: Recipe) -> bool:
    """Have the ranges of `recipe` been set along the quantized trajectory, or need they not be?"""
    return recipe.progressive is None or store.find(progressive_of(recipe)) is not None


def progressive_ranges(recipe: Recipe) -> ProgressiveRanges | None:
    """The ranges of `recipe` and what was seen on the quantized trajectory; None if they are
    those of the float one.

    Raises DmqError if they were not set yet.
    """
    question = progressive_of(recipe)
    return question and store.value(question)


def calls_kept(recipe: Recipe) -> int:
    """How many denoiser calls are finished of a calibration of `recipe` that was stopped."""
    return len(list(store.partial(progressive_of(recipe)).glob("[0-9]*")))


def seen_statistics(recipe: Recipe) -> ActivationStats:
    """The statistics that the ranges of `recipe` are made of: of the float trajectory, or of the
    quantized one.
    """
    ranges = progressive_ranges(recipe)
    return ranges.stats if ranges else statistics(recipe)


def walked(recipe: Recipe) -> tuple:
    """All that the images of `recipe` depend on, plain data.

    Raises DmqError if a choice needs measuring first.
    """
    chosen = list(relaxed(recipe))
    return jsonio.key_data(_asked(recipe)), *dataclasses.astuple(run_of(recipe)), chosen


def _asked(recipe: Recipe) -> Recipe:
    """`recipe` without what a walk of its quantized model does not depend on."""
    return dataclasses.replace(recipe, name="", unknown_timestep="error", engine=SIMULATED)
