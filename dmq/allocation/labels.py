"""Random mixes of choices, and what a predictor is told of them: labels made comparable, bits,
features of nodes.
"""

from collections.abc import Sequence

import numpy as np

from ..recipe import WeightFormat


def sample_mixes(choices: Sequence[WeightFormat], layers: int, count: int, seed: int) -> np.ndarray:
    """`count` random mixes of choices [count, layers] int16: positions among `choices`.

    Each mix has shares of its own of the different bits, generated evenly from all shares there are
    (with two kinds of bits: p ~ U(0, 1) of the lower), so that average bits spread over the whole
    range instead of piling up in its middle. Among the choices with the same bits all are as
    likely. The first mixes stay the same when `count` grows."""
    bits = np.array([choice.bits for choice in choices])
    kinds = np.unique(bits)
    mixes = np.empty((count, layers), np.int16)
    for n in range(count):
        rng = np.random.default_rng([seed, n])
        share = rng.dirichlet(np.ones(len(kinds)))
        chosen = kinds[
            np.minimum(np.searchsorted(share.cumsum(), rng.random(layers)), len(kinds) - 1)
        ]
        order = rng.random((layers, len(choices)))
        mixes[n] = np.where(bits == chosen[:, None], order, -1).argmax(1)
    return mixes


def average_bits(mixes: np.ndarray, sizes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Bits a weight, tables included, of mixes [N, L], from bytes [L, C] and the weights of each
    layer [L].
    """
    return 8 * sizes[np.arange(len(sizes)), mixes].sum(1) / weights.sum()


def relevance(labels: np.ndarray, seen: np.ndarray, top: float = 5.0) -> np.ndarray:
    """Labels as relevances 0..`top`: 0 up to the 20 % quantile of the labels `seen`, `top` at
    their greatest.
    """
    low, high = np.quantile(seen, 0.2), seen.max()
    return top * np.clip((labels - low) / max(high - low, 1e-12), 0, 1)


def leave_out(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    """`values` less what a straight line in `of` explains.

    >>> leave_out(np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0])).round(9).tolist()
    [0.0, 0.0, 0.0]
    """
    line = np.stack([np.ones(len(of)), of - of.mean()], 1)
    return values - line @ np.linalg.lstsq(line, values, rcond=None)[0]
