"""Watching the float model: the capture that all else stands on."""

from collections.abc import Generator
from pathlib import Path

from .. import runs
from ..progress import Progress, progress_timer, relay
from ..recipe import Recipe
from .known import libraries, load
from .placing import plan_capture


def capture(
    recipe: Recipe, *, again: bool = False, trajectories: int = 0
) -> Generator[Progress, None, Path]:
    """Watch the float model draw the calibration pictures; returns the folder of the statistics.

    Does nothing if there are such statistics already, unless `again`. The denoiser calls of the
    first `trajectories` pictures are saved beside them (`runs.load_trajectory`). Closing the
    generator leaves no trace."""
    folder = runs.find_capture(recipe)
    if folder is not None and not again:
        return folder
    yield Progress("Load the model", 0, 1)
    libraries()
    from ..capture.activations import capture_activations

    loaded = load(recipe.model)
    yield plan_capture(recipe)
    at = progress_timer("Capture")
    work = capture_activations(
        loaded, recipe.sampling, recipe.calibration, trajectories=trajectories
    )
    seen = yield from relay(work, at)
    folder = runs.home() / "captures" / runs.capture_key(recipe)
    runs.save_stats(folder, seen.stats, loaded.info, seen.trajectory)
    return folder
