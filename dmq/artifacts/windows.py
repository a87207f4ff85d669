"""What leaving each window of steps in float does to images (PCR); measured in the room above."""

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from .. import jsonio
from ..store import folders
from ..store.artifact import places
from .questions import Windows


@places.register
def _(question: Windows) -> Sequence[Path]:
    asked = jsonio.key_data(question.recipe), *astuple(question.run)
    return folders.answer_places("windows", *asked, question.windows, question.images)
