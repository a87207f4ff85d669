"""Watching the float model: the capture that all else stands on."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

from ..artifacts import Capture, store
from ..models.work_plan import plan_capture
from ..progress import Progress
from ..recipe import Recipe


def capture(recipe: Recipe, *, again: bool = False, **how: Any) -> Generator[Progress, None, Path]:
    """Watch the float model generate the calibration images; returns the folder of the statistics.

    Does nothing if there are such statistics already, unless `again`. `how` may have `trajectories`:
    the denoiser calls of so many images are saved beside them (`captures.load_trajectory`); `scheduler`
    and `workers` are those of `engine.run`: batches that are finished when the generator is closed
    are then kept; otherwise, and where calls are saved, closing it leaves no trace.
    """
    question = Capture.of(recipe)
    if again or store.find(question) is None:
        yield Progress("Load the model", 0, 1)
        yield plan_capture(recipe)
        yield from store.get(question, again=again, **how)
    return store.find(question)
