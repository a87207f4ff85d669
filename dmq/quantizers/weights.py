"""A weight as codes and scales, and the bytes that it takes.

A weight is read as rows, one for each output channel, and every row in runs that share a scale:

    per tensor     [1, O*I]        one run
    per channel    [O, I*kh*kw]    a run is a row
    per group      [O, I*kh*kw]    runs of `size`; the last one of a row is shorter where `size` does not divide
    split          [O, I*kh*kw]    the columns of the first input channels as above, then those of the others: each of
                                   the two sides as if it were a weight by itself
"""

import math
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from ..numerics.affine import dequantize, grid, quantize
from ..numerics.ranges import find_range
from ..recipe import FLOAT, PerChannel, PerGroup, PerTensor, Weights


@dataclass(frozen=True, kw_only=True)
class QuantizedWeight:
    """The codes of a weight with what is needed to read them."""

    codes: Tensor  # [rows, n] uint8, or int32 above 8 bits
    scale: Tensor  # [rows, runs] float32; [1, 2] for a split weight with one scale a side
    zero: Tensor  # like scale, int32
    size: int  # neighbours that share a scale
    bits: int
    symmetric: bool
    shape: tuple[int, ...]  # of the weight
    split: int = 0  # columns of the first side; 0 if the weight is not split

    def dequantize(self) -> Tensor:
        """The weight that the codes stand for, float32, in its own shape."""
        return dequantize(self.codes.float(), *self.spread()).reshape(self.shape)

    def spread(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point as they broadcast against `codes`, both float32."""
        length = self.codes.shape[1]
        scale, zero = (_spread(x, self.size, length, self.split) for x in (self.scale, self.zero.float()))
        return scale, zero

    @property
    def bytes(self) -> int:
        """Codes packed without gaps over the whole tensor, 4 bytes a scale, and zero points unless symmetric."""
        return _bytes(self.codes.numel(), self.scale.numel(), self.bits, self.symmetric)


def quantize_weight(weight: Tensor, spec: Weights, split: int = 0) -> QuantizedWeight:
    """`weight` in the format of `spec`, whose bits are fewer than 32; output channels come first, then input channels.

    The first `split` input channels, if any, and the others are quantized each by themselves (Q-Diffusion).
    """
    if split:
        return _joined(weight, quantize_weight(weight[:, :split], spec), quantize_weight(weight[:, split:], spec))
    rows, size = _layout(spec.granularity, tuple(weight.shape))
    x = weight.detach().float().reshape(rows, -1)
    scale, zero = grid(*_ranges(x, size, spec), spec.bits, spec.symmetric)
    codes = quantize(x, _spread(scale, size, x.shape[1]), _spread(zero, size, x.shape[1]), spec.bits)
    return QuantizedWeight(
        codes=codes.to(torch.uint8 if spec.bits <= 8 else torch.int32), scale=scale, zero=zero.to(torch.int32),
        size=size, bits=spec.bits, symmetric=spec.symmetric, shape=tuple(weight.shape),
    )


def _joined(weight: Tensor, *sides: QuantizedWeight) -> QuantizedWeight:
    codes = [side.codes.reshape(len(weight), -1) for side in sides]
    scale, zero = (torch.cat([getattr(side, part) for side in sides], 1) for part in ("scale", "zero"))
    return replace(
        sides[0], codes=torch.cat(codes, 1), scale=scale, zero=zero, size=max(side.size for side in sides),
        shape=tuple(weight.shape), split=codes[0].shape[1],
    )  # fmt: skip


def weight_bytes(shape: tuple[int, ...], spec: Weights, split: int = 0) -> int:
    """What `QuantizedWeight.bytes` will be, from the shape alone; 4 bytes an element if `spec` says float."""
    count = math.prod(shape)
    if spec.bits == FLOAT:
        return 4 * count
    sides = [(shape[0], side, *shape[2:]) for side in (split, shape[1] - split)] if split else [shape]
    return _bytes(count, sum(_scales(side, spec) for side in sides), spec.bits, spec.symmetric)


def _scales(shape: tuple[int, ...], spec: Weights) -> int:
    rows, size = _layout(spec.granularity, shape)
    return rows * -(-math.prod(shape) // rows // size)


def _bytes(count: int, scales: int, bits: int, symmetric: bool) -> int:
    return -(-count * bits // 8) + scales * (4 + (0 if symmetric else -(-bits // 8)))


@singledispatch
def _layout(granularity: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """The number of rows, and how many neighbours in a row share a scale."""
    raise TypeError(f"no layout is written for {type(granularity).__name__}")


@_layout.register
def _per_tensor(granularity: PerTensor, shape: tuple[int, ...]) -> tuple[int, int]:
    return 1, math.prod(shape)


@_layout.register
def _per_channel(granularity: PerChannel, shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], math.prod(shape[1:])


@_layout.register
def _per_group(granularity: PerGroup, shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], min(granularity.size, math.prod(shape[1:]))


def _ranges(x: Tensor, size: int, spec: Weights) -> tuple[Tensor, Tensor]:
    """Low and high [rows, runs]: whole runs together, the shorter last ones together."""
    rows, cut = len(x), x.shape[1] // size * size
    parts = [x[:, :cut].reshape(-1, size), *([x[:, cut:]] if cut < x.shape[1] else [])]
    found = [find_range(spec.range, part, spec.bits, spec.symmetric) for part in parts]
    low, high = zip(*found, strict=True)
    return torch.cat([y.reshape(rows, -1) for y in low], 1), torch.cat([y.reshape(rows, -1) for y in high], 1)


def _spread(x: Tensor, size: int, length: int, split: int = 0) -> Tensor:
    """[rows, runs] to [rows, length], or to [rows, 1] where a row is one run."""
    if split:
        runs = -(-split // size)
        first, second = x[:, :runs], x[:, runs:]
        return torch.cat([_filled(first, size, split), _filled(second, size, length - split)], 1)
    return x if x.shape[1] == 1 else _filled(x, size, length)


def _filled(x: Tensor, size: int, length: int) -> Tensor:
    return x.repeat_interleave(size, 1)[:, :length]
