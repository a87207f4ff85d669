"""Half-quadratic quantization (HQQ, 2023): zero points that serve the many small values of a row.

Needs no data.
"""

import torch
from torch import Tensor

from .affine import dequantize, fake_quantize
from .devices import chunk_size
from .ranges import round_grid
from .tables import round_scale, round_table


NORM = 0.7  # the exponent of the error that zero points are made for
BETA, GROWTH = 10.0, 1.01  # of the penalty, at the start and from step to step
FAR = 2.0**15  # zero points are smaller than this, so that half precision holds them


def half_quadratic(
    rows: Tensor, bits: int, iterations: int, table: int = 32
) -> tuple[Tensor, Tensor]:
    """Scale and zero point of a grid for each row; the zero point is no whole number.

    Scales come from smallest and largest values, zero points are moved by a proximal step for |x -
    x_hat|**0.7, at most `iterations` times. In each row mean |x - x_hat| is the least of all steps,
    of which the plain grids from smallest to largest value are two: with and without 0.0 as one of
    their values. Both numbers are rounded to `table` bits before they are compared. Shapes: `rows`
    [R, n] to two tensors [R]. Source: neighbours, "HQQ"."""
    blocks = rows.split(max(1, chunk_size(rows.device) // rows.shape[1]))
    scale, zero = zip(
        *(_half_quadratic(block, bits, iterations, table) for block in blocks), strict=True
    )
    return torch.cat(scale), torch.cat(zero)


def shifted_codes(x: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """`affine.quantize` for a zero point between whole numbers: rounded once it is added.

    >>> shifted_codes(torch.tensor([0.3, 0.5]), torch.tensor(1.0), torch.tensor(0.4), 2).tolist()
    [1.0, 1.0]
    """
    return (x / scale + zero).round_().clamp_(0, 2**bits - 1)


def _half_quadratic(rows: Tensor, bits: int, iterations: int, table: int) -> tuple[Tensor, Tensor]:
    low, high = (end[:, None] for end in rows.aminmax(dim=1))
    scale, zero = round_grid(low, high, bits, table)
    best = _mean_error(rows, scale, zero, bits)
    own = round_scale((high - low) / (2**bits - 1), table)
    own = own.where(
        low.abs() < FAR * own, scale
    )  # all values nearly the same: zero would be out of reach
    moved, beta = round_table(-low / own, table), BETA
    for _ in range(iterations + 1):
        codes = shifted_codes(rows, own, moved, bits)
        away = rows - dequantize(codes, own, moved)
        error = away.abs().mean(1, keepdim=True)
        better = error < best
        best, scale, zero = (
            error.where(better, best),
            own.where(better, scale),
            moved.where(better, zero),
        )
        shrunk = away.sign() * (away.abs() - away.abs().pow(NORM - 1) / beta).relu()
        moved = round_table((codes - (rows - shrunk) / own).mean(1, keepdim=True), table)
        beta *= GROWTH
    return scale[:, 0], zero[:, 0]


def _mean_error(rows: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    return (fake_quantize(rows, scale, zero, bits) - rows).abs_().mean(1, keepdim=True)
