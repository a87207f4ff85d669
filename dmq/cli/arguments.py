"""Arguments that several commands take, and what they mean."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from .. import jsonio
from ..errors import DmqError
from ..models.placement import DTYPES, OFFLOADS, VARIABLES
from ..recipe import EMBEDDED, ENGINES, FORMATS, Comparison, Recipe, Sampling, parse_format
from ..store import runs


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


def again_argument(to: argparse.ArgumentParser, when: str = "the same was asked before") -> None:
    to.add_argument("--again", action="store_true", help=f"even if {when}")


def cluster_arguments(to: argparse.ArgumentParser) -> None:
    """Who shares work that falls into independent tasks."""
    one = to.add_argument_group("who works")
    said = "let a Dask cluster do what falls into independent tasks"
    one.add_argument("--scheduler", default="", metavar="tcp://HOST:PORT", help=said)
    said = "processes of this machine that share it"
    one.add_argument("--workers", type=int, default=1, metavar="N", help=said)


def cluster_options(given: argparse.Namespace) -> dict[str, Any]:
    """What `cluster_arguments` ask for, as stages take it."""
    return {"scheduler": given.scheduler, "workers": given.workers}


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
    from ..models import work_plan

    wishes = {name: getattr(given, name) for name in VARIABLES if getattr(given, name) is not None}
    if wishes:
        work_plan.use_placement(work_plan.get_placement(**wishes))


def image_arguments(to: argparse.ArgumentParser) -> None:
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
    image_arguments(to)
    to.add_argument("--steps", type=int, help="other than the recipe's")
    to.add_argument("--guidance", type=float, help="other than the recipe's")
    to.add_argument("--size", type=int, help="pixels of a side, other than the recipe's")
    to.add_argument("--name", help="of the run; the recipe's unless given")
    engine_argument(to)


def engine_argument(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--engine",
        choices=(*ENGINES, "both"),
        help="what generates: the simulation, integer kernels, these with the rest in bfloat16, or "
        "both, each recipe "
        "twice; the recipe's own unless given",
    )


def choose_engines(recipes: tuple[Recipe, ...], engine: str | None) -> tuple[Recipe, ...]:
    """The recipes with the engine that the command line names; as they are if it names none."""
    if engine is None:
        return recipes
    from ..evaluation import engines

    return engines.with_engines(recipes, engine)


def is_recipe(name: str) -> bool:
    """Does `name` mean a recipe? A run of the same name comes first."""
    return name not in runs.names() and (
        Path(name).suffix == ".json" or name in runs.shipped_recipes()
    )


def choose_recipe(name: str, model: str | None) -> Recipe:
    """The recipe in a file, or one that ships, for another model if one is named."""
    shipped = runs.shipped_recipes()
    if Path(name).suffix != ".json" and name not in shipped:
        raise DmqError(
            f"no recipe called {name!r}; give a .json file or one of: {'; '.join(shipped)}."
        )
    recipe = shipped[name] if name in shipped else jsonio.read(name)
    if model is None:
        return recipe
    from ..artifacts.model_info import for_model

    return for_model(recipe, model)


def choose_comparison(given: argparse.Namespace, recipe: Recipe) -> Comparison:
    """What to generate: the command line's wishes, and the recipe's sampling for the rest."""
    prompts, seeds = tuple(given.prompts or Comparison().prompts), tuple(given.seeds or (0,))
    return Comparison(prompts=prompts, seeds=seeds, sampling=choose_sampling(given, recipe))


def choose_sampling(given: argparse.Namespace, recipe: Recipe) -> Sampling:
    """The recipe's sampling with what the command line says instead."""
    wishes = {"steps": given.steps, "guidance": given.guidance, "size": given.size}
    return dataclasses.replace(
        recipe.sampling, **{name: value for name, value in wishes.items() if value is not None}
    )


def spec_arguments(to: argparse._ActionsContainer, *specs: type) -> None:
    """An option for each field of the `specs`, one for fields of the same name; none is given
    unless a user gives it.
    """
    known = {field.name: field for spec in reversed(specs) for field in dataclasses.fields(spec)}
    for name, field in known.items():
        default, described = field.default, field.metadata
        how: dict[str, Any] = {"type": type(default), "metavar": "N"}
        said = f"{described.get('label')}: {default} unless given. {described.get('help')}".strip()
        if isinstance(default, bool):
            how = {"action": "store_true", "default": None}
            said = f"{described['label']}. {described['help']}"
        elif isinstance(default, str):
            how = {"choices": described["choices"]}
        elif isinstance(default, tuple):
            how = {"nargs": "+", "metavar": "CHOICE"}
            said = f"weights are made into these, as UAQ-4 KMC-3; formats: {', '.join(FORMATS)}"
        to.add_argument(f"--{name.replace('_', '-')}", help=said.replace("%", "%%"), **how)


def choose_spec(given: argparse.Namespace, spec: type) -> Any:
    """The `spec` that the options of `spec_arguments` ask for. Raises DmqError for what makes no
    sense.
    """
    wishes = {field.name: getattr(given, field.name, None) for field in dataclasses.fields(spec)}
    wishes["choices"] = given.choices and tuple(map(parse_format, given.choices))
    return spec(**{name: value for name, value in wishes.items() if value is not None})
