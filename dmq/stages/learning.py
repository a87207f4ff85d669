"""What a recipe must learn from the float model's trajectory, in the order in which one stands
on another.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DmqError
from ..progress import Progress
from ..recipe import Predictor, Recipe
from .blocks import reconstruct
from .blocks_kept import reconstructed
from .capturing import capture
from .known import captured
from .mixing import mix_table, without_budget
from .predictor import predict
from .searches import search, search_spec, searched
from .sensitivity import sensitivity
from .time_embedding import learn_temporal, learns_rounding, temporal_learned
from .weights_kept import has_learned_weights, needs_inputs
from .weights_learned import learn_weights


@dataclass(frozen=True)
class Step:
    """Something that must be there before a recipe can quantize its model."""

    name: str  # by which the command line knows it
    title: str
    is_asked: Callable[[Recipe], bool]
    is_there: Callable[[Recipe], bool]  # may raise DmqError as long as an earlier step is missing
    make: Callable[..., Generator[Progress, None, Any]]  # (recipe, again=…)
    is_shared: bool = False  # does `make` take `scheduler` and `workers`, those of `engine.run`?

    def is_missing(self, recipe: Recipe) -> bool:
        """Is it asked for and not there, as far as can be told yet?"""
        if not self.is_asked(recipe):
            return False
        try:
            return not self.is_there(recipe)
        except DmqError:
            return True


LEARNED = (
    Step("capture", "activation statistics", lambda recipe: True, captured, capture, True),
    Step(
        "bits",
        "what layers cost, by which bits are shared out",
        lambda recipe: recipe.mixed is not None,
        lambda recipe: mix_table(recipe) is not None,
        lambda recipe, **how: learn_mix(recipe, **how),
        True,
    ),
    Step(
        "groups",
        "groups of timesteps",
        lambda recipe: search_spec(recipe) is not None,
        searched,
        search,
    ),
    Step(
        "weights",
        "weights learned from their inputs",
        lambda recipe: _learns_weights(recipe),
        has_learned_weights,
        learn_weights,
    ),
    Step(
        "time", "rounding of the time embedding", learns_rounding, temporal_learned, learn_temporal
    ),
    Step(
        "blocks",
        "rounding of the blocks",
        lambda recipe: recipe.reconstruction is not None,
        reconstructed,
        reconstruct,
    ),
)


def learn(recipe: Recipe) -> Generator[Progress, None, None]:
    """Capture, share out bits, search for groups, learn codes and roundings: what `recipe` needs
    and lacks.
    """
    yield from carry_out(LEARNED, recipe)


def carry_out(
    steps: Sequence[Step], recipe: Recipe, again: str = "", **shared: Any
) -> Generator[Progress, None, None]:
    """Make what `recipe` asks for and lacks, one step after the other; the one called `again`
    though it is there. `shared` are the `scheduler` and `workers` of `engine.run`.
    """
    for step in steps:
        if step.is_asked(recipe) and (step.name == again or not step.is_there(recipe)):
            how = shared if step.is_shared else {}
            yield from step.make(recipe, again=step.name == again, **how)


def learn_mix(
    recipe: Recipe, *, again: bool = False, **shared: Any
) -> Generator[Progress, None, None]:
    """Measure or learn what `recipe`'s budget is shared out by, if there is one.

    Does nothing if that was done already, unless `again`. `shared` as in `carry_out`.
    """
    if recipe.mixed is None:
        return
    make = predict if isinstance(recipe.mixed.by, Predictor) else sensitivity
    yield from make(without_budget(recipe), recipe.mixed.by, again=again, **shared)


def _learns_weights(recipe: Recipe) -> bool:
    mixed = recipe.mixed.by.choices if recipe.mixed else ()
    formats = (recipe.weights.format, *(part.format for part in (*recipe.overrides, *mixed)))
    return any(needs_inputs(form) for form in formats)
