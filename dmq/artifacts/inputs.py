"""What is computed from what: all `inputs` of dmq on one page.

A captured run also says what the others are keyed by, so their questions hold its `Run`.
"""

from ..store.artifact import Artifact, inputs
from .questions import Capture, GroupSearch, Progressive, Windows


@inputs.register
def _(question: GroupSearch) -> dict[str, Artifact]:
    return {"statistics": Capture.of(question.recipe)}


@inputs.register
def _(question: Windows) -> dict[str, Artifact]:
    return {"statistics": Capture.of(question.recipe)}


@inputs.register
def _(question: Progressive) -> dict[str, Artifact]:
    return {"statistics": Capture.of(question.recipe)}
