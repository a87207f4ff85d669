"""Rounding of the time embedding's weights (TIAR)."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..models.libraries import import_libraries
from ..models.libraries import load as load_model
from ..progress import Progress, progress_timer, relay
from ..results import ActivationStats
from ..store import captures, folders
from ..store.artifact import compute, load, places, save
from ..store.learned import load_rounding, save_rounding
from .calls import conditioning
from .model_info import get_temporal_block
from .questions import TimeRounding


if TYPE_CHECKING:
    from ..reconstruction.temporal import LearnedRounding


@places.register(TimeRounding)
def _(question: TimeRounding, statistics: ActivationStats) -> Sequence[Path]:
    block = get_temporal_block(question.capture.model)
    # The conditioning that is learned from comes from the capture.
    finite = block is not None and block.finite
    source = "" if finite else captures.capture_key(question.capture.recipe)
    asked = statistics.fingerprint, statistics.timesteps, question.formats, question.spec, source
    return folders.answer_places("rounding", *asked)


@compute.register(TimeRounding)
def _(
    question: TimeRounding, partial: Path, statistics: ActivationStats
) -> Generator[Progress, None, "LearnedRounding"]:
    """Needs no images; where more than t enters, what the calibration images are made from."""
    yield Progress("Load the model", 0, 1)
    import_libraries()
    from ..models.temporal import every_pair
    from ..reconstruction.temporal import learn_rounding

    loaded, block = load_model(question.capture.model), get_temporal_block(question.capture.model)
    assert block is not None  # else there are no formats
    t, given = every_pair(statistics.timesteps, conditioning(question.capture.recipe))
    formats = dict(question.formats)
    work = learn_rounding(loaded.denoiser, loaded.adapter, block, formats, question.spec, t, given)
    return (yield from relay(work, progress_timer("Learn the rounding of the time embedding")))


@save.register(TimeRounding)
def _(question: TimeRounding, folder: Path, value: "LearnedRounding") -> None:
    from ..reconstruction.temporal import to_arrays

    save_rounding(folder, *to_arrays(value))


@load.register(TimeRounding)
def _(question: TimeRounding, folder: Path) -> "LearnedRounding":
    import_libraries()
    from ..reconstruction.temporal import from_arrays

    return from_arrays(*load_rounding(folder))
