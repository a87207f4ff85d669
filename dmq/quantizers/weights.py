"""From a weight to its codes, and the bytes that they take: one way for each spec of
`recipe.Format`.

A weight is read as rows, one for each output channel, and on a grid every row in runs that share a
scale:

    per tensor     [1, O*I]        one run
    per channel    [O, I*kh*kw]    a run is a row
    per group      [O, I*kh*kw]    runs of `size`; the last one of a row is shorter where `size` does not divide
    split          [O, I*kh*kw]    the columns of the first input channels as above, then those of the others: each of
                                   the two sides as if it were a weight by itself

Granularity, symmetry and range of a `Weights` are those of the format Uniform; the others say by
themselves how they are laid out, and are asymmetric."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from ..errors import DmqError
from ..numerics.affine import grid, quantize
from ..numerics.codebook import kmeans, nearest
from ..numerics.hqq import half_quadratic, shifted_codes
from ..numerics.low_rank import separate
from ..numerics.power_of_two import power_of_two_scale, shift_codes
from ..numerics.ranges import find_range, power_search, round_grid
from ..numerics.tables import round_scale, round_table
from ..recipe import (
    FLOAT,
    Gptq,
    Hqq,
    KMeans,
    LowRank,
    PerChannel,
    PerGroup,
    PerTensor,
    PowerOfTwo,
    Uaq,
    Uniform,
    Weights,
    format_name,
)
from .codes import (
    CodebookWeight,
    LowRankWeight,
    QuantizedWeight,
    ShiftWeight,
    SplitWeight,
    WeightCodes,
    by_input,
    packed,
    run_bytes,
)


def quantize_weight(weight: Tensor, spec: Weights, split: int = 0) -> WeightCodes:
    """`weight` in the format of `spec`, whose bits are fewer than 32; output channels come first,
    then input channels.

    The first `split` input channels, if any, and the others are quantized each by themselves
    (Q-Diffusion). What a format learns from inputs is not learned here: on GPTQ's grid each weight
    takes its nearest code, and inputs of a low-rank weight are not smoothed (see `low_rank_codes`).
    Raises DmqError for a weight that is not finite."""
    if not weight.isfinite().all():
        what = "NaN" if weight.isnan().any() else "infinite values"
        raise DmqError(
            f"the weight has {what}, which {format_name(spec)} cannot hold. Is the checkpoint "
            "sound?"
        )
    if isinstance(spec.format, LowRank):
        return low_rank_codes(weight, spec, split=split)
    if not split:
        return _codes(spec.format, weight.detach(), spec)
    sides = [quantize_weight(side, spec) for side in (weight[:, :split], weight[:, split:])]
    grids = [side for side in sides if isinstance(side, QuantizedWeight)]
    if len(grids) == 2:
        return _join_sides(weight, *grids)
    return SplitWeight(bits=spec.bits, shape=tuple(weight.shape), first=sides[0], second=sides[1])


def weight_bytes(shape: tuple[int, ...], spec: Weights, split: int = 0) -> int:
    """What `WeightCodes.bytes` will be, from the shape alone; 4 bytes an element if `spec` says
    float.
    """
    count = math.prod(shape)
    if spec.bits == FLOAT:
        return 4 * count
    sides = (
        [(shape[0], side, *shape[2:]) for side in (split, shape[1] - split)] if split else [shape]
    )
    shared = _factor_bytes(spec.format, shape) if isinstance(spec.format, LowRank) else 0
    return (
        packed(count, spec.bits)
        + shared
        + sum(_overhead(spec.format, side, spec) for side in sides)
    )


def weight_grid(weight: Tensor, spec: Weights) -> tuple[Tensor, Tensor, int]:
    """Scale and zero point [rows, runs] float32 of a weight in the format Gptq, and how many
    neighbours share them.

    One grid for each output channel is searched as for Uaq, that of a group reaches from its least
    to its greatest value. Scales are such as `format.table` bits hold."""
    form = spec.format
    assert isinstance(form, Gptq)
    rows = _rows(weight)
    size = min(form.group, rows.shape[1]) or rows.shape[1]

    def find(runs: Tensor) -> tuple[Tensor, Tensor]:
        if form.group:
            return round_grid(*runs.aminmax(dim=1), spec.bits, form.table)
        return power_search(runs, spec.bits, table=form.table)

    return *_by_runs(rows, size, find), size


@singledispatch
def _codes(form: Any, weight: Tensor, spec: Weights) -> WeightCodes:
    raise TypeError(f"no codes are written for {type(form).__name__}")


@singledispatch
def _overhead(form: Any, shape: tuple[int, ...], spec: Weights) -> int:
    """Bytes beside the codes."""
    raise TypeError(f"no bytes are counted for {type(form).__name__}")


# --- grids ----------------------------------------------------------------------------------------


@_codes.register
def _(form: Uniform, weight: Tensor, spec: Weights) -> QuantizedWeight:
    rows, size = _layout(spec.granularity, tuple(weight.shape))
    x = weight.float().reshape(rows, -1)
    ends = _by_runs(x, size, lambda runs: find_range(spec.range, runs, spec.bits, spec.symmetric))
    return replace(
        _on_grid(weight, x, *grid(*ends, spec.bits, spec.symmetric), size, spec),
        symmetric=spec.symmetric,
    )


@_overhead.register
def _(form: Uniform, shape: tuple[int, ...], spec: Weights) -> int:
    rows, size = _layout(spec.granularity, shape)
    return rows * _runs(shape, rows, size) * run_bytes(spec.bits, spec.symmetric)


@_codes.register
def _(form: Uaq, weight: Tensor, spec: Weights) -> QuantizedWeight:
    x = _rows(weight)
    scale, zero = power_search(
        x, spec.bits, power=form.power, candidates=form.candidates, table=form.table
    )
    made = _on_grid(weight, x, scale[:, None], zero[:, None], x.shape[1], spec)
    return replace(made, table=form.table, wide=True)


@_overhead.register
def _(form: Uaq, shape: tuple[int, ...], spec: Weights) -> int:
    return shape[0] * run_bytes(spec.bits, table=form.table, wide=True)


@_codes.register
def _(form: Hqq, weight: Tensor, spec: Weights) -> QuantizedWeight:
    x = _rows(weight)
    size = min(form.group, x.shape[1])
    found = _by_runs(
        x, size, lambda runs: half_quadratic(runs, spec.bits, form.iterations, form.table)
    )
    made = replace(
        _on_grid(weight, x, *found, size, spec), zero=found[1], table=form.table, wide=True
    )
    return replace(made, codes=_whole(shifted_codes(x, *made.spread(), spec.bits), spec.bits))


@_overhead.register
def _(form: Hqq, shape: tuple[int, ...], spec: Weights) -> int:
    return (
        shape[0]
        * _runs(shape, shape[0], form.group)
        * run_bytes(spec.bits, table=form.table, wide=True)
    )


@_codes.register
def _(form: Gptq, weight: Tensor, spec: Weights) -> QuantizedWeight:
    scale, zero, size = weight_grid(weight, spec)
    return replace(_on_grid(weight, _rows(weight), scale, zero, size, spec), table=form.table)


@_overhead.register
def _(form: Gptq, shape: tuple[int, ...], spec: Weights) -> int:
    runs = _runs(shape, shape[0], form.group) if form.group else 1
    return shape[0] * runs * run_bytes(spec.bits, table=form.table)


def _rows(weight: Tensor) -> Tensor:
    return weight.detach().float().reshape(len(weight), -1)


def _runs(shape: tuple[int, ...], rows: int, size: int) -> int:
    """How many runs a row has."""
    return -(-math.prod(shape) // rows // size)


def _on_grid(
    weight: Tensor, x: Tensor, scale: Tensor, zero: Tensor, size: int, spec: Weights
) -> QuantizedWeight:
    """The nearest codes of the rows `x` of `weight`; `scale` and `zero` are [rows, runs]."""
    made = QuantizedWeight(
        codes=x,
        scale=scale,
        zero=zero,
        size=size,
        bits=spec.bits,
        symmetric=False,
        shape=tuple(weight.shape),
    )
    codes = quantize(x, *made.spread(), spec.bits)
    return replace(made, codes=_whole(codes, spec.bits), zero=zero.to(torch.int32))


def _whole(codes: Tensor, bits: int) -> Tensor:
    return codes.to(torch.uint8 if bits <= 8 else torch.int32)


def _join_sides(weight: Tensor, *sides: QuantizedWeight) -> QuantizedWeight:
    codes = [side.codes.reshape(len(weight), -1) for side in sides]
    scale, zero = (
        torch.cat([getattr(side, part) for side in sides], 1) for part in ("scale", "zero")
    )
    return replace(
        sides[0],
        codes=torch.cat(codes, 1),
        scale=scale,
        zero=zero,
        size=max(side.size for side in sides),
        shape=tuple(weight.shape),
        split=codes[0].shape[1],
    )


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


def _by_runs(
    x: Tensor, size: int, find: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """What `find` gives for runs as rows, as [rows, runs]: whole runs together, the shorter last
    ones together.
    """
    rows, cut = len(x), x.shape[1] // size * size
    parts = [x[:, :cut].reshape(-1, size), *([x[:, cut:]] if cut < x.shape[1] else [])]
    first, second = zip(*map(find, parts), strict=True)
    return torch.cat([y.reshape(rows, -1) for y in first], 1), torch.cat(
        [y.reshape(rows, -1) for y in second], 1
    )


# --- codebooks ------------------------------------------------------------------------------------


@_codes.register
def _(form: KMeans, weight: Tensor, spec: Weights) -> CodebookWeight:
    x = _rows(weight) if form.shared == "channel" else weight.float().reshape(1, -1)
    codes, centroids = kmeans(x, 2**spec.bits, form.iterations)
    if form.table < FLOAT:
        centroids = round_table(centroids, form.table)
        codes = nearest(x, centroids)
    return CodebookWeight(
        codes=codes,
        centroids=centroids,
        table=form.table,
        bits=spec.bits,
        shape=tuple(weight.shape),
    )


@_overhead.register
def _(form: KMeans, shape: tuple[int, ...], spec: Weights) -> int:
    return (shape[0] if form.shared == "channel" else 1) * 2**spec.bits * form.table // 8


# --- powers of two --------------------------------------------------------------------------------


@_codes.register
def _(form: PowerOfTwo, weight: Tensor, spec: Weights) -> ShiftWeight:
    x = _rows(weight)
    scale = power_of_two_scale(x, spec.bits, form.table)[:, None]
    codes = _whole(shift_codes(x, scale, spec.bits), spec.bits)
    return ShiftWeight(
        codes=codes, scale=scale, table=form.table, bits=spec.bits, shape=tuple(weight.shape)
    )


@_overhead.register
def _(form: PowerOfTwo, shape: tuple[int, ...], spec: Weights) -> int:
    return shape[0] * form.table // 8


# --- factors and a rest ---------------------------------------------------------------------------


def low_rank_codes(
    weight: Tensor,
    spec: Weights,
    smoothing: Tensor | None = None,
    moment: Tensor | None = None,
    split: int = 0,
) -> LowRankWeight:
    """`weight` in the format LowRank, made for inputs that are divided by `smoothing`, one number
    for each channel.

    Of the rounds, the one whose weight errs least is taken, in squares; or, with the second moments
    of the inputs in `moment`, whose output does: the trace of E H E^T. Where the format smooths and
    no `smoothing` is given, it is 1. The sides of a weight that is `split` have grids of their own,
    and factors in common. Shapes: `smoothing` [I], all above zero; `moment` [n, n], of the inputs
    before smoothing, n = I * kh * kw."""
    form, weight = spec.format, weight.detach().float()
    assert isinstance(form, LowRank)
    if form.smooth:
        ones = weight.new_ones(weight.shape[1]) if smoothing is None else smoothing
        smoothing = round_scale(ones, form.table).to(
            torch.float16 if form.table == 16 else torch.float32
        )
    elif smoothing is not None:
        raise ValueError("smoothing is given, but the format does not smooth")
    factor = (
        torch.ones_like(weight)
        if smoothing is None
        else by_input(smoothing, weight).expand_as(weight)
    )
    smoothed, factor = _rows(weight * factor), _rows(factor)

    def rest_of(matrix: Tensor) -> QuantizedWeight:
        return _rest(matrix.view(weight.shape), spec, split)

    def _round(matrix: Tensor) -> Tensor:
        return _rows(rest_of(matrix).dequantize())

    def error(wrong: Tensor) -> Tensor:
        wrong = wrong / factor
        return ((wrong if moment is None else wrong @ moment) * wrong).sum()

    left, right = separate(smoothed, _rank(form, smoothed.shape), form.rounds, _round, error)
    return LowRankWeight(
        left=left,
        right=right,
        rest=rest_of(smoothed - left.float() @ right.float()),
        smoothing=smoothing,
        bits=spec.bits,
        shape=tuple(weight.shape),
    )


def _rest(weight: Tensor, spec: Weights, split: int) -> QuantizedWeight:
    if split:
        return _join_sides(
            weight, *(_rest(side, spec, 0) for side in (weight[:, :split], weight[:, split:]))
        )
    x, form = _rows(weight), spec.format
    assert isinstance(form, LowRank)
    size = min(form.group, x.shape[1])
    found = _by_runs(x, size, lambda runs: power_search(runs, spec.bits, table=form.table))
    return replace(_on_grid(weight, x, *found, size, spec), table=form.table)


@_overhead.register
def _(form: LowRank, shape: tuple[int, ...], spec: Weights) -> int:
    return shape[0] * _runs(shape, shape[0], form.group) * run_bytes(spec.bits, table=form.table)


def _factor_bytes(form: LowRank, shape: tuple[int, ...]) -> int:
    """Of the factors and of the smoothing."""
    columns = math.prod(shape[1:])
    return (
        2 * _rank(form, (shape[0], columns)) * (shape[0] + columns)
        + shape[1] * form.table // 8 * form.smooth
    )


def _rank(form: LowRank, shape: tuple[int, ...]) -> int:
    return min(form.rank, min(shape) // 2)
