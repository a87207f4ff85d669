"""Everything that a recipe must learn from the float model's trajectory."""

from collections.abc import Generator

from ..recipe import Recipe
from .blocks import reconstruct
from .known import capture
from .mixing import learn_mix
from .progress import Progress
from .searches import search, searched
from .time_path import learn_temporal
from .weights_learned import learn_weights


def learn(recipe: Recipe) -> Generator[Progress, None, None]:
    """Capture, share out bits, search for groups, learn codes and roundings: what `recipe` needs and lacks."""
    yield from capture(recipe)
    yield from learn_mix(recipe)
    if not searched(recipe):
        yield from search(recipe)
    yield from learn_weights(recipe)
    yield from learn_temporal(recipe)
    yield from reconstruct(recipe)
