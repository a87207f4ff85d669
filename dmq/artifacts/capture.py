"""Watching the float model: the capture that all else stands on."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from ..models.libraries import import_libraries
from ..models.libraries import load as load_model
from ..models.work_plan import plan_capture
from ..progress import Progress, progress_timer, relay
from ..results import ActivationStats
from ..store import captures
from ..store.artifact import compute, load, places, save
from .places import own_and_shipped
from .questions import Capture


@places.register(Capture)
def _(question: Capture) -> Sequence[Path]:
    return own_and_shipped("captures", captures.capture_key(question.recipe))


@compute.register(Capture)
def _(
    question: Capture,
    partial: Path,
    *,
    trajectories: int = 0,
    scheduler: str = "",
    workers: int = 1,
) -> Generator[Progress, None, Any]:
    """A `capture.activations.Captured`; `scheduler` and `workers` are those of `engine.run`.

    With these, finished batches are kept. Otherwise, and where calls are saved, closing the
    generator leaves no trace.
    """
    yield Progress("Load the model", 0, 1)
    yield plan_capture(question.recipe)
    import_libraries()
    from ..capture.activations import Captured, capture_activations
    from ..capture.batches import capture_batches

    loaded, at = load_model(question.model), progress_timer("Capture")
    if (scheduler or workers != 1) and not trajectories:
        generated = question.model, question.sampling, question.calibration
        batches = capture_batches(loaded, *generated, partial, scheduler=scheduler, workers=workers)
        return Captured((yield from relay(batches, at)), None)
    work = capture_activations(
        loaded, question.sampling, question.calibration, trajectories=trajectories
    )
    return (yield from relay(work, at))


@save.register(Capture)
def _(question: Capture, folder: Path, value: Any) -> None:
    captures.save_stats(folder, value.stats, load_model(question.model).info, value.trajectory)


@load.register(Capture)
def _(question: Capture, folder: Path) -> ActivationStats:
    return captures.load_stats(folder)
