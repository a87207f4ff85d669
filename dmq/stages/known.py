"""What is known of a model, and the statistics of its activations."""

from ..artifacts import Capture, Run, store
from ..artifacts.known import for_model, info, info_for, temporal_block
from ..recipe import Recipe
from ..results import ActivationStats


__all__ = [
    "captured",
    "for_model",
    "info",
    "info_for",
    "run_of",
    "statistics",
    "temporal_block",
]


def captured(recipe: Recipe) -> bool:
    """Are there statistics for `recipe`, so that `errors` and `plan` answer at once?"""
    return store.find(Capture.of(recipe)) is not None


def statistics(recipe: Recipe) -> ActivationStats:
    """The activation statistics that `recipe` stands on. Raises DmqError if there are none yet."""
    return store.value(Capture.of(recipe))


def run_of(recipe: Recipe) -> Run:
    """What was captured for `recipe`. Raises DmqError if nothing was yet."""
    stats = statistics(recipe)
    return Run(fingerprint=stats.fingerprint, sampler=stats.sampler, timesteps=stats.timesteps)
