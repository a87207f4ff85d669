"""Which range a grid should cover, from the values themselves: one way for each spec of
`recipe.Range`.

Values come as rows, [rows, run], and each row gets a range of its own: a tensor is one row, a
channel is a row, a group of a channel is a row. Ranges of activations are found elsewhere, from
histograms."""

import math
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from ..recipe import MinMax, MseSearch, Percentile
from .affine import fake_quantize, grid
from .devices import chunk_size
from .tables import round_scale


@singledispatch
def find_range(spec: Any, rows: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The lowest and the highest value to be covered in each row.

    Shapes: `rows` [R, n] with n > 0 to two tensors [R]. Units: those of `rows`.
    """
    raise TypeError(f"no range is written for {type(spec).__name__}")


@find_range.register
def min_max(spec: MinMax, rows: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of each row."""
    low, high = rows.aminmax(dim=1)
    return low, high


@find_range.register
def percentile(spec: Percentile, rows: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The quantiles that leave out half of `100 - percent` percent on either side, linear between
    two values.

    As `torch.quantile`, which refuses rows of more than 16 million values.
    """
    tail = (1 - spec.percent / 100) / 2
    return _quantile(rows, tail), _quantile(rows, 1 - tail)


@find_range.register
def mse_search(spec: MseSearch, rows: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The range with the smallest squared error among at most `spec.candidates`, of which the full
    range is one.

    A symmetric range shrinks as a whole. Of an asymmetric one, half of the candidates shrink both
    ends alike, and the other half then move one end while the other stays: one outlier should not
    cost both sides."""
    blocks = rows.split(max(1, chunk_size(rows.device) // rows.shape[1]))
    found = [_search(block, spec.candidates, bits, symmetric) for block in blocks]
    low, high = zip(*found, strict=True)
    return torch.cat(low), torch.cat(high)


def measure_squared_error(
    rows: Tensor, low: Tensor, high: Tensor, bits: int, symmetric: bool
) -> Tensor:
    """The sum over each row of (x - x_hat)^2 on the grid that covers low..high.

    Shapes: [R, n], [R], [R] to [R].
    """
    scale, zero = grid(low[:, None], high[:, None], bits, symmetric)
    parts = rows.split(max(1, chunk_size(rows.device) // len(rows)), dim=1)
    return sum((fake_quantize(part, scale, zero, bits) - part).square_().sum(1) for part in parts)


def power_search(
    rows: Tensor, bits: int, *, power: float = 2.4, candidates: int = 10, table: int = 32
) -> tuple[Tensor, Tensor]:
    """Scale and zero point of the asymmetric grid with the least mean |x - x_hat|**power in each
    row.

    Its range is one of `candidates`: all of the row's, and shares (1 - n / candidates) of it.
    Scales are rounded to `table` bits before they are compared. Shapes: `rows` [R, n] to two
    tensors [R], zero points being whole numbers. Source: qua2sedimo, "Search space" (UAQ)."""
    blocks = rows.split(max(1, chunk_size(rows.device) // rows.shape[1]))
    found = [_power_search(block, bits, power, candidates, table) for block in blocks]
    scale, zero = zip(*found, strict=True)
    return torch.cat(scale), torch.cat(zero)


def _power_search(
    rows: Tensor, bits: int, power: float, candidates: int, table: int
) -> tuple[Tensor, Tensor]:
    low, high = (end[:, None] for end in rows.aminmax(dim=1))
    best, scale, zero = (
        rows.new_full((len(rows), 1), torch.inf),
        torch.ones_like(low),
        torch.zeros_like(low),
    )
    for part in (1.0, *_shares(candidates)):
        tried, shift = round_grid(low * part, high * part, bits, table)
        error = (
            (fake_quantize(rows, tried, shift, bits) - rows)
            .abs_()
            .pow_(power)
            .mean(1, keepdim=True)
        )
        better = error < best
        best, scale, zero = (
            error.where(better, best),
            tried.where(better, scale),
            shift.where(better, zero),
        )
    return scale[:, 0], zero[:, 0]


def round_grid(low: Tensor, high: Tensor, bits: int, table: int) -> tuple[Tensor, Tensor]:
    """`affine.grid` of low..high, asymmetric, with a scale that `table` bits hold; all tensors
    alike in shape.
    """
    scale, zero = grid(low, high, bits, symmetric=False)
    if table == 32:
        return scale, zero
    scale = round_scale(scale, table)
    return scale, (-low.clamp(max=0) / scale).round_().clamp_(max=2**bits - 1)


def _search(rows: Tensor, candidates: int, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    full_low, full_high = (end.clone() for end in rows.aminmax(dim=1))
    full_low.clamp_(max=0), full_high.clamp_(min=0)
    low, high = full_low, full_high
    best = measure_squared_error(rows, low, high, bits, symmetric)

    def attempt(new_low: Tensor, new_high: Tensor) -> None:
        nonlocal low, high, best
        error = measure_squared_error(rows, new_low, new_high, bits, symmetric)
        better = error < best
        low, high = torch.where(better, new_low, low), torch.where(better, new_high, high)
        best = torch.where(better, error, best)

    both = candidates if symmetric else candidates // 2
    for part in _shares(both):
        attempt(full_low * part, full_high * part)
    if not symmetric:
        one = (candidates - both) // 2
        for part in _shares(one):
            attempt(full_low * part, high)
        for part in _shares(candidates - both - one):
            attempt(low, full_high * part)
    return low, high


def _shares(count: int) -> list[float]:
    """What is kept of an end, from nearly all to little; all of it is tried before."""
    return [part / count for part in range(count - 1, 0, -1)]


def _quantile(rows: Tensor, q: float) -> Tensor:
    place = q * (rows.shape[1] - 1)
    below, above = (
        rows.kthvalue(k + 1, dim=1).values for k in (math.floor(place), math.ceil(place))
    )
    return torch.lerp(below, above, place - math.floor(place))
