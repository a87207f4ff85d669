"""Everything that must be there before a recipe can quantize its model."""

from collections.abc import Generator

from ..errors import DmqError
from ..progress import Progress
from ..recipe import Recipe
from .learning import LEARNED, Step, carry_out
from .progressive import calibrate, measure_windows
from .trajectory_ranges import calibrated, windows_measured


# First what the float model's trajectory tells, then the windows that say which steps to relax,
# then the ranges along the quantized trajectory.
STEPS = (
    *LEARNED,
    Step(
        "windows",
        "what windows of steps are worth",
        lambda recipe: recipe.relaxing is not None and recipe.relaxing.where == "auto",
        windows_measured,
        measure_windows,
    ),
    Step(
        "ranges",
        "ranges along the quantized trajectory",
        lambda recipe: recipe.progressive is not None,
        calibrated,
        calibrate,
    ),
)
NAMES = tuple(step.name for step in STEPS)


def asked_steps(recipe: Recipe, only: str = "") -> tuple[Step, ...]:
    """What `recipe` asks for, in the order in which it is made; with `only`, up to the step of
    that name.
    """
    return tuple(step for step in _steps(recipe, only) if step.is_asked(recipe))


def missing(recipe: Recipe, only: str = "") -> tuple[Step, ...]:
    """Those of `asked_steps` that are not there yet."""
    return tuple(step for step in _steps(recipe, only) if step.is_missing(recipe))


def prepare(
    recipe: Recipe, *, only: str = "", again: bool = False, scheduler: str = "", workers: int = 1
) -> Generator[Progress, None, None]:
    """Learn, measure and calibrate what `recipe` needs and has not been done yet, what falls into
    independent tasks with the `scheduler` and `workers` of `engine.run`.

    With `only`, up to the step of that name, one of NAMES; `again`: that one even if it is there.
    Raises DmqError for a step that the recipe does not ask for."""
    if again and not only:
        raise ValueError("again says nothing without the name of a step")
    shared = {"scheduler": scheduler, "workers": workers}
    yield from carry_out(_steps(recipe, only), recipe, only if again else "", **shared)


def _steps(recipe: Recipe, only: str) -> tuple[Step, ...]:
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
