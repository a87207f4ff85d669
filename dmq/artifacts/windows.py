"""What leaving each window of steps in float does to images (PCR); measured in the room above."""

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from .. import jsonio
from ..results import WindowEffects
from ..store import folders, learned
from ..store.artifact import load, places, save
from .questions import Windows


@places.register
def _(question: Windows) -> Sequence[Path]:
    asked = jsonio.key_data(question.recipe), *astuple(question.run)
    return folders.answer_places("windows", *asked, question.windows, question.images)


@save.register
def _(question: Windows, folder: Path, value: WindowEffects) -> None:
    learned.save_windows(folder, value)


@load.register
def _(question: Windows, folder: Path) -> WindowEffects:
    return learned.load_windows(folder)
