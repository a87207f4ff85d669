"""`dmq learn`: weights learned from the inputs of their layers (GPTQ, smoothed low rank), in a
terminal.
"""

import argparse
import sys
from collections.abc import Callable

from ..errors import DmqError
from ..recipe import choice_label
from .asking import chosen_recipe, print_table, recipe_argument, told


SHOWN = 10  # layers that err most


def add_to(add: Callable[[str, Callable, str], argparse.ArgumentParser]) -> None:
    """Offer the command of this file; `add` makes a parser from name, function and help."""
    one = add(
        "learn",
        learn,
        "Learn weights from inputs (GPTQ, smoothing), share out a budget; print what it gives.",
    )
    recipe_argument(one)
    one.add_argument(
        "--layers", action="store_true", help="every layer, not only those that err most"
    )
    one.add_argument("--again", action="store_true", help="even if they were learned already")


def learn(given: argparse.Namespace) -> None:
    from .. import stages

    recipe = chosen_recipe(given.recipe, given.model)
    told(stages.capture(recipe))
    told(stages.learn_mix(recipe))
    if not stages.searched(recipe):
        told(stages.search(recipe))
    told(stages.learn_weights(recipe, again=given.again))
    found = stages.weights_result(recipe)
    if recipe.mixed:
        print(stages.plan(recipe).coverage_line())
    if not found and recipe.mixed:
        return
    if not found:
        raise DmqError(
            "nothing to learn from inputs: set the recipe's weights.format to Gptq, or to LowRank "
            "with activations that are in float or dynamic."
        )
    rows = {row.layer.name: row for row in stages.plan(recipe).layers}
    order = (
        list(found) if given.layers else sorted(found, key=lambda name: -found[name].after)[:SHOWN]
    )
    print(
        "squared error of a layer's output over its power, %: nearest codes or unsmoothed, learned"
    )
    print_table(
        ["layer", "weights", "before", "learned", "smoothing"],
        [
            [
                name,
                choice_label(rows[name].weights),
                f"{100 * found[name].before:.4g}",
                f"{100 * found[name].after:.4g}",
                _smoothing(found[name].exponent),
            ]
            for name in order
        ],
        left=2,
    )
    means = (
        100 * sum(getattr(one, part) for one in found.values()) / len(found)
        for part in ("before", "after")
    )
    print("mean of {} layers: {:.4g} before, {:.4g} learned".format(len(found), *means))
    for name, one in found.items():
        if one.note:
            print(f"dmq: {name}: {one.note}", file=sys.stderr)


def _smoothing(exponent: float | None) -> str:
    return "none" if exponent is None else f"{exponent:.2g}"
