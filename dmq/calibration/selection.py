"""Which steps' data ranges and reconstruction are made from: how often each step counts, one way
for each spec.

Captures hold all steps; the choice is applied afterwards, so that one capture serves every choice.
"""

from functools import singledispatch
from typing import Any

import numpy as np

from ..recipe import ActiveSteps, AllSteps, NormalSteps, UniformSteps
from ..results import SearchResult


@singledispatch
def step_counts(spec: Any, steps: int, search: SearchResult | None) -> np.ndarray:
    """How often each step is drawn, int [T] in sampling order; `search` is the recipe's,
    needed if that decides.

    Only shares matter: compare choices by what `draw` makes of them, at equal numbers of samples.
    """
    raise TypeError(f"no choice of steps is written for {type(spec).__name__}")


@step_counts.register
def all_steps(spec: AllSteps, steps: int, search: SearchResult | None) -> np.ndarray:
    """Every step once."""
    return np.ones(steps, int)


@step_counts.register
def uniform_steps(spec: UniformSteps, steps: int, search: SearchResult | None) -> np.ndarray:
    """The middles of `count` equal runs of the way."""
    return np.bincount((2 * np.arange(spec.count) + 1) * steps // (2 * spec.count), minlength=steps)


@step_counts.register
def normal_steps(spec: NormalSteps, steps: int, search: SearchResult | None) -> np.ndarray:
    """`count` draws from a normal distribution of the steps that remain, those beyond either end
    taken as the end.
    """
    share = np.random.default_rng(spec.seed).normal(spec.mean, spec.std, spec.count)
    remaining = np.clip((share * (steps - 1)).round().astype(int), 0, steps - 1)
    return np.bincount(steps - 1 - remaining, minlength=steps)


@step_counts.register
def active_steps(spec: ActiveSteps, steps: int, search: SearchResult | None) -> np.ndarray:
    """As often as the search used them."""
    assert search is not None
    return search.visits.astype(int)


def draw(counts: np.ndarray, samples: int) -> np.ndarray:
    """The step of each of `samples` samples, int [samples] rising, shared out as `counts` [T] are.

    Each step gets its share rounded up or down, so any two choices can be compared at equal numbers
    of samples.

    >>> draw(np.array([3, 0, 1]), 8).tolist()
    [0, 0, 0, 0, 0, 0, 2, 2]
    """
    ends = counts.cumsum() / counts.sum()
    return np.searchsorted(ends, (np.arange(samples) + 0.5) / samples, side="left")
