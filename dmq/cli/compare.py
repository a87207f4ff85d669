"""`dmq compare`: several recipes of one model from the same noise; with options also along the steps,
or with the error of some steps amplified.
"""

import argparse
from collections.abc import Callable

from ..errors import DmqError
from ..store import runs
from .arguments import (
    choose_comparison,
    choose_engines,
    choose_recipe,
    cluster_arguments,
    cluster_options,
    comparison_arguments,
    recipes_argument,
)
from .terminal import show_progress
from .views import over_time, probe
from .views.report import print_run


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Offer the command; `add` makes a parser from name, function and help."""
    one = add("compare", compare, "Compare recipes of one model, from the same noise.")
    recipes_argument(one)
    comparison_arguments(one)
    cluster_arguments(one)
    other = one.add_argument_group("other comparisons, which are printed and not saved as runs")
    other.add_argument("--over-time", action="store_true", help="follow the errors along the steps")
    other.add_argument("--probe", action="store_true", help="amplify the error of some steps (PCR)")
    other.add_argument("--again", action="store_true", help="even if the same was asked before")
    over_time.add_arguments(one.add_argument_group("with --over-time"))
    probe.add_arguments(one.add_argument_group("with --probe, for one recipe, prompt and seed"))


def compare(given: argparse.Namespace) -> None:
    from ..evaluation.compare import compare_images

    if given.over_time and given.probe:
        raise DmqError("--over-time and --probe are two comparisons; give either.")
    if given.over_time:
        over_time.over_time(given)
        return
    if given.probe:
        probe.probe(given)
        return
    recipes = choose_engines(
        tuple(choose_recipe(name, given.model) for name in given.recipes), given.engine
    )
    name = given.name or runs.free_name(" vs ".join(recipe.name for recipe in recipes))
    asked = choose_comparison(given, recipes[0])
    show_progress(compare_images(asked, recipes, name=name, **cluster_options(given)))
    print_run(name)
