"""Second moments of what layers are given: all that GPTQ, and much that smoothing, must know of the
inputs.

A weight is read as rows of I columns, one for each output channel. Its input is read as tokens of I
numbers each: a linear layer's as it is, a convolution's as the patch under its kernel, in the order
in which the weight is flattened. Then the squared error that an error E of the weight makes in the
output, mean over the tokens, is

    mean |E x|^2 = tr(E H E^T),    H = mean x x^T  [I, I]

Tokens are generated evenly from recorded denoiser calls of the float model; with guidance both halves
count alike."""

import math
import zlib
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import DmqError
from ..numerics.devices import chunk_size, double
from ..numerics.threads import few_threads
from ..results import Site, Trajectory
from .replay import images_in, repeat, rows_of
from .watching import watch_modules


BOUND = 10**9  # bytes of moments that are held at a time
# of the widest matrix; wider weights are cut, and what the pieces have in common is left out
COLUMNS = 4608
TOKENS, A_COLUMN = 8192, 4  # tokens looked at: so many, or more where there are many columns
MAX_TOKENS = 16  # tokens of a call whose values are kept
CHUNK = 2**23  # numbers of the tokens that are multiplied at a time: 32 MB


@dataclass(frozen=True)
class Moments:
    """What is known of the inputs of one layer."""

    parts: tuple[
        Tensor, ...
    ]  # float32 [groups of the convolution, n, n] each; their columns lie one behind the other
    # float32 [some, C]: the smallest value of each channel in what would share a range at run time
    low: Tensor
    high: Tensor
    tokens: int

    @property
    def widths(self) -> tuple[int, ...]:
        """Columns of each part."""
        return tuple(part.shape[-1] for part in self.parts)


def output_error(error: Tensor, moments: Moments) -> float:
    """tr(E H E^T): the squared error of a layer's output, mean over tokens, for an error [O, I]
    of its weight.
    """
    groups = len(moments.parts[0])
    pieces = error.reshape(groups, -1, error.shape[1]).split(moments.widths, dim=2)
    parts = zip(pieces, moments.parts, strict=True)
    return sum(double((e @ h) * e).sum().item() for e, h in parts)


def spread_calls(
    trajectory: Trajectory, steps: int, images: int, at_once: int
) -> list[tuple[int, np.ndarray]]:
    """(call, its rows) of `steps` steps spread evenly, or all: at each, `at_once` of the first
    `images` in turn.

    Many steps with few images tell more than the reverse: layers of the time embedding see nothing but
    the step."""
    every = len(trajectory.timesteps)
    chosen = np.unique(np.linspace(0, every - 1, min(steps, every)).round().astype(int)).tolist()
    turn = {i: {(k * at_once + p) % images for p in range(at_once)} for k, i in enumerate(chosen)}
    before: Counter[int] = Counter()
    found = []
    for n, i in enumerate(trajectory.step.tolist()):
        rows = rows_of(trajectory, n, [p - before[i] for p in turn.get(i, ())])
        before[i] += images_in(trajectory, n)
        found += [(n, rows)] if len(rows) else []
    return found


def in_turns(model: nn.Module, layers: Iterable[str], bound: int = BOUND) -> list[list[str]]:
    """`layers` in groups whose moments take at most `bound` bytes together; one that takes more
    is by itself.
    """
    turns: list[list[str]] = []
    held = 0
    for name in layers:
        layer = model.get_submodule(name)
        size = 4 * _groups(layer) * sum(width**2 for width in _widths(layer))
        if not turns or held + size > bound:
            turns.append([])
            held = 0
        turns[-1].append(name)
        held += size
    return turns


def second_moments(
    model: nn.Module,
    trajectory: Trajectory,
    calls: Sequence[tuple[int, np.ndarray]],
    layers: Sequence[str],
    *,
    share: str = "token",
) -> Generator[tuple[int, int], None, dict[str, Moments]]:
    """Yield (calls done, calls in all) while `model` repeats them; return the moments of the
    `layers` it called.

    `share` says what has a range of its own when activations are quantized dynamically, see
    `Activations.dynamic`. The model is left as it was. Raises DmqError for inputs that are not
    finite."""
    sums = {name: _Sum(model.get_submodule(name), name, len(calls), share) for name in layers}
    sites = [Site(name=name, point="input") for name in layers]
    for done, (n, rows) in enumerate(calls):
        small = few_threads(model.parameters())
        with (
            small,
            torch.no_grad(),
            watch_modules(model, sites, lambda site, x: sums[site.name].add(x)),
        ):
            repeat(model, trajectory, n, rows)
        yield done + 1, len(calls)
    return {name: made.finished() for name, made in sums.items() if made.tokens}


class _Sum:
    """The running sum of one layer."""

    def __init__(self, layer: nn.Module, name: str, calls: int, share: str) -> None:
        self.layer, self.name, self.share, self.tokens = layer, name, share, 0
        self.conv = not isinstance(layer, nn.Linear)
        self.weight = layer.get_parameter("weight")
        self.columns = self.weight[0].numel()
        self.each = math.ceil(max(TOKENS, A_COLUMN * self.columns) / calls)
        self.random = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        self.ends = np.cumsum([0, *_widths(layer)]).tolist()
        groups, device = _groups(layer), self.weight.device
        self.parts = [
            torch.zeros(groups, b - a, b - a, device=device) for a, b in pairwise(self.ends)
        ]
        self.low: list[Tensor] = []
        self.high: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        """Count some tokens of an input `x` of the layer."""
        x = x.float()
        if self.conv and x.ndim < self.weight.ndim:
            x = x[None]  # a convolution takes an image without a batch, too
        source = _Patches(self.layer, x) if self.conv else _Rows(x)
        which = torch.randperm(len(source), generator=self.random)[: self.each]
        self._show(x, which)
        size = chunk_size(x.device, CHUNK)
        for some in which.sort().values.split(max(1, size // (self.columns * _groups(self.layer)))):
            tokens = source[some.to(x.device)]  # [groups, tokens, columns]
            for matrix, a, b in zip(self.parts, self.ends, self.ends[1:], strict=False):
                part = tokens[:, :, a:b]
                matrix.baddbmm_(part.mT, part)
        self.tokens += len(which)

    def _show(self, x: Tensor, which: Tensor) -> None:
        if self.conv and self.weight.shape[2:] == (1, 1) and self.share == "call":
            ends = (end.flatten(1).mT for end in (x.amin(0), x.amax(0)))  # of each pixel
            low, high = (end[which[:MAX_TOKENS].to(x.device) % len(end)] for end in ends)
        elif self.conv:
            low, high = x.flatten(2).aminmax(dim=2)
            if self.share == "call":
                low, high = low.amin(0, keepdim=True), high.amax(0, keepdim=True)
        elif self.share == "sample" and x.ndim > 1:
            low, high = x.reshape(len(x), -1, x.shape[-1]).aminmax(dim=1)
        else:
            low = high = x.reshape(-1, x.shape[-1])[which[:MAX_TOKENS].to(x.device)]
        self.low.append(low.clone())
        self.high.append(high.clone())

    def finished(self) -> Moments:
        parts = tuple(part.div_(self.tokens) for part in self.parts)
        if not all(part.isfinite().all() for part in parts):
            raise DmqError(
                f"{self.name}: its inputs in the float model are not finite; check the model's "
                "weights."
            )
        return Moments(parts, torch.cat(self.low), torch.cat(self.high), self.tokens)


class _Rows:
    """The tokens of a linear layer's input: its last axis."""

    def __init__(self, x: Tensor) -> None:
        self.x = x.reshape(-1, x.shape[-1])

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, which: Tensor) -> Tensor:
        return self.x[which][None]


class _Patches:
    """The tokens of a convolution's input, one for each place of its output; any dimension,
    stride and padding.
    """

    def __init__(self, layer: Any, x: Tensor) -> None:
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
        self.groups, self.x = layer.groups, x.flatten(2)
        # Where a place of the output begins to read, and how far from there each element of the
        # kernel lies.
        self.start = torch.zeros(1, dtype=torch.int64, device=x.device)
        self.kernel = self.start
        dimensions = zip(x.shape[2:], layer.kernel_size, layer.stride, layer.dilation, strict=True)
        for length, size, stride, dilation in dimensions:
            places = (length - dilation * (size - 1) - 1) // stride + 1
            self.start = _join_moments(
                self.start * length, torch.arange(places, device=x.device) * stride
            )
            self.kernel = _join_moments(
                self.kernel * length, torch.arange(size, device=x.device) * dilation
            )

    def __len__(self) -> int:
        return len(self.x) * len(self.start)

    def __getitem__(self, which: Tensor) -> Tensor:
        row, place = which // len(self.start), which % len(self.start)
        patches = self.x[
            row[:, None], :, self.start[place][:, None] + self.kernel
        ]  # [tokens, kernel, channels]
        return (
            patches.reshape(len(which), len(self.kernel), self.groups, -1)
            .permute(2, 0, 3, 1)
            .flatten(2)
        )


def _join_moments(outer: Tensor, inner: Tensor) -> Tensor:
    return (outer[:, None] + inner).flatten()


def _groups(layer: nn.Module) -> int:
    return getattr(layer, "groups", 1)


def _widths(layer: nn.Module) -> list[int]:
    """How the columns of the layer's weight are cut: not at all up to COLUMNS, else between
    input channels.
    """
    weight = layer.get_parameter("weight")
    columns, kernel = weight[0].numel(), weight[0, 0].numel()
    pieces = math.ceil(columns / COLUMNS)
    return [len(part) * kernel for part in np.array_split(np.arange(columns // kernel), pieces)]
