"""`dmq show`: what is known: the runs, a run, what a recipe does to its model, what was learned."""

import argparse
import sys
from collections.abc import Callable

from ..errors import DmqError
from ..store import folders, runs
from .arguments import choose_recipe, is_recipe
from .views import budget, learned, predictor, sensitivity
from .views.report import print_plan, print_run


VIEWS = {
    "plan": print_plan,
    "layers": lambda recipe: print_plan(recipe, layers=True),
    **learned.VIEWS,
    "sensitivity": sensitivity.print_tables,
    "predictor": predictor.print_predictions,
}


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Offer the command; `add` makes a parser from name, function and help."""
    one = add("show", show, "List the runs; print a run, or what is known of a recipe.")
    said = "of a run, or a recipe (JSON file or one that ships)"
    one.add_argument("name", nargs="?", metavar="NAME", help=said)
    one.add_argument(
        "what",
        nargs="?",
        choices=(*VIEWS, "budget"),
        metavar="WHAT",
        help=f"of a recipe: {', '.join(VIEWS)}; or budget: share one out by a table of costs",
    )
    said = "also every layer's bits, why it is float, bytes"
    one.add_argument("--layers", action="store_true", help=said)
    one.add_argument("--model", help="of the recipe, instead of its own")
    one.add_argument("--remove", action="store_true", help="delete the run")
    group = one.add_argument_group("with budget")
    group.add_argument("--table", metavar="TABLE", help=budget.TABLE)
    budget.add_arguments(group)


def show(given: argparse.Namespace) -> None:
    if given.name is None and (given.layers or given.model or given.remove):
        raise DmqError("show what? Name a run or a recipe; `dmq show` alone lists the runs.")
    if given.name is None:
        for name in runs.names():
            print(name)
        if not runs.names():
            print(f"no runs in {folders.home()} yet; `dmq run` makes one.", file=sys.stderr)
    elif given.remove:
        runs.remove(given.name)
    elif is_recipe(given.name):
        show_recipe(given)
    elif given.model:
        raise DmqError("--model is for recipes; a run is of the model it was made with.")
    elif given.what not in (None, "layers"):
        raise DmqError(f"{given.what} is of recipes, and {given.name!r} is none.")
    elif runs.folder_of(given.name) and given.name not in runs.names():
        shipped = "; ".join(runs.shipped_recipes())
        raise DmqError(
            f"no run or recipe called {given.name!r}; `dmq show` lists the runs, recipes are: "
            f"{shipped}."
        )
    else:
        print_run(given.name)
        for recipe in runs.load_recipes(given.name) if given.layers or given.what else ():
            print()
            print_plan(recipe, layers=True)


def show_recipe(given: argparse.Namespace) -> None:
    """Print what was asked of a recipe."""
    if given.what == "budget":
        if given.table is None:
            raise DmqError("show budget: name what it is shared out by with --table.")
        given.recipe = given.name
        budget.budget(given)
        return
    what = given.what or ("layers" if given.layers else "plan")
    VIEWS[what](choose_recipe(given.name, given.model))
