"""A recipe's budget carried out: what choices cost is measured or learned, and each layer gets
its own.
"""

import dataclasses
from functools import lru_cache

from ..allocation.overrides import to_overrides
from ..errors import DmqError
from ..recipe import Predictor, Recipe
from ..results import SensitivityTable
from .known import info
from .predictor_kept import predictor_result
from .sensitivity_kept import sensitivity_table


def mix_table(recipe: Recipe) -> SensitivityTable | None:
    """What `recipe`'s budget is shared out by; None if it is not known yet."""
    asked = recipe.mixed
    if not isinstance(asked.by, Predictor):
        return sensitivity_table(without_budget(recipe), asked.by)
    found = predictor_result(without_budget(recipe), asked.by)
    if found is None:
        return None
    return found.ridge_table() if asked.level == "ridge" else found.table(asked.level)


def resolved(recipe: Recipe) -> Recipe:
    """`recipe` with an override for each layer that its budget has a choice for; itself if it has
    no budget.

    Raises DmqError if what the budget is shared out by is not known yet, or if it cannot be kept.
    """
    if recipe.mixed is None:
        return recipe
    table = mix_table(recipe)
    if table is None:
        what = (
            "random mixes were not judged"
            if isinstance(recipe.mixed.by, Predictor)
            else "layers were not measured"
        )
        raise DmqError(
            f"recipe.mixed: {what} yet; they are when images are generated, or by `dmq learn`."
        )
    kept = {
        layer.name
        for layer in info(recipe.model).layers
        if not (recipe.protection.first_last and layer.role in ("first", "last"))
    }
    return _with_mix(recipe, _Known(table.only(kept)))


class _Known:
    """A table as part of a cache's key: two are the same if all that is chosen by is."""

    def __init__(self, table: SensitivityTable) -> None:
        self.table = table
        self._same = table.fingerprint, table.title, table.cost.tobytes(), table.bytes.tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Known) and self._same == other._same

    def __hash__(self) -> int:
        return hash(self._same)


@lru_cache(maxsize=8)
def _with_mix(recipe: Recipe, known: _Known) -> Recipe:
    from ..allocation.budget import allocate  # scipy takes a good part of the app's start

    chosen = allocate(known.table, recipe.mixed.budget)
    return dataclasses.replace(
        recipe, mixed=None, overrides=(*to_overrides(chosen), *recipe.overrides)
    )


def without_budget(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, mixed=None)
