"""`dmq run`: a recipe carried out from nothing to a saved run."""

import argparse
from collections.abc import Callable

from ..store import runs
from .arguments import (
    chosen_comparison,
    chosen_engines,
    chosen_recipe,
    cluster_arguments,
    comparison_arguments,
    recipe_argument,
    shared,
)
from .terminal import show_progress
from .views.report import print_run


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Offer the command; `add` makes a parser from name, function and help."""
    one = add("run", run, "Prepare a recipe, quantize, compare with the float model, save the run.")
    recipe_argument(one)
    comparison_arguments(one)
    cluster_arguments(one)


def run(given: argparse.Namespace) -> None:
    from ..evaluation import compare

    recipe = chosen_recipe(given.recipe, given.model)
    recipes = chosen_engines((recipe,), given.engine)
    name = given.name or runs.free_name(recipe.name)
    asked = chosen_comparison(given, recipe)
    show_progress(compare.run_comparison(recipes, asked, name=name, **shared(given)))
    print_run(name)
