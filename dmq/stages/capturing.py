"""Watching the float model: the capture that all else stands on."""

from collections.abc import Generator
from pathlib import Path

from .. import runs
from ..models.libraries import libraries, load
from ..models.work_plan import plan_capture
from ..progress import Progress, progress_timer, relay
from ..recipe import Recipe


def capture(
    recipe: Recipe,
    *,
    again: bool = False,
    trajectories: int = 0,
    scheduler: str = "",
    workers: int = 1,
) -> Generator[Progress, None, Path]:
    """Watch the float model generate the calibration images; returns the folder of the statistics.

    Does nothing if there are such statistics already, unless `again`. The denoiser calls of the
    first `trajectories` images are saved beside them (`runs.load_trajectory`). `scheduler` and
    `workers` are those of `engine.run`: batches that are finished when the generator is closed are
    then kept; otherwise, and where calls are saved, closing it leaves no trace."""
    folder = runs.find_capture(recipe)
    if folder is not None and not again:
        return folder
    yield Progress("Load the model", 0, 1)
    libraries()
    from ..capture.activations import capture_activations
    from ..capture.batches import capture_batches

    loaded = load(recipe.model)
    yield plan_capture(recipe)
    folder = runs.home() / "captures" / runs.capture_key(recipe)
    partial = folder.with_name(f"{folder.name}.partial")
    at = progress_timer("Capture")
    if (scheduler or workers != 1) and not trajectories:
        generated = recipe.model, recipe.sampling, recipe.calibration
        how = {"scheduler": scheduler, "workers": workers}
        stats = yield from relay(capture_batches(loaded, *generated, partial, **how), at)
        runs.save_stats(folder, stats, loaded.info)
        runs.discard(partial)
        return folder
    work = capture_activations(
        loaded, recipe.sampling, recipe.calibration, trajectories=trajectories
    )
    seen = yield from relay(work, at)
    runs.save_stats(folder, seen.stats, loaded.info, seen.trajectory)
    return folder
