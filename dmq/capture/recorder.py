"""Statistics of tensors as they flow by, in one pass and in memory that depends on sites and steps
alone.

Extremes are of every element. So are the sums of x to x^4, except at the outputs of layers, which
are looked at and never quantized, and at attention's softmax output, which is not written to
memory: there the sums are of the histogram's subset, which saves much of the cost. `elements`
counts what is behind the sums. Tensors that several sites share (the input of to_q, to_k and to_v;
q itself, a view of to_q's output) are read once. What is gathered stays on the device until the end
of a denoiser call, when all sites are binned together. Half-precision values are counted as what
they are, in float32."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import DmqError
from ..models.probabilities import Probabilities
from ..numerics.devices import chunk_size
from ..numerics.mergeable import BINS, SMALLEST, bin_counts, coarsen, fit_exponent
from ..numerics.threads import one_thread
from ..results import Site


# tensors kept for being seen again: the input and the outputs of to_q, to_k, to_v, and some room
RECENT = 6
MIN_LONG = 256  # elements of a channel, in one row, whose reduction vectorises well by itself
MAX_PENDING = (
    2**22
)  # values that wait for binning, at most, plus one tensor; on other devices than the CPU 16 times that
MAX_PERMUTED = (
    2**20
)  # elements of a row whose places are the first of a permutation; where there are more it would be large


def channel_axis(site: Site) -> int:
    """The axis of channels in a tensor at `site`: features of a linear layer, channels of a
    convolution, heads.

    Also that of `ActivationStats.channel_min`; q, k, v and probs of an attention have their heads
    there."""
    return -1 if site.kind == "linear" else 1


@dataclass
class _Tensor:
    """What is known of one tensor."""

    tensor: Tensor | None  # kept while recent, so that nothing else comes to lie at its address
    sample: Tensor  # [rows, n]
    whole: bool  # is every element in the sample
    sums: list[Tensor] = field(
        default_factory=list
    )  # 4 numbers of each part, if more than the sample is wanted
    size: int = 0
    extremes: dict[tuple, tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass
class _Step:
    """Running totals of one timestep; S sites, C channels of all sites one after another."""

    sums: Tensor  # [S, 4] float64
    elements: Tensor  # [S] int64, behind the sums
    low: Tensor  # [C] float32
    high: Tensor
    counts: Tensor  # [S, BINS] int32, int64 without a subset


class Recorder:
    """Collects what `see` is shown between `begin` and `end` of a denoiser call.

    `subset` elements of each row of a tensor go into the histogram (0: all of them), always at the
    same places, so that it does not matter how images are spread over batches and captures."""

    def __init__(self, subset: int) -> None:
        self.subset = subset
        self.sites: list[Site] = []  # in the order they were first seen
        self.channels: list[int] = []
        self.exponent = torch.empty(0, dtype=torch.int64)
        self.steps: dict[float, _Step] = {}
        self._places: dict[tuple[int, torch.device], Tensor] = {}
        self._scratch = torch.empty(0)
        self._clear()

    def _clear(self) -> None:
        self._recent: dict[tuple, _Tensor] = {}
        self._pending: dict[Site, list[tuple[_Tensor, Tensor, Tensor]]] = {}
        self._waiting = 0

    def begin(self, t: float, rows: int, i: int | None = None) -> None:
        """A denoiser call at timestep `t` for `rows` rows starts; `i` is its step where this
        recorder saw no other.
        """
        self._clear()
        self.t, self.rows, self.i = t, rows, i

    def see(self, site: Site, x: Tensor | Probabilities) -> None:
        """Count `x`, which flows through `site`."""
        if isinstance(x, Probabilities):
            self._see_probabilities(site, x)
            return
        known = self._measure(x) if site.kind == "conv" else self._recall(x)
        if not known.sums and self._exact(site, known):
            known.sums = self._sums(_rows(x, self.rows).reshape(-1))
        low, high = self._extremes(known, site, x)
        if site.kind == "conv":
            known.tensor = None
        self._wait(site, known, low, high)

    def _see_probabilities(self, site: Site, x: Probabilities) -> None:
        rows = _count(x.shape[0], self.rows)
        n = x.shape.numel() // max(1, rows)
        if not 0 < self.subset < n:
            self.see(site, x.whole())
            return
        places = torch.arange(rows, device=x.device).unsqueeze(1) * n + self._chosen(n, x.device)
        self._wait(site, _Tensor(None, x.at(places), whole=False, size=rows * n), *x.extremes())

    def _wait(self, site: Site, known: _Tensor, low: Tensor, high: Tensor) -> None:
        self._pending.setdefault(site, []).append((known, low, high))
        self._waiting += known.sample.numel()
        if self._waiting > (MAX_PENDING if known.sample.device.type == "cpu" else 16 * MAX_PENDING):
            self._commit()

    def end(self) -> None:
        """The denoiser call is over. DmqError if NaN or infinity was seen."""
        with one_thread():
            self._commit()
        self._clear()

    def _exact(self, site: Site, known: _Tensor) -> bool:
        """Are sums of more than the sample wanted?"""
        return not known.whole and (site.point not in ("output", "probs") or not self.subset)

    def _measure(self, x: Tensor) -> _Tensor:
        sample = self._sample(_rows(x, self.rows))
        whole = 0 < sample.numel() == x.numel() <= self.subset * self.rows
        return _Tensor(x, sample, whole=whole, size=x.numel())

    def _recall(self, x: Tensor) -> _Tensor:
        """What is known of `x` from another site; convolutions share nothing, and to keep their
        tensors costs time.
        """
        key = (x.untyped_storage()._cdata, x.storage_offset(), x.numel(), x._version)
        known = self._recent.get(key)
        if known is None or known.tensor is None or not (_dense(x) and _dense(known.tensor)):
            known = self._recent[key] = self._measure(x)
            if len(self._recent) > RECENT:
                self._recent.pop(
                    next(iter(self._recent))
                ).tensor = None  # binning needs the sample only
        return known

    def _sums(self, x: Tensor) -> list[Tensor]:
        at_once = chunk_size(x.device)
        if len(self._scratch) < min(len(x), at_once) or self._scratch.device != x.device:
            self._scratch = torch.empty(min(len(x), at_once), device=x.device)
        found = []
        for part in x.split(at_once):
            part = part.float()  # x^4 would leave float16 from x = 16 on
            square = torch.mul(part, part, out=self._scratch.narrow(0, 0, len(part)))
            found += [
                part.sum(),
                torch.dot(part, part),
                torch.dot(square, part),
                torch.dot(square, square),
            ]
        return found

    def _sample(self, rows: Tensor) -> Tensor:
        n = rows.shape[1]
        if not 0 < self.subset < n:
            return rows.to(
                torch.float32, copy=True
            )  # what is seen may be overwritten before it is binned
        return rows.index_select(1, self._chosen(n, rows.device)).float()

    def _chosen(self, n: int, device: torch.device) -> Tensor:
        """The places of the subset among n elements."""
        if (n, device) not in self._places:
            random = torch.Generator().manual_seed(n)
            if n <= MAX_PERMUTED:
                chosen = torch.randperm(n, generator=random)[: self.subset]
            else:
                chosen = torch.randint(n, (2 * self.subset,), generator=random).unique()
                chosen = chosen[torch.randperm(len(chosen), generator=random)[: self.subset]]
            self._places[n, device] = chosen.sort().values.to(device)
        return self._places[n, device]

    def _extremes(self, known: _Tensor, site: Site, x: Tensor) -> tuple[Tensor, Tensor]:
        axis = channel_axis(site)
        key = (axis, *x.shape)
        if key not in known.extremes:
            known.extremes[key] = (
                _of_heads(known, x) if site.kind == "attention" else _over_channels(x, axis)
            )
        return known.extremes[key]

    def _commit(self) -> None:
        if not self._pending:
            return
        known = set(self.sites)
        self._meet(
            [(site, len(seen[0][1])) for site, seen in self._pending.items() if site not in known]
        )
        step = self.steps.setdefault(self.t, self._empty())
        device = next(iter(self._pending.values()))[0][1].device
        calls = [
            self._pending.get(site) or _nothing(c, device)
            for site, c in zip(self.sites, self.channels, strict=True)
        ]
        low = torch.cat([_together(torch.minimum, [low for _, low, _ in seen]) for seen in calls])
        high = torch.cat(
            [_together(torch.maximum, [high for _, _, high in seen]) for seen in calls]
        )
        low, high = torch.stack([low, high]).float().cpu()
        self._fit(low, high)
        torch.minimum(step.low, low, out=step.low)
        torch.maximum(step.high, high, out=step.high)
        seen = [
            (s, known)
            for s, entries in enumerate(calls)
            for known, _, _ in entries
            if known is not None
        ]
        self._add_sums(step, [(s, known) for s, known in seen if self._exact(self.sites[s], known)])
        self._bin(step, seen)
        self._pending, self._waiting = {}, 0

    def _add_sums(self, step: _Step, exact: list[tuple[int, _Tensor]]) -> None:
        if not exact:
            return
        sums = (
            torch.stack([number for _, known in exact for number in known.sums]).view(-1, 4).cpu()
        )
        parts = torch.tensor([s for s, known in exact for _ in range(len(known.sums) // 4)])
        step.sums.index_add_(0, parts, sums.double())
        where, sizes = torch.tensor([(s, known.size) for s, known in exact]).T
        step.elements.index_add_(0, where, sizes)

    def _bin(self, step: _Step, seen: list[tuple[int, _Tensor]]) -> None:
        lengths: dict[int, list[tuple[int, _Tensor]]] = {}
        for s, known in seen:
            lengths.setdefault(known.sample.numel(), []).append((s, known))
        found = []
        for group in lengths.values():
            where = torch.tensor([s for s, _ in group])
            values = torch.stack([known.sample.view(-1) for _, known in group])
            counts = bin_counts(values, self.exponent[where].to(values.device))
            few = torch.tensor([not self._exact(self.sites[s], known) for s, known in group])
            found.append(
                (where, counts, few, _powers(values[few.to(values.device)]), values.shape[1])
            )
        counts = torch.cat([counts for _, counts, *_ in found]).cpu()
        step.counts.index_add_(
            0, torch.cat([where for where, *_ in found]), counts.to(step.counts.dtype)
        )
        where = torch.cat([where[few] for where, _, few, *_ in found])
        step.sums.index_add_(0, where, torch.cat([sums for *_, sums, _ in found]).cpu().double())
        sizes = torch.cat([few[few].long() * size for _, _, few, _, size in found])
        step.elements.index_add_(0, where, sizes)

    def _fit(self, low: Tensor, high: Tensor) -> None:
        """Widen the bins of the sites that outgrew them, at all steps."""
        magnitude = torch.maximum(high, -low).clamp(min=0)
        owner = torch.repeat_interleave(torch.arange(len(self.sites)), torch.tensor(self.channels))
        largest = torch.zeros(len(self.sites)).scatter_reduce_(0, owner, magnitude, "amax")
        if not largest.isfinite().all():
            site = self.sites[int((~largest.isfinite()).nonzero()[0])]
            i = list(self.steps).index(self.t) if self.i is None else self.i
            raise DmqError(
                f"{site.label}: not finite at step {i + 1} (t = {self.t:g}); the float model "
                "itself fails there. In "
                "half precision try --dtype bfloat16 or float32; else check weights, scheduler and "
                "guidance."
            )
        self._widen(fit_exponent(largest))

    def _widen(self, exponent: Tensor) -> None:
        """Make bins as wide as `exponent` says, at all steps, where they are not already."""
        wanted = torch.maximum(exponent, self.exponent)
        for s in (wanted > self.exponent).nonzero().flatten().tolist():
            for step in self.steps.values():
                step.counts[s] = coarsen(step.counts[s], int(wanted[s] - self.exponent[s]))
        self.exponent = wanted

    @one_thread()
    def add(self, other: "Recorder") -> None:
        """Count what `other` saw as well, whose bins may get wider for it."""
        known = set(self.sites)
        self._meet(
            [
                (site, c)
                for site, c in zip(other.sites, other.channels, strict=True)
                if site not in known
            ]
        )
        number = {site: s for s, site in enumerate(self.sites)}
        where = torch.tensor([number[site] for site in other.sites], dtype=torch.int64)
        exponent = self.exponent.clone()
        exponent[where] = other.exponent
        self._widen(exponent)
        other._widen(self.exponent[where])
        starts = np.cumsum([0, *self.channels])
        channels = torch.tensor(
            [c for s in where.tolist() for c in range(starts[s], starts[s + 1])]
        )
        for t, seen in other.steps.items():
            step = self.steps.setdefault(t, self._empty())
            step.sums.index_add_(0, where, seen.sums)
            step.elements.index_add_(0, where, seen.elements)
            step.counts.index_add_(0, where, seen.counts)
            step.low[channels] = torch.minimum(step.low[channels], seen.low)
            step.high[channels] = torch.maximum(step.high[channels], seen.high)

    def _meet(self, sites: list[tuple[Site, int]]) -> None:
        """Make room for sites that were not seen before."""
        more, channels = len(sites), sum(c for _, c in sites)
        if not more:
            return
        self.sites += [site for site, _ in sites]
        self.channels += [c for _, c in sites]
        self.exponent = F.pad(self.exponent, (0, more), value=SMALLEST)
        for step in self.steps.values():
            step.sums, step.counts = (
                F.pad(step.sums, (0, 0, 0, more)),
                F.pad(step.counts, (0, 0, 0, more)),
            )
            step.elements = F.pad(step.elements, (0, more))
            step.low = F.pad(step.low, (0, channels), value=torch.inf)
            step.high = F.pad(step.high, (0, channels), value=-torch.inf)

    def _empty(self) -> _Step:
        sites, channels = len(self.sites), sum(self.channels)
        return _Step(
            sums=torch.zeros(sites, 4, dtype=torch.float64),
            elements=torch.zeros(sites, dtype=torch.int64),
            low=torch.full((channels,), torch.inf),
            high=torch.full((channels,), -torch.inf),
            counts=torch.zeros(sites, BINS, dtype=torch.int32 if self.subset else torch.int64),
        )

    @one_thread()
    def finished(self) -> dict[str, Any]:
        """The array fields of `ActivationStats`, histograms cut to the bins in use."""
        steps = list(self.steps.values())
        cuts = [_cut(torch.stack([x.counts[s] for x in steps])) for s in range(len(self.sites))]
        counts, first = zip(*cuts, strict=True)
        low, high = (
            [part.numpy() for part in torch.stack(rows).split(self.channels, 1)]
            for rows in ([x.low for x in steps], [x.high for x in steps])
        )
        return {
            "timesteps": tuple(self.steps),
            "sites": tuple(self.sites),
            "exponent": self.exponent.numpy().astype(np.int16),
            "first": np.array(first, np.int32),
            "counts": counts,
            "elements": torch.stack([x.elements for x in steps], 1).numpy(),
            "power_sums": torch.stack([x.sums for x in steps], 1).numpy(),
            "minimum": np.stack([part.min(1) for part in low]),
            "maximum": np.stack([part.max(1) for part in high]),
            "channel_min": tuple(part.copy() for part in low),
            "channel_max": tuple(part.copy() for part in high),
        }


def _nothing(channels: int, device: torch.device) -> list[tuple[None, Tensor, Tensor]]:
    low, high = (torch.full((channels,), end, device=device) for end in (torch.inf, -torch.inf))
    return [(None, low, high)]


def _powers(x: Tensor) -> Tensor:
    """The sums of x to x^4 in each row of `x`, [rows, 4]."""
    square = x * x
    return torch.stack([x.sum(1), square.sum(1), (square * x).sum(1), (square * square).sum(1)], 1)


def _cut(counts: Tensor) -> tuple[np.ndarray, int]:
    """`counts` [T, BINS] without the empty bins at both ends, and the index of the first bin
    left, -512 to 511.
    """
    used = counts.sum(0).nonzero().flatten()
    start, stop = (int(used[0]), int(used[-1]) + 1) if len(used) else (BINS // 2, BINS // 2 + 1)
    return counts[:, start:stop].numpy().copy(), start - BINS // 2


def _dense(x: Tensor) -> bool:
    """Does `x` fill a piece of memory without gaps and without reading any of it twice?"""
    if x.is_contiguous():
        return True
    return (
        1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
        == x.numel()
    )


def _count(length: int, rows: int) -> int:
    """As how many rows a tensor counts whose first axis is `length`, in a call for `rows`."""
    return 1 if length > rows and length % rows else min(length, rows)


def _rows(x: Tensor, rows: int) -> Tensor:
    """`x` as (images, rest), without a copy where memory allows; the order within a row does
    not matter.
    """
    rows = _count(len(x), rows) if x.ndim else 1
    if x.is_contiguous():
        return x.view(rows, -1)
    if _dense(x) and x.stride(0) == x.numel() // x.shape[0]:
        x = x.as_strided((x.numel(),), (1,))
    return x.reshape(rows, -1)


def _over_channels(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    if axis == -1:
        rows = x.reshape(-1, x.shape[-1])
        return rows.amin(0), rows.amax(0)
    if x.is_contiguous() and x.shape[2:].numel() >= MIN_LONG:
        pixels = x.flatten(2)
        return pixels.amin(2).amin(0), pixels.amax(2).amax(0)
    # Over rows first: this way reads memory in order and vectorises however little is inside.
    lows, highs = (x[0], x[0]) if len(x) == 1 else (x.amin(0), x.amax(0))
    return lows.flatten(1).amin(1), highs.flatten(1).amax(1)


def _of_heads(known: _Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Extremes of each head of `x` (B, heads, L, D), from those of the features it is a view of,
    if they are there.
    """
    _, heads, _, width = x.shape
    whole = known.extremes.get((-1, x.shape[0], x.shape[2], heads * width))
    if whole is not None and x.stride(1) == width and x.stride(3) == 1:
        return whole[0].view(heads, width).amin(1), whole[1].view(heads, width).amax(1)
    return _over_channels(x, 1)


def _together(combine, parts: list[Tensor]) -> Tensor:
    result = parts[0]
    for part in parts[1:]:
        result = combine(result, part)
    return result
