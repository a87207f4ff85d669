"""`dmq check`: a recipe, a run or an exported folder, verified."""

import argparse
from collections.abc import Callable
from pathlib import Path

from ..describe import describe_plan
from ..errors import DmqError
from ..store import runs
from .arguments import choose_recipe, is_recipe


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Offer the command; `add` makes a parser from name, function and help."""
    one = add(
        "check",
        check,
        "Verify an exported folder, a run or a recipe: nothing damaged, missing, or of another "
        "model.",
    )
    one.add_argument(
        "folder",
        metavar="WHAT",
        help="the folder of a pipeline or of a denoiser alone, the name of a run, or a recipe",
    )


def check(given: argparse.Namespace) -> None:
    name = given.folder
    if not Path(name).is_dir() and is_recipe(name):
        said = check_recipe(name)
    elif not Path(name).is_dir() and name in runs.names():
        said = check_run(name)
    else:
        from ..workflow import export

        said = export.check(name).line()
    print(f"{name}: sound. {said}.")


def check_recipe(name: str) -> str:
    """What a recipe does to its model, or what it needs first.

    Raises DmqError if it is damaged or does not fit its model.
    """
    from ..artifacts.model_info import get_info
    from ..workflow.answers import get_plan
    from ..workflow.steps import list_missing

    recipe = choose_recipe(name, None)
    get_info(recipe.model)
    if missing := list_missing(recipe):
        steps = ", ".join(step.name for step in missing)
        return f"A recipe for {recipe.model}; `dmq prepare` has still to make {steps}"
    return f"A recipe for {recipe.model}; {describe_plan(get_plan(recipe))}"


def check_run(name: str) -> str:
    """What a run holds. Raises DmqError if any of its files is damaged or missing."""
    report, folder = runs.load_report(name), runs.folder_of(name)
    recipes, comparison = runs.load_recipes(name), runs.load_comparison(name)
    try:
        images, steps = runs.load_images(name), runs.load_steps(name)
    except (OSError, ValueError) as error:
        raise DmqError(f"{folder}: a damaged image ({error}).") from None
    expected = len(comparison.prompts) * len(comparison.seeds)
    for model, found in images.items():
        if len(found) != expected or report.samples != expected:
            raise DmqError(f"{folder}: {len(found)} of {expected} images of {model} are there.")
    if lost := {recipe.name for recipe in recipes} ^ (report.seconds.keys() - {"float"}):
        raise DmqError(f"{folder}: recipes and report differ in {', '.join(sorted(lost))}.")
    between = sum(map(len, steps.values()))
    return (
        f"A run of {', '.join(recipe.name for recipe in recipes)}: {expected} images each, "
        f"{between} on the way"
    )
