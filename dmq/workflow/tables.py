"""Tables of what layers cost, and scores of random mixes, as they are kept."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts import store
from ..artifacts.model_info import get_info
from ..artifacts.of_recipe import ask_costs, ask_scores
from ..errors import DmqError
from ..recipe import Predictor, Recipe, Sensitivity
from ..results import PredictorResult, SensitivityTable
from ..store import learned


if TYPE_CHECKING:
    from ..allocation.sensitivity import Agreement


def find_costs(recipe: Recipe, ask: Sensitivity) -> SensitivityTable | None:
    """The answer to `ask` for the model of `recipe`, if it is there."""
    question = ask_costs(recipe, ask)
    return store.value(question) if store.find(question) else None


def find_scores(recipe: Recipe, spec: Predictor) -> PredictorResult | None:
    """What random mixes told of the model of `recipe`; None if it was not asked yet."""
    question = ask_scores(recipe, spec)
    return store.value(question) if store.find(question) else None


def list_tables(model: str) -> list[tuple[str, Path]]:
    """Title and folder of everything kept for that model as it is now: the user's, newest first,
    then what ships.
    """
    found = []
    for folder in learned.find_tables(fingerprint=get_info(model).fingerprint):
        with contextlib.suppress(DmqError):  # a damaged one; who opens it by name is told
            found.append((learned.load_table(folder), folder))
    titles = [table.title for table, _ in found]
    return [
        (title if titles.count(title) == 1 else f"{title}: {', '.join(table.labels)}", folder)
        for title, (table, folder) in zip(titles, found, strict=True)
    ]


def load_table(folder: Path, model: str = "") -> SensitivityTable:
    """The table in a folder that `list_tables` named.

    Raises DmqError if it is damaged, or not of `model`.
    """
    return learned.load_table(folder, get_info(model) if model else None)


def compare_tables(a: SensitivityTable, b: SensitivityTable) -> "Agreement":
    """How alike two tables rank the layers and choices that both know: Spearman's and Kendall's
    correlation.
    """
    from ..allocation.sensitivity import agreement

    return agreement(a, b)
