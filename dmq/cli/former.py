"""The former names of commands: not listed, and working as they did."""

import argparse
import time
from collections.abc import Callable

from ..errors import DmqError
from ..recipe import Predictor, Recipe, Relaxing, Sensitivity
from .arguments import (
    again_argument,
    choose_recipe,
    cluster_arguments,
    image_arguments,
    recipe_argument,
    recipes_argument,
    spec_arguments,
)
from .terminal import show_progress
from .views import budget, learned, over_time, predictor, probe, sensitivity


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Offer the commands of this file; `add` makes a parser from name, function, help and the new
    name.
    """
    learning = {
        "capture": (capture, "capture"),
        "search": (search, "groups"),
        "temporal": (temporal, "time"),
        "reconstruct": (reconstruct, "blocks"),
        "learn": (learn, "weights"),
        "calibrate": (calibrate, "ranges"),
        "windows": (windows, "windows"),
    }
    for name, (command, step) in learning.items():
        now = f"`dmq prepare RECIPE --only {step}`, and `dmq show RECIPE {step}`"
        one = add(name, command, f"The former name of {now}.", now)
        recipe_argument(one)
        again_argument(one, "it is there already")
        if name == "capture":
            said = "keep the denoiser calls of N images"
            one.add_argument("--trajectories", type=int, default=0, metavar="N", help=said)
        if name == "learn":
            said = "every layer, not only those that err most"
            one.add_argument("--layers", action="store_true", help=said)
    for name, command, view, spec in (
        ("sensitivity", sensitivity.sensitivity, sensitivity, Sensitivity),
        ("predict", predictor.predict, predictor, Predictor),
    ):
        now = f"`dmq prepare RECIPE --only {view.__name__.rpartition('.')[2]}`"
        one = add(name, command, f"The former name of {now}.", now)
        recipe_argument(one)
        spec_arguments(one, spec)
        view.add_arguments(one)
        cluster_arguments(one)
        again_argument(one)
    for name, command, view in (
        ("overtime", over_time.over_time, over_time),
        ("probe", probe.probe, probe),
    ):
        now = f"`dmq compare --{view.__name__.rpartition('.')[2].replace('_', '-')}`"
        one = add(name, command, f"The former name of {now}.", now)
        recipes_argument(one)
        image_arguments(one)
        view.add_arguments(one)
        again_argument(one)
    now = "`dmq show RECIPE budget --table TABLE`"
    one = add("budget", budget.budget, f"The former name of {now}.", now)
    one.add_argument("table", metavar="TABLE", help=budget.TABLE)
    recipe_argument(one)
    budget.add_arguments(one)


def capture(given: argparse.Namespace) -> None:
    from ..workflow.learning import capture_statistics

    recipe = choose_recipe(given.recipe, given.model)
    print(
        show_progress(
            capture_statistics(recipe, again=given.again, trajectories=given.trajectories)
        )
    )


def search(given: argparse.Namespace) -> None:
    from ..workflow.learning import search_groups

    recipe = choose_recipe(given.recipe, given.model)
    show_progress(search_groups(recipe, again=given.again))
    learned.print_groups(recipe)


def temporal(given: argparse.Namespace) -> None:
    from ..workflow.learning import capture_statistics, learn_time_rounding

    recipe = choose_recipe(given.recipe, given.model)
    show_progress(capture_statistics(recipe))
    show_progress(learn_time_rounding(recipe, again=given.again))
    learned.print_time(recipe)


def reconstruct(given: argparse.Namespace) -> None:
    recipe = choose_recipe(given.recipe, given.model)
    _prepare(recipe, "blocks", given.again)
    learned.print_blocks(recipe)


def learn(given: argparse.Namespace) -> None:
    recipe = choose_recipe(given.recipe, given.model)
    _prepare(recipe, "weights", given.again)
    learned.print_weights(recipe, layers=given.layers)


def calibrate(given: argparse.Namespace) -> None:
    from ..workflow.answers import has_capture, has_ranges

    recipe, start = choose_recipe(given.recipe, given.model), time.monotonic()
    before = recipe.progressive and has_capture(recipe) and has_ranges(recipe)
    _prepare(recipe, "ranges", given.again)
    when = f"in {time.monotonic() - start:.1f} s"
    learned.print_ranges(recipe, when if given.again or not before else "in an earlier run")


def windows(given: argparse.Namespace) -> None:
    from ..artifacts.model_info import get_info
    from ..workflow.learning import measure_windows

    recipe = choose_recipe(given.recipe, given.model)
    spec = recipe.relaxing or Relaxing()
    if spec.where == "auto" and spec.judge == "text" and not get_info(recipe.model).prompted:
        raise DmqError(
            "relaxing.judge is 'text', but this model generates without prompts; set it to fidelity."
        )
    show_progress(measure_windows(recipe, again=given.again))
    learned.print_windows(recipe)


def _prepare(recipe: Recipe, step: str, again: bool) -> None:
    """Make what `recipe` needs up to `step`, if it asks for it: what is printed says if not."""
    from ..workflow.learning import capture_statistics
    from ..workflow.steps import carry_out, list_asked

    if any(asked.name == step for asked in list_asked(recipe)):
        show_progress(carry_out(recipe, only=step, again=again))
    else:
        show_progress(capture_statistics(recipe))
