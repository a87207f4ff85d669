"""What commands share: the arguments that name recipes and pictures, and how a long stage is run
in a terminal.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from .. import jsonio, runs
from ..errors import DmqError
from ..models.placement import DTYPES, OFFLOADS, VARIABLES
from ..recipe import EMBEDDED, ENGINES, Comparison, Recipe, Sampling


LOGGED = 30  # seconds between two lines of progress where there is no terminal


def recipe_argument(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "recipe", metavar="RECIPE", help="a JSON file, or the name of a recipe that ships"
    )
    to.add_argument(
        "--model", help=f"use this model instead: {', '.join(EMBEDDED)}, a folder, or a Hub id"
    )


def recipes_argument(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "recipes",
        nargs="+",
        metavar="RECIPE",
        help="a JSON file, or the name of a recipe that ships",
    )
    to.add_argument("--model", help="use this model instead of the recipes' own")


def place_arguments(to: argparse.ArgumentParser) -> None:
    """Where models run; every command takes these."""
    one = to.add_argument_group("where it runs")
    one.add_argument(
        "--device", help=f"auto, cpu, cuda, cuda:1, xpu, mps; ${VARIABLES['device']} unless given"
    )
    one.add_argument("--dtype", choices=DTYPES, help="auto: that of the files; float32 on a CPU")
    one.add_argument(
        "--offload",
        choices=OFFLOADS,
        help="weights lie on the CPU and visit the GPU as they are needed",
    )


def choose_place(given: argparse.Namespace) -> None:
    """Let models run where the command line says.

    Raises DmqError for a device that is not there.
    """
    from .. import stages

    wishes = {name: getattr(given, name) for name in VARIABLES if getattr(given, name) is not None}
    if wishes:
        stages.use_placement(stages.chosen_placement(**wishes))


def picture_arguments(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--prompt",
        action="append",
        dest="prompts",
        metavar="TEXT",
        help="may be given several times",
    )
    to.add_argument(
        "--seed",
        action="append",
        dest="seeds",
        type=int,
        metavar="N",
        help="may be given several times",
    )


def comparison_arguments(to: argparse.ArgumentParser) -> None:
    picture_arguments(to)
    to.add_argument("--steps", type=int, help="other than the recipe's")
    to.add_argument("--guidance", type=float, help="other than the recipe's")
    to.add_argument("--size", type=int, help="pixels of a side, other than the recipe's")
    to.add_argument("--name", help="of the run; the recipe's unless given")
    engine_argument(to)


def engine_argument(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--engine",
        choices=(*ENGINES, "both"),
        help="what draws: the simulation, integer kernels, these with the rest in bfloat16, or "
        "both, each recipe "
        "twice; the recipe's own unless given",
    )


def chosen_engines(recipes: tuple[Recipe, ...], engine: str | None) -> tuple[Recipe, ...]:
    """The recipes with the engine that the command line names; as they are if it names none."""
    if engine is None:
        return recipes
    from .. import stages

    return stages.computed_as(recipes, engine)


def chosen_recipe(name: str, model: str | None) -> Recipe:
    """The recipe in a file, or one that ships, for another model if one is named."""
    shipped = runs.shipped_recipes()
    if Path(name).suffix != ".json" and name not in shipped:
        raise DmqError(
            f"no recipe called {name!r}; give a .json file or one of: {'; '.join(shipped)}."
        )
    recipe = shipped[name] if name in shipped else jsonio.read(name)
    if model is None:
        return recipe
    from .. import stages

    return stages.for_model(recipe, model)


def chosen_comparison(given: argparse.Namespace, recipe: Recipe) -> Comparison:
    """What to draw: the command line's wishes, and the recipe's sampling for the rest."""
    prompts, seeds = tuple(given.prompts or Comparison().prompts), tuple(given.seeds or (0,))
    return Comparison(prompts=prompts, seeds=seeds, sampling=chosen_sampling(given, recipe))


def chosen_sampling(given: argparse.Namespace, recipe: Recipe) -> Sampling:
    """The recipe's sampling with what the command line says instead."""
    wishes = {"steps": given.steps, "guidance": given.guidance, "size": given.size}
    return dataclasses.replace(
        recipe.sampling, **{name: value for name, value in wishes.items() if value is not None}
    )


def told(work: Generator[Any, None, Any], *, writes_runs: bool = True) -> Any:
    """Run a stage to its end, its progress on standard error; returns its value.

    On a terminal that is one line, written over and over; in a log it is a line now and then.
    Raises DmqError as soon as there is work to do that `writes_runs`, if the run folder cannot be
    written."""
    last, live, since = "", sys.stderr.isatty(), time.monotonic()
    try:
        while True:
            item = next(work)
            if hasattr(item, "needed"):  # what the work will take: stays on screen
                print(f"dmq: {item}", file=sys.stderr, flush=True)
                continue
            if writes_runs:
                runs.check_writable()
                writes_runs = False  # asked once
            if not hasattr(item, "total"):
                continue
            line = str(item)
            if live:
                print("\r" + line.ljust(len(last)), end="", file=sys.stderr, flush=True)
                last = line
            elif time.monotonic() - since > LOGGED:
                print(line, file=sys.stderr, flush=True)
                since = time.monotonic()
    except StopIteration as end:
        return end.value
    finally:
        work.close()
        if last:  # leave the line empty, for the result or for what went wrong
            print("\r" + " " * len(last) + "\r", end="", file=sys.stderr, flush=True)


def check_place(file: str, suffix: str = "") -> None:
    """Raise DmqError unless `file` could be written: said before anything is drawn for it."""
    if not file.lower().endswith(suffix):
        raise DmqError(f"{file}: pictures are written as PNG; give a name that ends with {suffix}.")
    if not Path(file).parent.is_dir():
        raise DmqError(f"{file}: cannot be written, there is no folder {Path(file).parent}.")


def write(file: str, text: str) -> None:
    """Write a text file that a user named."""
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise DmqError(f"{file}: cannot be written ({error.strerror}).") from None


def print_table(head: list[str], rows: list[list[str]], *, left: int = 1) -> None:
    """Print texts in columns, the first `left` of them flush left, the others flush right."""
    table = [head, *rows]
    width = [max(len(row[n]) for row in table) for n in range(len(head))]
    for row in table:
        cells = (f"{cell:{'<' if n < left else '>'}{width[n]}}" for n, cell in enumerate(row))
        print("  ".join(cells).rstrip())
