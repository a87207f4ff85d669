"""What ships besides captures: recipes."""

from .. import jsonio
from ..recipe import Recipe
from . import folders


def shipped_recipes() -> dict[str, Recipe]:
    """The recipes of assets/recipes by name, in the order of their files."""
    found = (jsonio.read(file) for file in sorted((folders.ASSETS / "recipes").glob("*.json")))
    return {recipe.name: recipe for recipe in found}
