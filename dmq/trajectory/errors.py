"""What any partition of the steps costs, from statistics alone: no model is run when a boundary
moves.

One quantized site is one of three small classes, each with the same two methods:

    fit(starts) -> low, high [G] (or [G, C]), rounding, clipping [T]      starts: the first step of each group
    costs()     -> [T+1, T+1]: cost[a, e] of one range for the steps a..e-1

where errors and costs are shares of the power of each step (see bins.py).
"""

from functools import cached_property
from itertools import pairwise

import numpy as np
import torch

from ..numerics.threads import one_thread
from ..recipe import FLOAT, Activations, MinMax, MseSearch, Percentile, PerGroup, PerTensor
from ..results import ActivationStats, GroupErrors, Groups
from .bins import FAINT, Bins, QuickErrors


# runs of several steps take the place of single ones in longer trajectories, to bound memory
MOST_STEPS = 128
Fit = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class ErrorTable:
    """The errors of every partition of the steps, for the grids of `activations` with `bits` [S] at
    each site.

    Sites whose bits are FLOAT have no error and no range; the outputs of layers are expected to be
    among them. `weights` [T] say how much each step counts where a range is chosen, all the same if
    None; errors and costs are of every step alike, and a group in which no step counts is treated
    as if all did. Building takes a second for a hundred sites of a hundred steps; after that every
    question is cheap."""

    def __init__(
        self,
        stats: ActivationStats,
        activations: Activations,
        bits: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> None:
        if len(bits) != len(stats.sites):
            raise ValueError(
                f"bits must be one number for each of {len(stats.sites)} sites, got {len(bits)}"
            )
        self.stats, self.activations = stats, activations
        self.weights = (
            np.ones(stats.steps) if weights is None else np.maximum(weights / weights.max(), FAINT)
        )
        self.bits = np.asarray(bits).astype(int)
        self.sites = stats.sites
        self.steps = stats.steps
        self.quantized = np.flatnonzero(self.bits < FLOAT)
        with one_thread():
            self._fits = {int(s): self._site(int(s)) for s in self.quantized}

    def _site(self, s: int) -> "Searched | Spanned | Channels":
        bits, spec = int(self.bits[s]), self.activations
        if not isinstance(spec.granularity, PerTensor):
            return Channels(self.stats, s, bits, spec)
        if isinstance(spec.range, MseSearch):
            return Searched(Bins(self.stats, s), spec.range, bits, spec.symmetric, self.weights)
        return Spanned(Bins(self.stats, s, self.weights), spec.range, bits, spec.symmetric)

    def errors(self, groups: Groups) -> GroupErrors:
        """The range in force and the error at every site and step under `groups`.

        Groups that are no single run of steps need MseSearch ranges (TypeError).
        """
        power = self.stats.power
        low, high, rounding, clipping = (np.zeros(power.shape) for _ in range(4))
        with one_thread():
            found = {s: _fit_groups(fit, groups.slot[s]) for s, fit in self._fits.items()}
        for s, (lows, highs, lost, cut) in found.items():
            if lows.ndim == 2:  # channels: the widest range stands for all
                lows, highs = lows.min(1), highs.max(1)
            low[s], high[s] = lows[groups.slot[s]], highs[groups.slot[s]]
            rounding[s], clipping[s] = lost * power[s], cut * power[s]
        return self._errors(groups, low, high, rounding, clipping)

    def errors_of(self, groups: Groups, low: np.ndarray, high: np.ndarray) -> GroupErrors:
        """The error at every site and step with the given ranges, `low` and `high` [S, T], equal
        within a group.
        """
        power = self.stats.power
        rounding, clipping = np.zeros(power.shape), np.zeros(power.shape)
        with one_thread():
            for s in map(int, self.quantized):
                slot, (_, first) = groups.slot[s], np.unique(groups.slot[s], return_index=True)
                parts = Bins(self.stats, s).errors(
                    low[s, first], high[s, first], int(self.bits[s]), self.activations.symmetric
                )
                rounding[s], clipping[s] = (
                    part[np.arange(self.steps), slot] * power[s] for part in parts
                )
        return self._errors(groups, low, high, rounding, clipping)

    def _errors(
        self, groups: Groups, low: np.ndarray, high: np.ndarray, *parts: np.ndarray
    ) -> GroupErrors:
        rounding, clipping = parts
        return GroupErrors(
            groups=groups,
            bits=np.repeat(self.bits[:, None], self.steps, 1),
            low=low,
            high=high,
            rounding=rounding,
            clipping=clipping,
            power=self.stats.power,
        )

    def one_range(self, s: int, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The range of site s for all steps together, [1] and [1] or [1, C] of each if channels
        have their own.

        With MseSearch, `low` and `high` [R] are candidates beside those of the site itself.
        """
        fit = self._fits[s]
        own_low, own_high, *lost = fit.fit((0,))
        if not isinstance(fit, Searched):
            return own_low, own_high
        low, high = (
            np.append(own, given).astype(np.float32)
            for own, given in ((own_low, low), (own_high, high))
        )
        parts = Bins(self.stats, s).errors(
            low[1:], high[1:], int(self.bits[s]), self.activations.symmetric
        )
        sums = np.append(
            (sum(lost) * self.weights).sum(), (sum(parts) * self.weights[:, None]).sum(0)
        )
        best = [int(sums.argmin())]
        return low[best], high[best]

    def losses(self, s: int) -> np.ndarray:
        """What each step of site s loses on each of the candidate ranges, shares of its power [T,
        R].

        TypeError without MseSearch ranges, whose candidates these are.
        """
        return _candidates(self._fits[s]).lost

    def ranges(self, groups: Groups) -> list[tuple[np.ndarray, np.ndarray]]:
        """Low and high of every slot: a pair of arrays [slots] for each site, [slots, C] if
        channels have their own.

        Both are empty for sites that stay in float.
        """
        nothing = np.zeros(0), np.zeros(0)
        return [
            self._fits[s].fit(_starts(groups.slot[s]))[:2] if s in self._fits else nothing
            for s in range(len(self.sites))
        ]

    def segment_costs(self) -> np.ndarray:
        """`cost[s, a, e]`: the summed shares of power that site s loses at steps a..e-1 under one
        range.

        [S, T+1, T+1] float32; entries with e <= a mean nothing; sites in float cost nothing. Exact
        for MseSearch and channels; for MinMax and Percentile close, as `QuickErrors` is. Made on
        the first call, then kept."""
        return self._segment_costs

    @cached_property
    def _segment_costs(self) -> np.ndarray:
        costs = np.zeros((len(self.sites), self.steps + 1, self.steps + 1), np.float32)
        with one_thread():
            for s, fit in self._fits.items():
                costs[s] = fit.costs()
        return costs


def _fit_groups(fit: "Searched | Spanned | Channels", slot: np.ndarray) -> Fit:
    starts = _starts(slot)
    return fit.fit(starts) if len(starts) == slot.max() + 1 else _candidates(fit).members(slot)


def _candidates(fit: "Searched | Spanned | Channels") -> "Searched":
    if not isinstance(fit, Searched):
        raise TypeError("only MseSearch has candidate ranges, which groups of scattered steps need")
    return fit


def _starts(slot: np.ndarray) -> tuple[int, ...]:
    return (0, *(int(i) + 1 for i in np.flatnonzero(np.diff(slot))))


class Searched:
    """A fixed set of candidate ranges for one site; every group takes the best of them.

    Because the set does not depend on the partition, refining a partition can never raise the
    error. Its members are the best ranges of each single step and of every aligned run of 2, 4, 8,
    … steps."""

    def __init__(
        self, bins: Bins, spec: MseSearch, bits: int, symmetric: bool, weights: np.ndarray
    ) -> None:
        quick = QuickErrors(bins, bits, symmetric)
        a, e = _aligned_runs(len(bins.mass))
        low, high = _best_ranges(bins, quick, spec.candidates, a, e)
        self.low, self.high = np.unique(np.stack([low, high]).astype(np.float32), axis=1)
        rounding, self.clipping = bins.errors(self.low, self.high, bits, symmetric)
        self.lost = rounding + self.clipping
        alike = (weights == weights[0]).all()
        self.counted = (
            self.lost if alike else self.lost * weights[:, None]
        )  # what a range is chosen by

    def fit(self, starts: tuple[int, ...]) -> Fit:
        sums = np.add.reduceat(self.counted, starts, axis=0, dtype=np.float64)
        return self._choose_ranges(
            sums, np.repeat(np.arange(len(starts)), np.diff([*starts, len(self.lost)]))
        )

    def members(self, slot: np.ndarray) -> Fit:
        """`fit` for groups of any steps: `slot` [T] numbers the group of each."""
        sums = np.zeros((int(slot.max()) + 1, self.lost.shape[1]))
        np.add.at(sums, slot, self.counted)
        return self._choose_ranges(sums, slot)

    def _choose_ranges(self, sums: np.ndarray, slot: np.ndarray) -> Fit:
        best = sums.argmin(1)
        column = best[slot]
        rows = np.arange(len(self.lost))
        clipping = self.clipping[rows, column].astype(float)
        return self.low[best], self.high[best], self.lost[rows, column] - clipping, clipping

    def costs(self) -> np.ndarray:
        steps = len(self.lost)
        costs = np.zeros((steps + 1, steps + 1), np.float32)
        for a in range(steps):
            sums = self.lost[a:].cumsum(0)
            if self.counted is self.lost:
                costs[a, a + 1 :] = sums.min(1)
            else:
                chosen = self.counted[a:].cumsum(0, dtype=np.float64).argmin(1)
                costs[a, a + 1 :] = sums[np.arange(steps - a), chosen]
        return costs


class Spanned:
    """One site whose range covers what was seen in a group: all of it, or its central
    percentiles.
    """

    def __init__(self, bins: Bins, spec: MinMax | Percentile, bits: int, symmetric: bool) -> None:
        self.bins, self.spec, self.bits, self.symmetric = bins, spec, bits, symmetric
        self._known: dict[tuple[int, int], Fit] = {}

    def fit(self, starts: tuple[int, ...]) -> Fit:
        steps = len(self.bins.mass)
        runs = list(pairwise([*starts, steps]))
        if len(self._known) > 16 * steps:
            self._known.clear()
        missing = [run for run in runs if run not in self._known]
        if missing:  # dragging a boundary changes two groups only
            a, e = np.array(missing).T
            low, high = (side.astype(np.float32) for side in self.span(a, e))
            rounding, clipping = self.bins.errors(low, high, self.bits, self.symmetric)
            for k, run in enumerate(missing):
                inside = slice(*run)
                self._known[run] = (
                    low[k],
                    high[k],
                    rounding[inside, k].copy(),
                    clipping[inside, k].copy(),
                )
        lows, highs, rounded, clipped = zip(*(self._known[run] for run in runs), strict=True)
        return np.array(lows), np.array(highs), np.concatenate(rounded), np.concatenate(clipped)

    def span(self, a: np.ndarray, e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Low and high of the runs a..e-1."""
        seen = tuple(side[a, e] for side in self.bins.extremes)
        if isinstance(self.spec, MinMax):
            return seen
        tail = (1 - self.spec.percent / 100) / 2
        low, high = self.bins.quantile(tail, a, e), self.bins.quantile(1 - tail, a, e)
        return np.maximum(low, seen[0]), np.minimum(high, seen[1])

    def costs(self) -> np.ndarray:
        steps = len(self.bins.mass)
        a, e = np.triu_indices(steps + 1, 1)
        costs = np.zeros((steps + 1, steps + 1), np.float32)
        costs[a, e] = QuickErrors(self.bins, self.bits, self.symmetric)(a, e, *self.span(a, e))
        return costs


class Channels:
    """One site with a range for every channel or group of channels, from minimum to maximum:
    rounding scale^2 / 12.
    """

    def __init__(self, stats: ActivationStats, s: int, bits: int, spec: Activations) -> None:
        self.low, self.high = (
            side[s].astype(np.float64) for side in (stats.channel_min, stats.channel_max)
        )
        if isinstance(spec.granularity, PerGroup):
            starts = np.arange(0, self.low.shape[1], spec.granularity.size)
            group = np.arange(self.low.shape[1]) // spec.granularity.size
            self.low = np.minimum.reduceat(self.low, starts, axis=1)[:, group]
            self.high = np.maximum.reduceat(self.high, starts, axis=1)[:, group]
        self.low, self.high = np.minimum(self.low, 0), np.maximum(self.high, 0)
        self.power, self.bits, self.symmetric = (
            np.maximum(stats.power[s], 1e-30),
            bits,
            spec.symmetric,
        )

    def rounding(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Mean over the channels of scale^2 / 12."""
        if self.symmetric:
            scale = np.maximum(-low, high) / (2 ** (self.bits - 1) - 1)
        else:
            scale = (high - low) / (2**self.bits - 1)
        return (scale**2).mean(-1) / 12

    def fit(self, starts: tuple[int, ...]) -> Fit:
        low, high = (
            np.minimum.reduceat(self.low, starts, 0),
            np.maximum.reduceat(self.high, starts, 0),
        )
        lost = np.repeat(self.rounding(low, high), np.diff([*starts, len(self.low)]))
        return low, high, np.minimum(lost / self.power, 1), np.zeros(len(lost))

    def costs(self) -> np.ndarray:
        steps = len(self.low)
        costs = np.zeros((steps + 1, steps + 1), np.float32)
        for a in range(steps):
            lost = self.rounding(
                np.minimum.accumulate(self.low[a:]), np.maximum.accumulate(self.high[a:])
            )
            shares = np.minimum(lost[:, None] / self.power[None, a:], 1)
            costs[a, a + 1 :] = np.tril(shares).sum(1)
        return costs


def _aligned_runs(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last-plus-one step of every step, pair, four, … and of the whole; about 2 T
    runs.
    """
    length, runs = 1, []
    while True:
        if steps // length <= MOST_STEPS:
            runs += [(a, min(a + length, steps)) for a in range(0, steps, length)]
        if length >= steps:
            return tuple(np.array(runs).T)
        length *= 2


def _best_ranges(
    bins: Bins, quick: QuickErrors, candidates: int, a: np.ndarray, e: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The range of smallest error for each of the runs a..e-1, among `candidates` of its own.

    For a given width, the error is least where both sides lose the same: the sum of what sticks out
    below equals the sum of what sticks out above. So one bound decides the other, and a search
    along the longer side is enough."""
    a, e = a[:, None], e[:, None]
    low, high = (side[a, e] for side in bins.extremes)
    weight = quick.weight[e] - quick.weight[a]
    typical = np.sqrt((quick.square[e] - quick.square[a]) / np.maximum(weight, 1e-300))
    longest = np.maximum(np.maximum(-low, high), 1e-30)
    shrink = np.clip(typical / 2 / longest, 1e-4, 1) ** np.linspace(0, 1, candidates)
    if quick.symmetric:
        lows, highs = -longest * shrink, longest * shrink
    else:
        lows, highs = _balanced(quick, a, e, low, high, longest * shrink)
    errors = quick(a, e, lows, highs)
    best = errors.argmin(1)
    rows = np.arange(len(best))
    return lows[rows, best], highs[rows, best]


def _balanced(
    quick: QuickErrors,
    a: np.ndarray,
    e: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    reach: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Ranges that reach `reach` [N, K] on the longer side and lose as much on the other one."""
    below, above = (side[e[:, 0]] - side[a[:, 0]] for side in quick.tail)
    lows, highs = -reach, reach.copy()
    up = (high >= -low)[:, 0]
    lows[up] = _same_loss(quick.edges, above[up], below[up], reach[up])
    mirrored = -quick.edges[::-1]
    highs[~up] = -_same_loss(mirrored, below[~up][:, ::-1], above[~up][:, ::-1], reach[~up])
    return np.clip(lows, np.minimum(low, 0), 0), np.clip(highs, 0, np.maximum(high, 0))


def _same_loss(
    edges: np.ndarray, above: np.ndarray, below: np.ndarray, reach: np.ndarray
) -> np.ndarray:
    """Where as much sticks out below as above `reach` [N, K]; `above` and `below` [N, B+1] are
    known at the edges.
    """
    place = np.interp(reach, edges, np.arange(len(edges)))
    column = np.minimum(place.astype(int), len(edges) - 2)
    start, stop = (np.take_along_axis(above, column + k, 1) for k in (0, 1))
    lost = start + (place - column) * (stop - start)
    rising = torch.from_numpy(np.maximum.accumulate(below, 1))
    column = (
        torch.searchsorted(rising, torch.from_numpy(lost), right=True)
        .clamp(1, len(edges) - 1)
        .numpy()
        - 1
    )
    start, stop = (np.take_along_axis(rising.numpy(), column + k, 1) for k in (0, 1))
    part = np.clip((lost - start) / np.maximum(stop - start, 1e-300), 0, 1)
    return edges[column] + part * (edges[column + 1] - edges[column])
