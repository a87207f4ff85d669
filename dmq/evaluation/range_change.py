"""What setting ranges along the quantized trajectory changed, from ranges that are there."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from ..recipe import FLOAT, Recipe
from ..results import Site
from ..workflow.answers import get_errors


@dataclass(frozen=True, kw_only=True)
class RangeChange:
    """The ranges of S quantized inputs at T steps: on the float trajectory, and as the recipe
    has them. [S, T].
    """

    sites: tuple[Site, ...]
    float_low: np.ndarray
    float_high: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def wider(self) -> np.ndarray:
        """By what part of its width on the float trajectory a range is wider; narrower where
        negative.
        """
        return (self.high - self.low) / np.maximum(self.float_high - self.float_low, 1e-30) - 1


def compare_ranges(recipe: Recipe) -> RangeChange:
    """The ranges of `recipe` beside those that the float trajectory would give it.

    Raises DmqError if not set yet.
    """
    floats, own = get_errors(dataclasses.replace(recipe, progressive=None)), get_errors(recipe)
    rows = np.flatnonzero((own.bits < FLOAT).any(1))
    return RangeChange(
        sites=tuple(own.groups.sites[s] for s in rows),
        float_low=floats.low[rows],
        float_high=floats.high[rows],
        low=own.low[rows],
        high=own.high[rows],
    )
