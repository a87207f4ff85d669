"""What was calibrated and measured along quantized trajectories, as it is kept in the run
folder.
"""

import dataclasses
from functools import lru_cache
from pathlib import Path

from .. import jsonio, runs
from ..errors import DmqError
from ..recipe import SIMULATED, Recipe
from ..results import ActivationStats, ProgressiveRanges, WindowEffects
from .known import load_statistics, statistics, statistics_place


def plain(recipe: Recipe) -> Recipe:
    """`recipe` with ranges from the float trajectory and the same bits at all steps: what PCR
    starts from.
    """
    return dataclasses.replace(recipe, progressive=None, relaxing=None, engine=SIMULATED)


def windows_measured(recipe: Recipe) -> bool:
    """Is there what `recipe`'s choice of relaxed steps stands on? True if it needs no measuring."""
    return (
        recipe.relaxing is None
        or recipe.relaxing.where != "auto"
        or windows_folder(recipe).is_dir()
    )


def windows_known(recipe: Recipe) -> bool:
    """Were the windows of `recipe` measured, whether its choice stands on that or not?"""
    return windows_folder(recipe).is_dir()


def window_effects(recipe: Recipe) -> WindowEffects:
    """What leaving each window of steps in float does to the images of `recipe`, as it was
    measured.

    Raises DmqError if it was not measured yet.
    """
    folder = windows_folder(recipe)
    if not folder.is_dir():
        raise DmqError(
            "recipe.relaxing: no window of steps was measured yet for this recipe; press Measure "
            "in Over time, or run "
            "`dmq windows` or `dmq run` with this recipe."
        )
    return _load_windows(folder, (folder / "windows.safetensors").stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _load_windows(folder: Path, _changed: int) -> WindowEffects:
    return runs.load_windows(folder)


def windows_folder(recipe: Recipe, *, own: bool = False) -> Path:
    """Where the measured effects of windows are or will be, for the settings in
    `recipe.relaxing` or its defaults.
    """
    spec = recipe.relaxing
    cut = (spec.windows, spec.images) if spec else (5, 8)
    return runs.trajectory_folder("windows", *_asked(plain(recipe)), *cut, own=own)


def relaxed(recipe: Recipe) -> tuple[int, ...]:
    """The relaxed steps of `recipe`, in sampling order.

    Raises DmqError if a choice needs measuring first.
    """
    from ..trajectory.relaxing import relaxed_steps

    spec = recipe.relaxing
    if spec is None:
        return ()
    return relaxed_steps(
        spec, recipe.sampling.steps, window_effects(recipe) if spec.where == "auto" else None
    )


def calibrated(recipe: Recipe) -> bool:
    """Have the ranges of `recipe` been set along the quantized trajectory, or need they not be?"""
    return recipe.progressive is None or progressive_folder(recipe).is_dir()


def progressive_ranges(recipe: Recipe) -> ProgressiveRanges | None:
    """The ranges of `recipe` and what was seen on the quantized trajectory; None if they are those
    of the float one.

    Raises DmqError if they were not set yet.
    """
    if recipe.progressive is None:
        return None
    folder = progressive_folder(recipe)
    if not folder.is_dir():
        raise DmqError(
            "recipe.progressive: the ranges were not set along the quantized trajectory yet; press "
            "Calibrate in Over "
            "time, or run `dmq calibrate` or `dmq run` with this recipe."
        )
    return _load_progressive(
        folder, (folder / "ranges.safetensors").stat().st_mtime_ns, *statistics_place(recipe)
    )


@lru_cache(maxsize=4)
def _load_progressive(
    folder: Path, _changed: int, base: Path, base_changed: int
) -> ProgressiveRanges:
    return runs.load_progressive(folder, load_statistics(base, base_changed))


def progressive_folder(recipe: Recipe, *, own: bool = False) -> Path:
    """Where the ranges of a progressive `recipe` are or will be."""
    chosen = relaxed(recipe)
    return runs.trajectory_folder("progressive", *_asked(recipe), list(chosen), own=own)


def progressive_changed(recipe: Recipe) -> int | None:
    """When the ranges of `recipe` were last set; None if they never were."""
    file = progressive_folder(recipe) / "ranges.safetensors" if recipe.progressive else None
    return file.stat().st_mtime_ns if file and file.is_file() else None


def calls_kept(recipe: Recipe) -> int:
    """How many denoiser calls are finished of a calibration of `recipe` that was stopped."""
    folder = progressive_folder(recipe, own=True)
    return len(list(folder.with_name(f"{folder.name}-calls").glob("[0-9]*")))


def seen_statistics(recipe: Recipe) -> ActivationStats:
    """The statistics that the ranges of `recipe` are made of: of the float trajectory, or of the
    quantized one.
    """
    walked = progressive_ranges(recipe)
    return walked.stats if walked else statistics(recipe)


def walked(recipe: Recipe) -> tuple:
    """All that the images of `recipe` depend on, plain data.

    Raises DmqError if a choice needs measuring first.
    """
    return *_asked(recipe), list(relaxed(recipe))


def _asked(recipe: Recipe) -> tuple:
    """All that a walk of the quantized model depends on; later additions to recipes leave it as
    it is.
    """
    asked = jsonio.key_data(
        dataclasses.replace(recipe, name="", unknown_timestep="error", engine=SIMULATED)
    )
    stats = statistics(recipe)
    return asked, stats.fingerprint, stats.sampler, stats.timesteps
