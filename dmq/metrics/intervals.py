"""How sure a figure is: intervals over prompts, with all seeds of a prompt together, since they are
alike.

Seeded, so that the same images give the same interval.
"""

from collections.abc import Callable

import numpy as np


LEVEL = 0.95
REPEATS = 1000
PARTS = 20  # of a jackknife


def bootstrap(
    values: np.ndarray, clusters: np.ndarray, *, repeats: int = REPEATS, seed: int = 0
) -> tuple:
    """The percentile interval (low, high) of the mean of `values` [N]; whole clusters are drawn
    with repetition.

    `clusters` [N] are the numbers of the prompts. One cluster tells nothing of the spread: (nan,
    nan)."""
    values = np.asarray(values, np.float64)
    _, where = np.unique(clusters, return_inverse=True)
    counts = np.bincount(where)
    if len(counts) < 2:
        return float("nan"), float("nan")
    sums = np.bincount(where, weights=values)
    drawn = np.random.default_rng(seed).integers(0, len(counts), (repeats, len(counts)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    # Not between two of the means, which would be nan where one is infinite.
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return float(low), float(high)


def jackknife(
    measure: Callable[[np.ndarray], float], clusters: np.ndarray, *, seed: int = 0
) -> tuple:
    """An interval (low, high) of a distance between sets, `measure(rows)`, by leaving out a part of
    the prompts.

    `rows` are positions among the N images that `clusters` [N] are of. The bootstrap will not do
    here: an image drawn twice narrows the set, and all repetitions lie above the value itself.
    Delete-a-group jackknife: variance (g - 1) / g * sum (value without group - their mean)^2; Kott,
    J. Official Statistics 17 (2001). One cluster, or too few images left for the measure, tell
    nothing: (nan, nan)."""
    from scipy.stats import t

    names, where = np.unique(clusters, return_inverse=True)
    groups = min(PARTS, len(names))
    if groups < 2:
        return float("nan"), float("nan")
    group = np.random.default_rng(seed).permutation(np.arange(len(names)) % groups)[where]
    without = np.array([measure(np.flatnonzero(group != g)) for g in range(groups)])
    deviation = np.sqrt((groups - 1) / groups * ((without - without.mean()) ** 2).sum())
    value, half = measure(np.arange(len(where))), t.ppf((1 + LEVEL) / 2, groups - 1) * deviation
    return float(value - half), float(value + half)
