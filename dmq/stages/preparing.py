"""Everything that must be learned before a recipe can quantize its model."""

from collections.abc import Generator

from ..recipe import Recipe
from .blocks import reconstruct
from .known import capture
from .progress import Progress
from .searches import search, searched
from .time_path import learn_temporal


def prepare(recipe: Recipe) -> Generator[Progress, None, None]:
    """Capture, search for groups, learn roundings: what `recipe` needs and has not been done yet."""
    yield from capture(recipe)
    if not searched(recipe):
        yield from search(recipe)
    yield from learn_temporal(recipe)
    yield from reconstruct(recipe)
