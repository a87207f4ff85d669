"""Everything that must be there before a recipe can quantize its model."""

from collections.abc import Generator

from ..recipe import Recipe
from .learning import learn
from .progress import Progress
from .progressive import calibrate, measure_windows
from .trajectory_kept import windows_measured


def prepare(recipe: Recipe) -> Generator[Progress, None, None]:
    """Learn, measure and calibrate what `recipe` needs and has not been done yet.

    First what the float model's trajectory tells, then the windows that say which steps to relax, then the ranges
    along the quantized trajectory.
    """
    yield from learn(recipe)
    if not windows_measured(recipe):
        yield from measure_windows(recipe)
    yield from calibrate(recipe)
