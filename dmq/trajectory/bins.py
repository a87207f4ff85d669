"""The histograms of one site made ready for asking, for any run of steps, what a quantization grid
would do to it.

A run of steps a..e-1 counts each of its steps by the share of that step's own power that is lost.
Plain squared error would let the loudest step decide the range of a whole group, although every
denoiser call matters to the image; and since zero is always on the grid, the share of any one
step lies between 0 and 1, so no faint step can outweigh the rest."""

from functools import cached_property, lru_cache

import numpy as np
import torch

from ..numerics.affine import grid
from ..numerics.histogram import bin_errors
from ..results import ActivationStats


# bins this far from zero stay as they are; beyond, they are joined to a relative width of
# 1/64..1/32
FINE = 64
CHUNK = (
    32  # grids looked at together: their temporaries stay in the cache, and below torch's threading
)
FAINT = 1e-9  # weight of steps that count only where no other step does
SPACING = 0.05  # between the logarithms of the scales in the rounding table


def join_edges(limit: int) -> np.ndarray:
    """The bin edges from -limit to limit that remain when far bins are joined: every one to
    FINE, then 2nd, 4th, …
    """
    index = np.arange(-limit, limit + 1)
    step = (2 ** np.ceil(np.log2(np.maximum(np.abs(index) / FINE, 1)))).astype(int)
    return index[index % step == 0]


@lru_cache(maxsize=8)
def rounding_table(limit: int) -> np.ndarray:
    """Rounding error over scale^2 in each bin of `joined_edges(limit)`, [bins, scales], when
    nothing is clipped.

    In units of a bin, scales start at a quarter, where it is 1/12 everywhere, and grow by e^SPACING
    until twice the longest value, where all is rounded to zero."""
    scales = torch.exp(
        torch.arange(np.log(0.25), np.log(2.2 * limit) + SPACING, SPACING, dtype=torch.float64)
    )
    reach = scales * (2.0**23 - 1)  # 24 bits wide
    edges = torch.from_numpy(join_edges(limit).astype(float))
    table = torch.cat([bin_errors(edges, -part, part, 24, True)[0] for part in reach.split(CHUNK)])
    return (table / scales[:, None] ** 2).T.contiguous().numpy()


class Bins:
    """`edges` [B+1] float64, `mass` [T, B] of each step in each bin (sums to 1), `loss` [T] to
    multiply errors by.

    Bins are also cut at every step's minimum and maximum, so that no step seems to reach further
    than it did. `loss` turns a mean squared error into a share of the step's power; where a step is
    so narrow that spreading it over its bins overstates its power, it takes that back. `weights`
    [T] are what steps count in extremes and quantiles of runs."""

    def __init__(self, stats: ActivationStats, s: int, weights: np.ndarray | None = None) -> None:
        self.weights = np.ones(stats.steps) if weights is None else weights
        counts, edges = stats.counts[s].astype(np.float64), stats.edges(s)
        self.minimum, self.maximum = (
            x[s].astype(np.float64) for x in (stats.minimum, stats.maximum)
        )
        first, last = int(stats.first[s]), int(stats.first[s]) + counts.shape[1]
        self.limit = 1 << max(abs(first), abs(last), FINE).bit_length()
        joined = join_edges(self.limit)
        self.kept = slice(
            np.searchsorted(joined, first, "right") - 1, np.searchsorted(joined, last) + 1
        )
        kept = joined[self.kept] * 2.0 ** int(stats.exponent[s])
        cuts = np.concatenate([self.minimum, self.maximum])
        self.width = 2.0 ** int(stats.exponent[s])
        self.edges = np.unique(np.concatenate([kept, cuts[(cuts > edges[0]) & (cuts < edges[-1])]]))
        self.uncut = np.searchsorted(self.edges, kept)
        self.total = counts.sum(1)
        share = counts / np.maximum(self.total, 1)[:, None]
        self.mass = np.diff(self._below(share, edges), axis=1)
        a, b = self.edges[:-1], self.edges[1:]
        spread = self.mass @ ((a * a + a * b + b * b) / 3)
        self.power = stats.power[s]
        self.loss = np.where(
            self.power > 1e-30, 1 / np.maximum(np.maximum(self.power, spread), 1e-30), 0
        )

    def _below(self, share: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """The share of each step below each edge [T, B+1], each bin's evenly within the step's
        own range.
        """
        bin_of = np.clip(np.searchsorted(edges, self.edges, "right") - 1, 0, share.shape[1] - 1)
        left = np.maximum(edges[bin_of], self.minimum[:, None])
        right = np.minimum(edges[bin_of + 1], self.maximum[:, None])
        part = np.clip(
            (self.edges - left) / np.maximum(right - left, 1e-12 * np.abs(right) + 1e-300), 0, 1
        )
        cumulative = np.concatenate([np.zeros((len(share), 1)), share.cumsum(1)], 1)
        return cumulative[:, bin_of] + share[:, bin_of] * part

    def errors(
        self, low: np.ndarray, high: np.ndarray, bits: int, symmetric: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Shares of power [T, R] that every step loses to rounding and to clipping on each of R
        grids, float32.
        """
        edges, weights = self._single
        ends = (torch.from_numpy(np.asarray(x, np.float32)).split(CHUNK) for x in (low, high))
        chunks = zip(*ends, strict=True)
        parts = [
            [weights @ part.T for part in bin_errors(edges, lo, hi, bits, symmetric)]
            for lo, hi in chunks
        ]
        rounding, clipping = (torch.cat(side, 1).numpy() for side in zip(*parts, strict=True))
        return rounding, clipping

    @cached_property
    def _single(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Edges and weights of the steps in single precision."""
        weights = self.mass * self.loss[:, None]
        return torch.from_numpy(self.edges.astype(np.float32)), torch.from_numpy(
            weights.astype(np.float32)
        )

    @cached_property
    def extremes(self) -> tuple[np.ndarray, np.ndarray]:
        """[a, e] of the smallest minimum and the largest maximum of steps a..e-1, [T, T+1]."""
        low, high = self._extremes(self.weights > FAINT)
        all_low, all_high = self._extremes(np.ones(len(self.weights), bool))
        return np.where(np.isinf(low), all_low, low), np.where(np.isinf(high), all_high, high)

    def _extremes(self, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`extremes` of the steps that are counted; infinite where there are none."""
        later = np.tri(len(counted), len(counted) + 1, dtype=bool)[:, 1:]  # e <= a
        low = np.where(later | ~counted, np.inf, self.minimum)
        high = np.where(later | ~counted, -np.inf, self.maximum)
        spread = ((0, 0), (1, 0))
        return np.pad(np.minimum.accumulate(low, 1), spread), np.pad(
            np.maximum.accumulate(high, 1), spread
        )

    @cached_property
    def _seen_below(self) -> np.ndarray:
        """How many values of the first 0, 1, …, T steps lie below each edge, by weight."""
        return _runs(
            np.pad(self.mass.cumsum(1), ((0, 0), (1, 0))) * (self.total * self.weights)[:, None]
        )

    def quantile(self, q: float, a: np.ndarray, e: np.ndarray) -> np.ndarray:
        """The q-quantile of all values seen at steps a..e-1, for arrays a and e of equal length."""
        merged = torch.from_numpy(self._seen_below[e] - self._seen_below[a])
        wanted = merged[:, -1:] * q
        right = torch.searchsorted(merged, wanted, right=q < 0.5).clamp(1, merged.shape[1] - 1)
        start, stop = merged.gather(1, right - 1), merged.gather(1, right)
        part = ((wanted - start) / (stop - start).clamp(min=1e-30)).clamp(0, 1)
        edges = torch.from_numpy(self.edges)
        return (edges[right - 1] + part * (edges[right] - edges[right - 1]))[:, 0].numpy()


class QuickErrors:
    """An approximation of Bins.errors summed over runs of steps, far faster than that.

    Rounding depends on the scale alone when nothing is clipped, so a table over scales serves; what
    a bound clips comes from moments below and above it. All tables are summed over steps: a run is
    a difference of two rows. Good to a percent as a rule; to a tenth where many values are equal,
    whose rounding no table of scales can follow."""

    def __init__(self, bins: Bins, bits: int, symmetric: bool) -> None:
        self.bits, self.symmetric, self.edges = bits, symmetric, bins.edges
        weights = bins.mass * bins.loss[:, None]
        a, b = bins.edges[:-1], bins.edges[1:]
        moments = weights, weights * ((a + b) / 2), weights * ((a * a + a * b + b * b) / 3)
        left = [np.pad(m.cumsum(1).cumsum(0), ((1, 0), (1, 0))) for m in moments]
        right = [m[:, -1:] - m for m in left]
        self.weight, _, self.square = (m[:, -1] for m in left)
        self.outside = left[0], right[0]
        self.tail = bins.edges * left[0] - left[1], right[1] - bins.edges * right[0]
        self.clipped = [
            bins.edges**2 * m0 - 2 * bins.edges * m1 + m2 for m0, m1, m2 in (left, right)
        ]
        self.start = np.log(bins.width / 4)
        table = rounding_table(bins.limit)[bins.kept.start : bins.kept.stop - 1]
        joined = np.add.reduceat(weights, bins.uncut[:-1], axis=1)
        split = int((bins.edges[bins.uncut[:-1]] < 0).sum())
        sides = slice(0, split), slice(split, None)
        self.rounding = [
            _runs((torch.from_numpy(joined[:, side]) @ torch.from_numpy(table[side])).numpy())
            for side in sides
        ]

    def __call__(
        self, a: np.ndarray, e: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> np.ndarray:
        """Summed shares of power lost at steps a..e-1 on the grids of low..high; all arguments
        broadcast.
        """
        ends = (torch.from_numpy(x.astype(np.float32)) for x in (low, high))
        steps = grid(next(ends), next(ends), self.bits, self.symmetric)
        scale, zero = (part.double().numpy() for part in steps)
        place = np.clip(
            (np.log(scale) - self.start) / SPACING, 0, self.rounding[0].shape[1] - 1.001
        )
        cells = zero, 2**self.bits - 1 - zero  # below and above zero
        rounding = clipping = np.zeros(())
        for side, count in enumerate(cells):
            bound = self.place(count * scale * (-1, 1)[side])
            inside = (
                _between(self.rounding[side], a, e, place)
                - _between(self.outside[side], a, e, bound) / 12
            )
            rounding = rounding + np.maximum(inside, 0) * (count > 0)
            clipping = clipping + _between(self.clipped[side], a, e, bound)
        return rounding * scale**2 + clipping

    def place(self, x: np.ndarray) -> np.ndarray:
        """Fractional index of `x` among the edges."""
        return np.interp(x, self.edges, np.arange(len(self.edges)))


def _runs(rows: np.ndarray) -> np.ndarray:
    """Sums over the first 0, 1, …, T steps."""
    return np.pad(rows.cumsum(0), ((1, 0), (0, 0)))


def _between(table: np.ndarray, a: np.ndarray, e: np.ndarray, place: np.ndarray) -> np.ndarray:
    """table[e] - table[a] at a fractional column, linearly."""
    column = np.minimum(place.astype(int), table.shape[1] - 2)
    part = place - column
    here = table[e, column] - table[a, column]
    there = table[e, column + 1] - table[a, column + 1]
    return here + part * (there - here)
