"""A recipe by its name or file."""

import dataclasses
from pathlib import Path
from typing import Any

from .. import jsonio
from ..artifacts.model_info import for_model
from ..errors import DmqError
from ..recipe import Recipe
from ..store import runs


def load_recipe(recipe: Recipe | str | Path, *, model: str | None = None, **changes: Any) -> Recipe:
    """The recipe in a .json file, or one that ships, by its name.

    `model` (an embedded name, a folder or a Hub id) stands for another model, with that model's
    sampling; `changes` are fields of Recipe that differ. Raises DmqError if there is no such
    recipe, or if its parts do not fit together.

    >>> import dmq
    >>> recipe = dmq.load_recipe("W8A6, 8 best groups", model="emoji-ddpm", name="mine")
    >>> recipe.name, recipe.model, recipe.activations.bits
    ('mine', 'emoji-ddpm', 6)
    """
    found = recipe if isinstance(recipe, Recipe) else _find(recipe)
    found = found if model is None else for_model(found, model)
    known = {field.name for field in dataclasses.fields(Recipe)}
    if unknown := sorted(changes.keys() - known):
        raise DmqError(f"a recipe has no {unknown[0]!r}; it has {', '.join(sorted(known))}.")
    return dataclasses.replace(found, **changes)


def load_recipes(
    recipes: Recipe | str | Path | tuple[Recipe | str | Path, ...],
) -> tuple[Recipe, ...]:
    """One recipe or several, each as `load_recipe` takes it, as a tuple."""
    several = (recipes,) if isinstance(recipes, (Recipe, str, Path)) else recipes
    return tuple(load_recipe(recipe) for recipe in several)


def _find(name: str | Path) -> Recipe:
    shipped = runs.shipped_recipes()
    if str(name) in shipped:
        return shipped[str(name)]
    if Path(name).suffix != ".json":
        raise DmqError(
            f"no recipe called {str(name)!r}; give a .json file or one of: {'; '.join(shipped)}."
        )
    return jsonio.read(name)
