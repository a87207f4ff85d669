"""What was seen of activations, and the denoiser calls that it was seen at."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from .model import Site


@dataclass(frozen=True, kw_only=True, eq=False)
class ActivationStats:
    """What was seen of the activations, per site and timestep; two merge exactly
    (`capture.activations.merge`).

    The histogram of site s has bins [(first[s] + j) * 2**exponent[s], (first[s] + j + 1) *
    2**exponent[s]), the same for all its timesteps. Its counts are of a seeded subset of the
    elements where `subset` says so, and at outputs and at the softmax outputs of attention so are
    the power sums; all else is of every element."""

    model: str
    fingerprint: str  # ModelInfo.fingerprint of the model that was watched
    sampler: str  # scheduler class and settings, one line
    timesteps: tuple[
        float, ...
    ]  # distinct values in sampling order: timesteps[i] is the noisiest for i = 0
    sites: tuple[Site, ...]
    samples: int  # images generated
    # histogram elements of a site per row of a denoiser call (guidance: 2 rows an image); 0: all
    subset: int
    exponent: np.ndarray  # [S] int16
    first: np.ndarray  # [S] int32
    counts: tuple[np.ndarray, ...]  # S arrays [T, bins of s], integer
    elements: np.ndarray  # [S, T] int64: elements behind the moments
    minimum: np.ndarray  # [S, T] float32
    maximum: np.ndarray  # [S, T] float32
    power_sums: np.ndarray  # [S, T, 4] float64: sums of x, x^2, x^3, x^4
    channel_min: tuple[np.ndarray, ...]  # S arrays [T, channels of s] float32
    channel_max: tuple[np.ndarray, ...]
    made_on: str = (
        ""  # device and dtype of the model that was watched; "" in captures that did not say
    )

    @cached_property
    def index(self) -> dict[tuple[str, str], int]:
        """Position of each (name, point)."""
        return {(site.name, site.point): s for s, site in enumerate(self.sites)}

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    def only(self, rows: Sequence[int]) -> "ActivationStats":
        """The statistics of some sites."""
        rows = list(rows)
        arrays = ("exponent", "first", "elements", "minimum", "maximum", "power_sums")
        lists = ("sites", "counts", "channel_min", "channel_max")
        some: dict[str, Any] = {name: getattr(self, name)[rows] for name in arrays}
        some |= {name: tuple(getattr(self, name)[s] for s in rows) for name in lists}
        return replace(self, **some)

    def updated(self, seen: "ActivationStats") -> "ActivationStats":
        """These statistics with what was `seen` in the place of their own at the sites of `seen`.

        Raises KeyError for a site that is none of these.
        """
        rows = [self.index[site.name, site.point] for site in seen.sites]
        made: dict[str, Any] = {}
        for name in ("exponent", "first", "elements", "minimum", "maximum", "power_sums"):
            made[name] = getattr(self, name).copy()
            made[name][rows] = getattr(seen, name)
        for name in ("counts", "channel_min", "channel_max"):
            lent = dict(zip(rows, getattr(seen, name), strict=True))
            made[name] = tuple(lent.get(s, own) for s, own in enumerate(getattr(self, name)))
        return replace(self, **made)

    def unlike(self, base: "ActivationStats") -> list[int]:
        """The positions of the sites at which not the same was seen as in `base`, those that it
        lacks among them.
        """
        names = (
            "exponent",
            "first",
            "elements",
            "minimum",
            "maximum",
            "power_sums",
            "counts",
            "channel_min",
            "channel_max",
        )
        places = [(s, base.index.get((site.name, site.point))) for s, site in enumerate(self.sites)]
        return [
            s
            for s, b in places
            if b is None
            or not all(np.array_equal(getattr(self, n)[s], getattr(base, n)[b]) for n in names)
        ]

    def edges(self, s: int) -> np.ndarray:
        """The bin edges of site s, float64 [bins + 1]."""
        return (self.first[s] + np.arange(self.counts[s].shape[1] + 1)) * 2.0 ** int(
            self.exponent[s]
        )

    @cached_property
    def mean(self) -> np.ndarray:
        return self.power_sums[..., 0] / self.elements

    @cached_property
    def power(self) -> np.ndarray:
        """Mean of x^2, [S, T]: what errors are measured against."""
        return self.power_sums[..., 1] / self.elements

    @cached_property
    def std(self) -> np.ndarray:
        return np.sqrt(np.maximum(self.power - self.mean**2, 0))

    @cached_property
    def kurtosis(self) -> np.ndarray:
        """Excess kurtosis [S, T]; 0 for a normal distribution and for a constant."""
        m, (s2, s3, s4) = self.mean, (self.power_sums[..., k] / self.elements for k in (1, 2, 3))
        variance = s2 - m**2
        fourth = s4 - 4 * m * s3 + 6 * m**2 * s2 - 3 * m**4
        return np.where(
            variance > 1e-12 * np.maximum(s2, 1e-30),
            fourth / np.maximum(variance, 1e-30) ** 2 - 3,
            0.0,
        )

    def quantile(self, s: int, q: float) -> np.ndarray:
        """The q-quantile of site s at every step [T], linear within a bin, never outside what
        was seen.
        """
        counts, edges = self.counts[s].astype(np.float64), self.edges(s)
        total = counts.sum(1)
        below = np.concatenate([np.zeros((len(counts), 1)), counts.cumsum(1)], 1)
        rows = [
            np.interp(q * n, b, edges) if n else np.nan for n, b in zip(total, below, strict=True)
        ]
        return np.clip(rows, self.minimum[s], self.maximum[s])


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """The denoiser calls of pipeline runs, in the order made: enough to repeat any of them."""

    timesteps: tuple[float, ...]  # distinct, in sampling order
    step: np.ndarray  # [calls] int32: i of each call, timesteps[i] its t
    inputs: tuple[np.ndarray, ...]  # per call: x_t as the denoiser got it, [B, ...] float32
    outputs: tuple[np.ndarray, ...]  # per call: what it answered, same batch
    half: tuple[
        np.ndarray, ...
    ]  # per call [B] int8: 0 unconditional, 1 conditional, -1 no guidance
    conditioning: dict[str, np.ndarray] = field(
        default_factory=dict
    )  # distinct arrays by "call/argument" name
    arguments: tuple[
        dict[str, str], ...
    ] = ()  # per call: denoiser argument -> key into `conditioning`


@dataclass(frozen=True, kw_only=True, eq=False)
class ProgressiveRanges:
    """Activation ranges that were set along the trajectory of the quantized model (PCR).

    `stats` are those of the float model's trajectory, with what was seen on the quantized one at
    every input that is quantized; `low` and `high` [S, T] are the ranges in force, nan at other
    sites."""

    stats: ActivationStats
    low: np.ndarray  # [S, T] float32
    high: np.ndarray
    calls: int  # denoiser calls of the pipeline: T, unless some timestep is visited more than once
    widest_change: (
        float  # largest part by which a range that several calls share grew after it was first used
    )
