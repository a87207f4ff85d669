"""A weight as codes and scales, and the bytes that it takes.

A weight is read as rows, one for each output channel, and every row in runs that share a scale:

    per tensor     [1, O*I]        one run
    per channel    [O, I*kh*kw]    a run is a row
    per group      [O, I*kh*kw]    runs of `size`; the last one of a row is shorter where `size` does not divide
"""

import math
from dataclasses import dataclass
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
    scale: Tensor  # [rows, runs] float32
    zero: Tensor  # [rows, runs] int32
    size: int  # neighbours that share a scale
    bits: int
    symmetric: bool
    shape: tuple[int, ...]  # of the weight

    def dequantize(self) -> Tensor:
        """The weight that the codes stand for, float32, in its own shape."""
        return dequantize(self.codes.float(), *self.spread()).reshape(self.shape)

    def spread(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point as they broadcast against `codes`, both float32."""
        scale, zero = (_spread(x, self.size, self.codes.shape[1]) for x in (self.scale, self.zero.float()))
        return scale, zero

    @property
    def bytes(self) -> int:
        """Codes packed without gaps over the whole tensor, 4 bytes a scale, and zero points unless symmetric."""
        return _bytes(self.codes.numel(), self.scale.numel(), self.bits, self.symmetric)


def quantize_weight(weight: Tensor, spec: Weights) -> QuantizedWeight:
    """`weight` in the format of `spec`, whose bits are fewer than 32; output channels come first."""
    rows, size = _layout(spec.granularity, tuple(weight.shape))
    x = weight.detach().float().reshape(rows, -1)
    scale, zero = grid(*_ranges(x, size, spec), spec.bits, spec.symmetric)
    codes = quantize(x, _spread(scale, size, x.shape[1]), _spread(zero, size, x.shape[1]), spec.bits)
    return QuantizedWeight(
        codes=codes.to(torch.uint8 if spec.bits <= 8 else torch.int32), scale=scale, zero=zero.to(torch.int32),
        size=size, bits=spec.bits, symmetric=spec.symmetric, shape=tuple(weight.shape),
    )


def weight_bytes(shape: tuple[int, ...], spec: Weights) -> int:
    """What `QuantizedWeight.bytes` will be, from the shape alone; 4 bytes an element if `spec` says float."""
    count = math.prod(shape)
    if spec.bits == FLOAT:
        return 4 * count
    rows, size = _layout(spec.granularity, shape)
    return _bytes(count, rows * -(-count // rows // size), spec.bits, spec.symmetric)


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


def _spread(x: Tensor, size: int, length: int) -> Tensor:
    """[rows, runs] to [rows, length], or to [rows, 1] where a row is one run."""
    return x if x.shape[1] == 1 else x.repeat_interleave(size, 1)[:, :length]
