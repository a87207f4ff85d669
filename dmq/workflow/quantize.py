"""The quantized denoiser of a recipe."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..progress import OnProgress
from ..recipe import Recipe
from ..workflow.answers import get_model
from .load_recipe import load_recipe
from .prepare import prepare


if TYPE_CHECKING:
    from torch import nn


def quantize(recipe: Recipe | str | Path, *, progress: OnProgress = None) -> "nn.Module":
    """The quantized denoiser: a new model, to put into the pipeline in place of the float one,
    which stays as it was.

    It is simulated in floating point, or executed on integer kernels, as `Recipe.engine` says. Its
    attribute `plan` is the plan that it follows. The two models share memory: do not write into the
    weights of either.

    >>> import dmq
    >>> denoiser = dmq.quantize("W8A8, one range")
    >>> type(denoiser).__name__, denoiser.plan.bytes < denoiser.plan.float_bytes
    ('UNet2DConditionModel', True)
    """
    recipe = load_recipe(recipe)
    prepare(recipe, progress=progress)
    return get_model(recipe)
