"""`dmq run`: a recipe carried out from nothing to a saved run."""

import argparse
from collections.abc import Callable

from ..store import runs
from .arguments import (
    choose_comparison,
    choose_engines,
    choose_recipe,
    cluster_arguments,
    cluster_options,
    comparison_arguments,
    recipe_argument,
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

    recipe = choose_recipe(given.recipe, given.model)
    recipes = choose_engines((recipe,), given.engine)
    name = given.name or runs.free_name(recipe.name)
    asked = choose_comparison(given, recipe)
    show_progress(compare.run_comparison(recipes, asked, name=name, **cluster_options(given)))
    print_run(name)
