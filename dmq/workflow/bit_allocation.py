"""From a table of costs and a budget to a recipe in which every layer has a format of its own.

Nothing is run here.
"""

import dataclasses
import glob
import re

from ..allocation.overrides import to_overrides
from ..artifacts.model_info import get_info
from ..errors import DmqError
from ..recipe import Override, Recipe
from ..results import Allocation


MIXED = re.compile(r", [0-9.]+ bits mixed$")  # what an allocation adds to a recipe's name


def apply_allocation(recipe: Recipe, allocation: Allocation) -> Recipe:
    """`recipe` with an override for each layer of `allocation`; those of an earlier allocation go,
    others stay.

    They come last, so for weights they are stronger than what stays. Raises DmqError if the
    allocation is of another model than the recipe's."""
    known = get_info(recipe.model)
    names = {layer.name for layer in known.layers}
    stranger = next((name for name in allocation.layers if name not in names), None)
    if stranger is not None or allocation.fingerprint not in ("", known.fingerprint):
        what = f"it has no layer {stranger}" if stranger is not None else "its weights are others"
        raise DmqError(
            f"the choices were made from a table of another model than {known.name!r}: {what}. "
            "Make a table for it."
        )
    exact = {glob.escape(name) for name in names}
    kept = [one for one in recipe.overrides if not (one.layers in exact and _is_choice(one))]
    name = f"{MIXED.sub('', recipe.name)}, {allocation.average_bits:.1f} bits mixed"
    return dataclasses.replace(
        recipe, name=name, overrides=(*kept, *to_overrides(allocation)), mixed=None
    )


def _is_choice(override: Override) -> bool:
    return None not in (override.weight_bits, override.format) and override.activation_bits is None
