"""A capture whose batches are watched by several processes, or on a Dask cluster."""

from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from .. import engine
from ..errors import DmqError
from ..models.loading import Loaded, load
from ..progress import relay, run_to_end
from ..recipe import Calibration, Sampling
from ..results import ActivationStats
from ..store import captures
from ..store.extremes import EXACT
from .activations import calibration_images, capture_activations, merge, sampler_line


@dataclass(frozen=True)
class Batch:
    """Batch `number` of the calibration images of a model that workers load by its name."""

    model: str
    sampling: Sampling
    calibration: Calibration
    number: int

    @property
    def name(self) -> str:
        return f"{self.number:05d}"


def watch(batch: Batch) -> ActivationStats:
    """The statistics of one batch. Runs anywhere."""
    loaded, size = load(batch.model), batch.calibration.batch
    images = calibration_images(loaded, batch.calibration)
    images = images[batch.number * size : (batch.number + 1) * size]
    work = capture_activations(loaded, batch.sampling, batch.calibration, images=images)
    return run_to_end(work).stats


def capture_batches(
    loaded: Loaded,
    model: str,
    sampling: Sampling,
    calibration: Calibration,
    partial: Path,
    *,
    scheduler: str = "",
    workers: int = 1,
) -> Generator[tuple[int, int], None, ActivationStats]:
    """Yield (steps done, steps in all) while workers watch the batches; return what
    `capture_activations` would.

    Finished batches are kept in `partial`, and used when it is called again. `scheduler` and
    `workers` are those of `engine.run`, whose errors it raises."""
    count = -(-calibration.samples // calibration.batch)
    batches = [Batch(model, sampling, calibration, n) for n in range(count)]
    now = loaded.info.fingerprint, sampler_line(loaded, sampling)
    missing = [batch for batch in batches if _load_finished(partial / batch.name) != now]
    work = engine.run(
        watch,
        missing,
        kept=lambda batch, stats: captures.save_stats(partial / batch.name, stats, channels=EXACT),
        scheduler=scheduler,
        workers=workers,
    )
    steps, before = sampling.steps, count - len(missing)
    yield from relay(work, lambda done, *_: (steps * (before + done), steps * count))
    # In the order of the images, whoever was first: sums of floats depend on it in the last bit.
    return reduce(merge, (captures.load_stats(partial / batch.name) for batch in batches))


def _load_finished(folder: Path) -> tuple[str, str] | None:
    """The weights and the sampler of a batch that is kept."""
    with suppress(DmqError):  # there is none, or it is damaged
        stats = captures.load_stats(folder)
        return stats.fingerprint, stats.sampler
    return None
