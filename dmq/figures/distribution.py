"""Numbers behind the figures of one site: its histogram on other bins, and the error of a grid in
every bin.

The grid repeats `numerics.affine.grid` and `numerics.histogram.bin_errors` in numpy, as figures do
without torch; a test demands that they agree."""

import numpy as np

from ..results import ActivationStats


def below(
    stats: ActivationStats, s: int, steps: slice = slice(None)
) -> tuple[np.ndarray, np.ndarray]:
    """The share of values below each edge at each step, [steps, bins + 1], and the edges."""
    counts = stats.counts[s][steps].astype(float)
    share = counts.cumsum(1) / np.maximum(counts.sum(1, keepdims=True), 1)
    return np.pad(share, ((0, 0), (1, 0))), stats.edges(s)


def shares(
    stats: ActivationStats, s: int, edges: np.ndarray, steps: slice = slice(None)
) -> np.ndarray:
    """The share of the values of each step in each new bin, [steps, bins]; what lies outside is
    left out.
    """
    known, old = below(stats, s, steps)
    return np.diff(np.stack([np.interp(edges, old, row) for row in known]), axis=1)


def span(stats: ActivationStats, s: int, tail: float = 0.0005) -> tuple[float, float]:
    """Where almost all values of all steps lie: all but `tail` of any step on either side."""
    low, high = (
        float(np.nanmin(stats.quantile(s, tail))),
        float(np.nanmax(stats.quantile(s, 1 - tail))),
    )
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def grid_of(low: float, high: float, bits: int, symmetric: bool) -> tuple[float, float]:
    """Scale and zero point, as `numerics.affine.grid`."""
    least, most = np.float32(min(low, 0)), np.float32(max(high, 0))
    if symmetric:
        half = 2 ** (bits - 1)
        return float(max(max(-least, most) / np.float32(half - 1), np.float32(1e-8))), float(half)
    top = 2**bits - 1
    scale = max((most - least) / np.float32(top), np.float32(1e-8))
    return float(scale), float(min(np.round(-least / scale), top))


def bin_errors(
    edges: np.ndarray, scale: float, zero: float, bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean squared rounding and clipping error of values spread evenly over each bin, as
    `numerics.histogram`.
    """
    v = edges / scale
    inside = np.clip(v, -zero, 2**bits - 1 - zero)
    r = np.round(inside)
    width = np.diff(v)
    parts = []
    for d, jump in ((inside - r, np.diff(r) / 12), (v - inside, 0.0)):
        left, right = d[:-1], d[1:]
        mean = (jump + (right - left) * (left**2 + left * right + right**2) / 3) / np.where(
            width > 0, width, 1
        )
        parts.append(np.where(width > 0, mean, left**2) * scale**2)
    return parts[0], parts[1]
