"""What must be there before a recipe can quantize its model, in the order in which one stands on
another."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from ..artifacts import store
from ..artifacts.of_recipe import (
    ask_blocks,
    ask_budget,
    ask_capture,
    ask_layer_codes,
    ask_ranges,
    ask_search,
    ask_time_rounding,
    ask_windows,
    learns_time_rounding,
    needs_inputs,
    search_spec,
)
from ..errors import DmqError
from ..progress import Progress
from ..recipe import Recipe
from ..store.artifact import Artifact
from .answers import allocate_bits, get_allocation


@dataclass(frozen=True)
class Step:
    """One kind of thing that a recipe may ask for."""

    name: str  # by which the command line knows it
    title: str
    is_asked: Callable[[Recipe], bool]
    # May raise DmqError as long as an earlier step is missing.
    ask: Callable[[Recipe], Sequence[Artifact | None]]

    def questions(self, recipe: Recipe) -> list[Artifact]:
        """What `recipe` asks for. Raises DmqError if that depends on what is missing."""
        return [question for question in self.ask(recipe) if question is not None]

    def is_missing(self, recipe: Recipe) -> bool:
        """Is it asked for and not there, as far as can be told yet?"""
        if not self.is_asked(recipe):
            return False
        try:
            return any(store.find(question) is None for question in self.questions(recipe))
        except DmqError:
            return True


def _learns_from_inputs(recipe: Recipe) -> bool:
    mixed = recipe.mixed.by.choices if recipe.mixed else ()
    others = [override.format for override in recipe.overrides]
    others += [choice.format for choice in mixed]
    return any(needs_inputs(form) for form in (recipe.weights.format, *others))


# First what the float model's trajectory tells, then the windows that say which steps to relax,
# then the ranges along the quantized trajectory.
STEPS = (
    Step(
        "capture",
        "activation statistics",
        lambda recipe: True,
        lambda recipe: [ask_capture(recipe)],
    ),
    Step(
        "bits",
        "what layers cost, by which bits are shared out",
        lambda recipe: recipe.mixed is not None,
        lambda recipe: [ask_budget(recipe)],
    ),
    Step(
        "groups",
        "groups of timesteps",
        lambda recipe: search_spec(recipe) is not None,
        lambda recipe: [ask_search(recipe)],
    ),
    Step(
        "weights",
        "weights learned from their inputs",
        _learns_from_inputs,
        lambda recipe: ask_layer_codes(allocate_bits(recipe)),
    ),
    Step(
        "time",
        "rounding of the time embedding",
        learns_time_rounding,
        lambda recipe: [ask_time_rounding(allocate_bits(recipe))],
    ),
    Step(
        "blocks",
        "rounding of the blocks",
        lambda recipe: recipe.reconstruction is not None,
        lambda recipe: [ask_blocks(recipe, get_allocation(recipe))],
    ),
    Step(
        "windows",
        "what windows of steps are worth",
        lambda recipe: recipe.relaxing is not None and recipe.relaxing.where == "auto",
        lambda recipe: [ask_windows(recipe, get_allocation(recipe))],
    ),
    Step(
        "ranges",
        "ranges along the quantized trajectory",
        lambda recipe: recipe.progressive is not None,
        lambda recipe: [ask_ranges(recipe, get_allocation(recipe))],
    ),
)
NAMES = tuple(step.name for step in STEPS)


def list_asked(recipe: Recipe, only: str = "") -> tuple[Step, ...]:
    """What `recipe` asks for, in the order in which it is made; with `only`, up to the step of that
    name.
    """
    return tuple(step for step in _up_to(recipe, only) if step.is_asked(recipe))


def list_missing(recipe: Recipe, only: str = "") -> tuple[Step, ...]:
    """Those of `list_asked` that are not there yet."""
    return tuple(step for step in _up_to(recipe, only) if step.is_missing(recipe))


def carry_out(
    recipe: Recipe, *, only: str = "", again: bool = False, scheduler: str = "", workers: int = 1
) -> Generator[Progress, None, None]:
    """Learn, measure and calibrate what `recipe` needs and has not been done yet, what falls into
    independent tasks with the `scheduler` and `workers` of `engine.run`.

    With `only`, up to the step of that name, one of NAMES; `again`: that one even if it is there.
    Raises DmqError for a step that the recipe does not ask for."""
    if again and not only:
        raise ValueError("again says nothing without the name of a step")
    shared: dict[str, Any] = {"scheduler": scheduler, "workers": workers}
    for step in list_asked(recipe, only):
        redo = again and step.name == only
        yield from store.make(step.questions(recipe), again=redo, **shared)


def _up_to(recipe: Recipe, only: str) -> tuple[Step, ...]:
    if not only:
        return STEPS
    if only not in NAMES:
        raise DmqError(f"there is no step {only!r} of preparing; there are {', '.join(NAMES)}.")
    steps = STEPS[: NAMES.index(only) + 1]
    if not steps[-1].is_asked(recipe):
        asked = ", ".join(step.name for step in STEPS if step.is_asked(recipe))
        raise DmqError(
            f"{recipe.name or 'this recipe'} needs no {only} ({steps[-1].title}); it needs {asked}."
        )
    return steps
