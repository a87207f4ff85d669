"""Which engine generates the images of recipes (the simulation, integer kernels, or both), and which
kernel each layer gets.
"""

import dataclasses
from collections.abc import Generator
from dataclasses import dataclass

from ..errors import DmqError
from ..progress import Progress
from ..recipe import ENGINES, SIMULATED, Recipe
from ..workflow.answers import get_model, get_plan


BOTH = "both"  # simulated, and then executed
EXECUTED = "executed"
ENGINE_CHOICES = (*ENGINES, BOTH)


def with_engine(recipe: Recipe, engine: str) -> Recipe:
    """`recipe` computed by `engine`, which its name then says unless it is simulated: "W8A8,
    executed".
    """
    name = strip_engine(recipe.name) + ("" if engine == SIMULATED else f", {engine}")
    return dataclasses.replace(recipe, name=name, engine=engine)


def strip_engine(name: str) -> str:
    """The name of a recipe without that of its engine."""
    for engine in ENGINES:
        name = name.removesuffix(f", {engine}")
    return name


def with_engines(recipes: tuple[Recipe, ...], wanted: str) -> tuple[Recipe, ...]:
    """`recipes` with the engine `wanted`; with "both", each of them simulated and then executed.

    Raises DmqError for an engine that there is not.
    """
    if wanted not in ENGINE_CHOICES:
        raise DmqError(f"computed is {wanted!r:.40}, not one of {', '.join(ENGINE_CHOICES)}.")
    engines = (SIMULATED, EXECUTED) if wanted == BOTH else (wanted,)
    return tuple(with_engine(recipe, engine) for recipe in recipes for engine in engines)


@dataclass(frozen=True)
class KernelAssignment:
    """Layers that run alike."""

    where: str  # a kernel's name, or "float, because …", "float: first layer", "cached"
    fell_back: bool  # have they codes, and no kernel that takes them?
    formats: tuple[str, ...]  # such as "W4A8"
    layers: tuple[str, ...]


def assign_kernels(recipe: Recipe) -> Generator[Progress, None, tuple[KernelAssignment, ...]]:
    """What runs each layer of `recipe` when executed: those on kernels first, then what fell back,
    then what is float.

    Loads the model and prepares its kernels. Raises DmqError if something must be captured or
    learned first."""
    yield Progress("Prepare the kernels", 0, 1)
    made = get_plan(recipe)
    engine = EXECUTED if recipe.engine == SIMULATED else recipe.engine
    model = get_model(dataclasses.replace(recipe, engine=engine))
    from ..runtime.convert import find_kernels

    kernels = find_kernels(model)
    found: dict[tuple[int, str], list] = {}
    for row in made.layers:
        kernel, why = kernels.get(row.layer.name, ("", ""))
        if why:
            key = 1, f"float, because {why}"
        elif kernel:
            key = 0, kernel
        else:
            reason = row.reason or "its weight stays in float"
            key = 2, "cached" if row.dropped else f"float: {reason}"
        found.setdefault(key, []).append(row)
    yield Progress("Prepare the kernels", 1, 1)
    return tuple(
        KernelAssignment(
            where,
            order == 1,
            formats=tuple(sorted({row.format for row in rows})),
            layers=tuple(row.layer.name for row in rows),
        )
        for (order, where), rows in sorted(found.items(), key=lambda kv: (kv[0][0], -len(kv[1])))
    )
