"""Which engine generates the images of recipes: the simulation, integer kernels, or both beside
each other.
"""

import dataclasses

from ..errors import DmqError
from ..recipe import ENGINES, SIMULATED, Recipe


BOTH = "both"  # simulated, and then executed
EXECUTED = "executed"
COMPUTED = (*ENGINES, BOTH)


def with_engine(recipe: Recipe, engine: str) -> Recipe:
    """`recipe` computed by `engine`, which its name then says unless it is simulated: "W8A8,
    executed".
    """
    name = plain_name(recipe.name) + ("" if engine == SIMULATED else f", {engine}")
    return dataclasses.replace(recipe, name=name, engine=engine)


def plain_name(name: str) -> str:
    """The name of a recipe without that of its engine."""
    for engine in ENGINES:
        name = name.removesuffix(f", {engine}")
    return name


def computed_as(recipes: tuple[Recipe, ...], wanted: str) -> tuple[Recipe, ...]:
    """`recipes` with the engine `wanted`; with "both", each of them simulated and then executed.

    Raises DmqError for an engine that there is not.
    """
    if wanted not in COMPUTED:
        raise DmqError(f"computed is {wanted!r:.40}, not one of {', '.join(COMPUTED)}.")
    engines = (SIMULATED, EXECUTED) if wanted == BOTH else (wanted,)
    return tuple(with_engine(recipe, engine) for recipe in recipes for engine in engines)
