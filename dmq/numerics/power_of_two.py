"""Weights that are zero or plus or minus a power of two times a scale, so that a product is a
shift.

A code of b bits is a sign and a level of b - 1 bits:

    level 0    0.0
    level k    2**(1 - k) * scale, for k = 1 to 2**(b-1) - 1
    sign       the highest bit, set for negative values; with level 0 it is not used
"""

import torch
from torch import Tensor

from .devices import chunk_size
from .tables import round_scale


TRIED = 16  # scales in each of two octaves


def shift_codes(rows: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The codes int32 of the nearest values; `scale` [R, 1] is above zero, `rows` are [R, n].

    >>> shift_codes(torch.tensor([[1.0, -0.4, 0.1]]), torch.tensor([[1.0]]), 3).tolist()
    [[1, 6, 0]]
    """
    levels = 2 ** (bits - 1) - 1
    part, exponent = torch.frexp(
        rows.abs() / scale
    )  # |x| / scale = part * 2**exponent, part in [0.5, 1)
    level = (2 - exponent - (part >= 0.75).int()).clamp(1, levels)
    # Below half of the smallest value, which may be too small for float32, zero is nearer.
    level = level.where(
        (rows.abs() >= torch.ldexp(scale, torch.full_like(scale, -levels))) & (rows != 0), 0
    )
    return level + ((rows < 0) & (level > 0)) * (levels + 1)


def apply_shifts(codes: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The values that `codes` stand for, float32; shapes as for `shift_codes`."""
    half = 2 ** (bits - 1)
    level = codes.int() % half
    size = torch.ldexp(scale.expand_as(level), 1 - level).where(level > 0, 0.0)
    return size.where(codes < half, -size)


def power_of_two_scale(rows: Tensor, bits: int, table: int = 32) -> Tensor:
    """The scale [R] with the least squared error in each row of `rows` [R, n] among those that are
    tried.

    Tried are the largest value and parts of it down to a quarter, evenly in the logarithm, and a
    little above; the best of them is then fitted by least squares to the powers that were chosen.
    Rounded to `table` bits."""
    blocks = rows.split(max(1, chunk_size(rows.device) // rows.shape[1]))
    return torch.cat([_scale(block, bits, table) for block in blocks])


def _scale(rows: Tensor, bits: int, table: int) -> Tensor:
    most = rows.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    best, scale = torch.full_like(most, torch.inf), most

    def attempt(tried: Tensor) -> None:
        nonlocal best, scale
        tried = round_scale(tried, table)
        error = (
            (apply_shifts(shift_codes(rows, tried, bits), tried, bits) - rows)
            .square_()
            .sum(1, keepdim=True)
        )
        better = error < best
        best, scale = error.where(better, best), tried.where(better, scale)

    for n in range(-TRIED // 2, 2 * TRIED + 1):
        attempt(most * 2 ** (-n / TRIED))
    pattern = apply_shifts(shift_codes(rows, scale, bits), torch.ones_like(scale), bits)
    power = pattern.square().sum(1, keepdim=True)
    attempt(((rows * pattern).sum(1, keepdim=True) / power).where(power > 0, scale))
    return scale[:, 0]
