"""Ranges along the quantized trajectory (PCR); calibrated in the room above."""

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from .. import jsonio
from ..recipe import PerTensor
from ..results import ActivationStats, ProgressiveRanges
from ..store import folders, learned
from ..store.artifact import load, places, save
from . import known
from .questions import Progressive


@places.register
def _(question: Progressive) -> Sequence[Path]:
    asked = jsonio.key_data(question.recipe), *astuple(question.run)
    return folders.answer_places("progressive", *asked, list(question.relaxed))


@save.register
def _(
    question: Progressive, folder: Path, value: tuple[ProgressiveRanges, ActivationStats]
) -> None:
    """`value` has the statistics of the capture too: what is equal to them is not kept twice."""
    made, base = value
    recipe = question.recipe
    by_channel = not isinstance(recipe.activations.granularity, PerTensor)
    splits = known.info_for(recipe).splits
    learned.save_progressive(folder, made, base, by_channel=by_channel, splits=splits)


@load.register
def _(question: Progressive, folder: Path, statistics: ActivationStats) -> ProgressiveRanges:
    return learned.load_progressive(folder, statistics)
