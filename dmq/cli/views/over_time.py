"""The errors of recipes along the steps, as text and CSV."""

import argparse
import csv
import io
import math

import numpy as np

from ...recipe import Comparison, Recipe
from ...results import OverTime
from ...store.prompts import UNPROMPTED
from ..arguments import choose_recipe
from ..terminal import check_place, print_table, show_progress, write


def add_arguments(to: argparse._ActionsContainer) -> None:
    """Options of the question."""
    to.add_argument("--csv", metavar="FILE", help="also write every step")


def over_time(given: argparse.Namespace) -> None:
    from ...evaluation import error_curves
    from ...workflow.answers import get_plan

    recipes = tuple(choose_recipe(name, given.model) for name in given.recipes)
    comparison = Comparison(
        prompts=prompts_for(recipes[0], given.prompts or Comparison().prompts),
        seeds=tuple(given.seeds or (0,)),
        sampling=recipes[0].sampling,
    )
    if given.csv:
        check_place(given.csv)
    found = show_progress(error_curves.measure_error_curves(comparison, recipes, again=given.again))
    rows = [
        [
            recipe.name,
            f"{found.accumulated[recipe.name][-1].mean():.4e}",
            f"{found.isolated[recipe.name].mean():.4e}",
            f"{found.mean_bits[recipe.name]:.2f}",
            f"{get_plan(recipe).bytes:,}",
        ]
        for recipe in recipes
    ]
    images = len(comparison.prompts) * len(comparison.seeds)
    print(
        f"{recipes[0].model}: squared distance to the float model over its squared length, "
        f"{images} image{'s' if images > 1 else ''}"
    )
    print_table(["recipe", "finished error", "isolated, mean", "mean bits", "bytes"], rows)
    if given.csv:
        write(given.csv, as_csv(found, recipes, comparison))


def prompts_for(recipe: Recipe, wanted: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """The prompts to generate, or what stands for one if the model takes none."""
    from ...artifacts.model_info import get_info

    return tuple(wanted) if get_info(recipe.model).prompted else (UNPROMPTED,)


def as_csv(found: OverTime, recipes: tuple[Recipe, ...], comparison: Comparison) -> str:
    """A line for each recipe and step: errors (those of several images as mean, least and
    most), |c_i|, context.
    """
    parts = {"accumulated": found.accumulated} | (
        {"predicted_x0": found.predicted_x0} if found.predicted_x0 else {}
    )
    heads = [f"{part}{end}" for part in parts for end in ("", "_least", "_most")]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        [
            "model",
            "recipe",
            "step",
            "timestep",
            *heads,
            "isolated",
            "coefficient",
            "isolated_weighed",
            "mean_bits",
            "images",
            "seeds",
            "prompts",
        ]
    )
    context = [
        len(comparison.prompts) * len(comparison.seeds),
        " ".join(map(str, comparison.seeds)),
        " | ".join(comparison.prompts),
    ]
    for recipe in recipes:
        for i, t in enumerate(found.timesteps):
            errors = [
                f(part[recipe.name][i])
                for part in parts.values()
                for f in (np.mean, np.min, np.max)
            ]
            alone, weight = found.isolated[recipe.name][i], found.coefficients[i]
            table.writerow(
                [
                    recipe.model,
                    recipe.name,
                    i,
                    f"{t:g}",
                    *map(_plain, errors),
                    _plain(alone),
                    _plain(weight),
                    _plain(weight**2 * alone),
                    _plain(found.mean_bits[recipe.name]),
                    *context,
                ]
            )
    return text.getvalue()


def _plain(value: float) -> str:
    """A number that reads back as itself; nothing where none is known."""
    return repr(float(value)) if math.isfinite(value) else ""
