"""The statistics of a model's activations."""

from pathlib import Path

from ..progress import OnProgress, run_to_end
from ..recipe import Recipe
from ..results import ActivationStats
from ..workflow.answers import get_statistics
from ..workflow.learning import capture_statistics
from .load_recipe import load_recipe


def capture(
    recipe: Recipe | str | Path, *, again: bool = False, progress: OnProgress = None
) -> ActivationStats:
    """Watch the float model of `recipe` generate its calibration images; returns the activation
    statistics.

    They are kept, and read again the next time unless `again`. Arrays are by site and step:
    `minimum` and `maximum` are float32 [sites, steps]. `progress` gets a `Progress` now and then.
    Raises DmqError if the model cannot be read.

    >>> import dmq
    >>> from dmq.recipe import Calibration, Sampling
    >>> small = {"sampling": Sampling(steps=2), "calibration": Calibration(samples=1)}
    >>> recipe = dmq.load_recipe("W8A8, one range", model="emoji-ddpm", **small)
    >>> stats = dmq.capture(recipe)
    >>> stats.samples, len(stats.timesteps), stats.maximum.shape == (len(stats.sites), 2)
    (1, 2, True)
    """
    recipe = load_recipe(recipe)
    run_to_end(capture_statistics(recipe, again=again), progress)
    return get_statistics(recipe)
