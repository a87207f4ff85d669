"""`dmq prepare`: what a recipe needs before it can quantize its model, told or done, in a
terminal.
"""

import argparse
import sys
from collections.abc import Callable

from ..errors import DmqError
from ..recipe import Recipe
from .asking import chosen_recipe, print_table, recipe_argument, told


def add_to(add: Callable[[str, Callable, str], argparse.ArgumentParser]) -> None:
    """Offer the command of this file; `add` makes a parser from name, function and help."""
    one = add(
        "prepare",
        prepare,
        "Capture, search, learn and calibrate whatever a recipe needs and lacks.",
    )
    recipe_argument(one)
    one.add_argument(
        "--only",
        default="",
        metavar="NAME",
        help="as far as that alone: capture, bits, groups, "
        "weights, time, blocks, windows or ranges, and what it stands on",
    )
    one.add_argument("--again", action="store_true", help="what --only names even if it is there")
    one.add_argument(
        "--dry-run", action="store_true", help="only say what is there and what is missing"
    )


def prepare(given: argparse.Namespace) -> None:
    from .. import stages

    if given.again and not given.only:
        raise DmqError("--again needs to know what: name it with --only.")
    recipe = chosen_recipe(given.recipe, given.model)
    if given.dry_run:
        print_steps(recipe, given.only)
        return
    lacking = stages.missing(recipe, given.only)
    told(stages.prepare(recipe, only=given.only, again=given.again))
    done = ", ".join(step.name for step in lacking) or (given.only if given.again else "")
    print(
        f"{recipe.name}: {f'made {done}' if done else 'all is there'}; `dmq run` samples with it."
    )


def print_steps(recipe: Recipe, only: str) -> None:
    """A line for each thing that `recipe` asks for: is it there, and how long will it take if
    that can be told?
    """
    from .. import stages

    lacking = {step.name for step in stages.missing(recipe, only)}
    asked = stages.asked_steps(recipe, only)
    print_table(
        ["step", "what", "state"],
        [[step.name, step.title, "missing" if step.name in lacking else "there"] for step in asked],
        left=3,
    )
    if "capture" in lacking:
        print(stages.plan_capture(recipe))
        if len(lacking) > 1:
            print("The other steps say how long they take as soon as they run.", file=sys.stderr)
