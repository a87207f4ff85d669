"""Weights as they are stored: codes, and the tables that say what the codes stand for.

A new form is a new class here: a frozen dataclass whose fields are tensors, plain values or other
forms, so that all of them are counted and kept in files alike."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ..errors import DmqError
from ..numerics.affine import dequantize
from ..numerics.codebook import look_up
from ..numerics.power_of_two import apply_shifts


@dataclass(frozen=True, kw_only=True)
class WeightCodes(ABC):
    """A weight of `shape` in codes of `bits` each, with what is needed to read them."""

    bits: int
    shape: tuple[int, ...]

    def to(self, device: torch.device) -> Self:
        """The same with all tensors on `device`."""
        parts = ((f.name, getattr(self, f.name)) for f in fields(self))
        moved: dict[str, Any] = {
            name: x.to(device) for name, x in parts if isinstance(x, (Tensor, WeightCodes))
        }
        return replace(self, **moved)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return next(
            x.device
            for f in fields(self)
            if isinstance(x := getattr(self, f.name), (Tensor, WeightCodes))
        )

    def __deepcopy__(self, memo: dict) -> "WeightCodes":
        return self  # frozen, and its tensors are never written into: what is borrowed shares them

    @abstractmethod
    def dequantize(self) -> Tensor:
        """The weight that is stored, float32, in its own shape."""

    @property
    @abstractmethod
    def overhead(self) -> int:
        """Bytes beside the codes."""

    @property
    def bytes(self) -> int:
        """Codes packed without gaps over the whole tensor, and the overhead."""
        return packed(math.prod(self.shape), self.bits) + self.overhead


def packed(count: int, bits: int) -> int:
    """The bytes of `count` codes without gaps."""
    return -(-count * bits // 8)


# --- forms ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class QuantizedWeight(WeightCodes):
    """A weight on uniform grids. Runs of `size` neighbours in a row share scale and zero point."""

    codes: Tensor  # [rows, n] uint8, or int32 above 8 bits
    scale: Tensor  # [rows, runs] float32; [1, 2] for a split weight with one scale a side
    zero: Tensor  # like scale, int32; float32 where it is no whole number
    size: int  # neighbours that share a scale
    symmetric: bool
    split: int = 0  # columns of the first side; 0 if the weight is not split
    table: int = 32  # bits that a scale is stored in
    wide: bool = False  # zero points take as many, instead of the whole bytes that hold a code

    def dequantize(self) -> Tensor:
        return dequantize(self.codes.float(), *self.spread()).reshape(self.shape)

    def spread(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point as they broadcast against `codes`, both float32."""
        length = self.codes.shape[1]
        scale, zero = (
            _spread(x, self.size, length, self.split) for x in (self.scale, self.zero.float())
        )
        return scale, zero

    @property
    def overhead(self) -> int:
        """Scales, and zero points unless symmetric."""
        return self.scale.numel() * run_bytes(self.bits, self.symmetric, self.table, self.wide)


def run_bytes(bits: int, symmetric: bool = False, table: int = 32, wide: bool = False) -> int:
    """The bytes of a scale and its zero point; see the fields of `QuantizedWeight`.

    >>> run_bytes(4), run_bytes(10, symmetric=True), run_bytes(3, table=16, wide=True)
    (5, 4, 4)
    """
    zero = table // 8 if wide else packed(1, bits)
    return table // 8 + (0 if symmetric else zero)


@dataclass(frozen=True, kw_only=True)
class CodebookWeight(WeightCodes):
    """A weight whose codes look up one of 2**bits centroids, in a codebook for each row."""

    codes: Tensor  # [rows, n] uint8; one row if the whole tensor shares a codebook
    centroids: Tensor  # [rows, 2**bits] float32, rising
    table: int  # bits that a centroid is stored in

    def dequantize(self) -> Tensor:
        return look_up(self.codes, self.centroids).reshape(self.shape)

    @property
    def overhead(self) -> int:
        """The codebooks."""
        return self.centroids.numel() * self.table // 8


@dataclass(frozen=True, kw_only=True)
class ShiftWeight(WeightCodes):
    """A weight of zeros and powers of two, see `numerics.power_of_two`."""

    codes: Tensor  # [rows, n] uint8, or int32 above 8 bits
    scale: Tensor  # [rows, 1] float32
    table: int  # bits that a scale is stored in

    def dequantize(self) -> Tensor:
        return apply_shifts(self.codes, self.scale, self.bits).reshape(self.shape)

    @property
    def overhead(self) -> int:
        """The scales."""
        return self.scale.numel() * self.table // 8


@dataclass(frozen=True, kw_only=True)
class LowRankWeight(WeightCodes):
    """A weight as two thin factors and a rest on a grid, made of the weight for smoothed inputs.

    A layer computes linear(x / smoothing, left @ right + rest). With quantized activations only the
    rest sees them: linear(x / smoothing, left @ right) + linear(Q(x / smoothing), rest)."""

    left: Tensor  # [O, rank] float16
    right: Tensor  # [rank, n] float16
    rest: QuantizedWeight
    smoothing: Tensor | None = None  # [I] float16 or float32: what each input channel is divided by

    def dequantize(self) -> Tensor:
        """The weight for inputs that are not smoothed."""
        weight = self.low_rank_weight() + self.rest_weight()
        return weight if self.smoothing is None else weight / by_input(self.smoothing, weight)

    def low_rank_weight(self) -> Tensor:
        """The product of the factors, for smoothed inputs; float32, in the weight's shape."""
        return (self.left.float() @ self.right.float()).reshape(self.shape)

    def rest_weight(self) -> Tensor:
        """What the codes stand for, for smoothed inputs; float32, in the weight's shape."""
        return self.rest.dequantize()

    @property
    def overhead(self) -> int:
        """The factors, what the rest has beside its codes, and the smoothing."""
        smoothing = 0 if self.smoothing is None else self.smoothing.nbytes
        return self.left.nbytes + self.right.nbytes + self.rest.overhead + smoothing


def by_input(values: Tensor, weight: Tensor) -> Tensor:
    """`values` [I], one for each input channel, as float32 that broadcasts against `weight` [O,
    I, ...].
    """
    return values.float().view(1, -1, *[1] * (weight.ndim - 2))


@dataclass(frozen=True, kw_only=True)
class SplitWeight(WeightCodes):
    """A weight whose first input channels and whose others are stored each by themselves."""

    first: WeightCodes
    second: WeightCodes

    def dequantize(self) -> Tensor:
        return torch.cat([self.first.dequantize(), self.second.dequantize()], 1)

    @property
    def overhead(self) -> int:
        return self.first.overhead + self.second.overhead


def _spread(x: Tensor, size: int, length: int, split: int = 0) -> Tensor:
    """[rows, runs] to [rows, length], or to [rows, 1] where a row is one run."""
    if split:
        runs = -(-split // size)
        first, second = x[:, :runs], x[:, runs:]
        return torch.cat([_fill(first, size, split), _fill(second, size, length - split)], 1)
    return x if x.shape[1] == 1 else _fill(x, size, length)


def _fill(x: Tensor, size: int, length: int) -> Tensor:
    return x.repeat_interleave(size, 1)[:, :length]


# --- files ----------------------------------------------------------------------------------------


KINDS = {
    kind.__name__: kind
    for kind in (QuantizedWeight, CodebookWeight, ShiftWeight, LowRankWeight, SplitWeight)
}


def code_arrays(codes: Mapping[str, WeightCodes]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`codes` by layer as numpy arrays, named "part/layer", and plain data, for a file."""
    arrays: dict[str, np.ndarray] = {}
    plain: dict[str, Any] = {}
    for name, code in codes.items():
        parts, plain[name] = to_arrays(code)
        arrays |= {f"{part}/{name}": x for part, x in parts.items()}
    return arrays, plain


def codes_from(
    arrays: Mapping[str, np.ndarray], plain: Mapping[str, Any]
) -> dict[str, WeightCodes]:
    """The inverse of `code_arrays`, bit for bit.

    DmqError for a form that this dmq does not know.
    """
    parts: dict[str, dict[str, np.ndarray]] = {name: {} for name in plain}
    for key, x in arrays.items():
        part, _, name = key.partition("/")
        if name in parts:
            parts[name][part] = x
    return {name: from_arrays(parts[name], own) for name, own in plain.items()}


def to_arrays(codes: WeightCodes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`codes` as numpy arrays and plain data; parts of a part are called "part.inner"."""
    arrays: dict[str, np.ndarray] = {}
    plain: dict[str, Any] = {} if type(codes) is QuantizedWeight else {"kind": type(codes).__name__}
    for f in fields(codes):
        value = getattr(codes, f.name)
        if isinstance(value, Tensor):
            arrays[f.name] = value.cpu().numpy()
        elif isinstance(value, WeightCodes):
            inner, plain[f.name] = to_arrays(value)
            arrays |= {f"{f.name}.{part}": x for part, x in inner.items()}
        elif f.default is MISSING or value != f.default:
            plain[f.name] = value
    return arrays, plain


def from_arrays(arrays: Mapping[str, np.ndarray], plain: Mapping[str, Any]) -> WeightCodes:
    """The inverse of `to_arrays`; files from before there were other forms name none: theirs are
    grids.
    """
    kind = plain.get("kind", QuantizedWeight.__name__)
    if kind not in KINDS:
        raise DmqError(
            f"codes of the form {kind!r:.40} were kept by a newer dmq. Update dmq, or learn them "
            "again."
        )
    values: dict[str, Any] = {
        part: torch.from_numpy(x) for part, x in arrays.items() if "." not in part
    }
    for name, value in plain.items():
        if isinstance(value, Mapping):
            start = f"{name}."
            inner = {
                part.removeprefix(start): x for part, x in arrays.items() if part.startswith(start)
            }
            values[name] = from_arrays(inner, value)
        elif name != "kind":
            values[name] = tuple(value) if name == "shape" else value
    return KINDS[kind](**values)
