"""`dmq prepare`: what a recipe needs before it can quantize its model, told or done."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import fields

from ..errors import DmqError
from ..recipe import Predictor, Recipe, Sensitivity
from .arguments import (
    choose_recipe,
    cluster_arguments,
    cluster_options,
    recipe_argument,
    spec_arguments,
)
from .terminal import print_table, show_progress
from .views import predictor, sensitivity


# What can be asked of a model besides what its recipe needs.
QUESTIONS = {"sensitivity": sensitivity.sensitivity, "predictor": predictor.predict}


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Offer the command; `add` makes a parser from name, function and help."""
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
        "weights, time, blocks, windows or ranges, and what it stands on; or sensitivity or "
        "predictor of the recipe's model, with options of their own",
    )
    one.add_argument("--again", action="store_true", help="what --only names even if it is there")
    one.add_argument(
        "--dry-run", action="store_true", help="only say what is there and what is missing"
    )
    said = "with --only capture: keep the denoiser calls of N images"
    one.add_argument("--trajectories", type=int, default=0, metavar="N", help=said)
    cluster_arguments(one)
    group = one.add_argument_group("with --only sensitivity or predictor")
    spec_arguments(group, Sensitivity, Predictor)
    sensitivity.add_arguments(group)
    predictor.add_arguments(group)


def prepare(given: argparse.Namespace) -> None:
    from ..workflow.learning import capture_statistics
    from ..workflow.steps import carry_out, list_missing

    options = {field.name for spec in (Sensitivity, Predictor) for field in fields(spec)}
    options = {name for name in (*options, "csv", "json") if getattr(given, name) is not None}
    if given.only in QUESTIONS and not given.dry_run:
        QUESTIONS[given.only](given)
        return
    if options and given.only not in QUESTIONS:
        raise DmqError(f"--{min(options)} is for --only sensitivity or --only predictor.")
    if given.again and not given.only:
        raise DmqError("--again needs to know what: name it with --only.")
    recipe = choose_recipe(given.recipe, given.model)
    if given.dry_run:
        print_steps(recipe, given.only)
        return
    lacking = list_missing(recipe, given.only)
    if given.trajectories:
        if given.only != "capture":
            raise DmqError("--trajectories is for --only capture.")
        how = {"again": given.again, "trajectories": given.trajectories}
        show_progress(capture_statistics(recipe, **how))
    show_progress(carry_out(recipe, only=given.only, again=given.again, **cluster_options(given)))
    done = ", ".join(step.name for step in lacking) or (given.only if given.again else "")
    print(
        f"{recipe.name}: {f'made {done}' if done else 'all is there'}; `dmq run` samples with it."
    )


def print_steps(recipe: Recipe, only: str) -> None:
    """A line for each thing that `recipe` asks for: is it there, and how long will it take if
    that can be told?
    """
    from ..models.work_plan import format_duration, plan_capture
    from ..workflow.estimates import estimate_seconds
    from ..workflow.steps import list_asked, list_missing

    lacking = {step.name: step for step in list_missing(recipe, only)}
    asked, unknown = list_asked(recipe, only), list[str]()
    took = {name: estimate_seconds(recipe, step) for name, step in lacking.items()}

    def describe(name: str) -> str:
        if name not in lacking:
            return "there"
        if (seconds := took[name]) is None:
            unknown.append(name)
            return "missing"
        return f"missing, about {format_duration(seconds)}"

    rows = [[step.name, step.title, describe(step.name)] for step in asked]
    print_table(["step", "what", "state"], rows, left=3)
    if "capture" in lacking:
        print(plan_capture(recipe))
    if unknown:
        print(f"{', '.join(unknown)}: told as soon as it runs.", file=sys.stderr)
