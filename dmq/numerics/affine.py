"""Uniform affine quantization as functions of tensors. Every scale here broadcasts against its
tensor.

codes = clip(round(x / scale) + zero, 0, 2**bits - 1);   x_hat = scale * (codes - zero)

Codes are whole numbers in a floating-point tensor, exact up to 16 bits: packing them is not done
here."""

from typing import Any

import torch
from torch import Tensor


SMALLEST_SCALE = 1e-8  # a constant activation has a range of width zero


def grid(low: Tensor, high: Tensor, bits: int | Tensor, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The scale and the integer zero point of the grid that covers low..high, 0.0 always being one
    of its values.

    Shapes: `low` and `high` alike; `bits` broadcasts against them. Symmetric grids have zero =
    2**(bits-1) and reach as far down as up, which leaves their lowest code unused.

    >>> scale, zero = grid(torch.tensor([-1.0]), torch.tensor([2.0]), 2, symmetric=False)
    >>> scale.tolist(), zero.tolist()
    ([1.0], [1.0])
    """
    low, high = low.clamp(max=0), high.clamp(min=0)  # zero must be exact, or padding drifts
    if symmetric:
        half = 2 ** (bits - 1)
        scale = (torch.maximum(-low, high) / (half - 1)).clamp(min=SMALLEST_SCALE)
        return scale, torch.zeros_like(scale) + half
    top = 2**bits - 1
    scale = ((high - low) / top).clamp(min=SMALLEST_SCALE)
    return scale, (-low / scale).round().clamp(max=top)


def quantize(x: Tensor, scale: Tensor, zero: Tensor | float, bits: int) -> Tensor:
    """The codes of `x`, whole numbers from 0 to 2**bits - 1 in a tensor of x's dtype.

    >>> quantize(torch.tensor([-9.0, 0.0, 0.6, 9.0]), torch.tensor(0.5), 1.0, 3).tolist()
    [0.0, 1.0, 2.0, 7.0]
    """
    return _round(x / scale).add(zero).clamp(0, 2**bits - 1)


def dequantize(codes: Tensor, scale: Tensor, zero: Tensor | float) -> Tensor:
    """The values that `codes` stand for, in the units of `scale`."""
    return (codes - zero) * scale


def fake_quantize(x: Tensor, scale: Tensor, zero: Tensor | float, bits: int) -> Tensor:
    """`dequantize(quantize(x))`, bit for bit, of x's shape and dtype; NaN stays NaN, infinities
    become the ends.

    Differentiable in `x` (straight-through: 1 within the grid, 0 where it clips) and in `scale` (as
    in learned step sizes, arXiv:1902.08153). A `zero` given as a number is faster than one given as
    a tensor."""
    dtype = x.dtype
    x = (
        x.float() if dtype in (torch.float16, torch.bfloat16) else x
    )  # 16-bit codes do not fit these
    if torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad):
        return dequantize(quantize(x, scale, zero, bits), scale, zero).to(dtype)
    # In place after the first operation: simulation is limited by memory, and one array is half as
    # much of it.
    codes, top = (x / scale).round_(), 2**bits - 1
    if isinstance(
        zero, Tensor
    ):  # clamping to numbers and shifting is faster than clamping to tensors
        codes.add_(zero).clamp_(0, top).sub_(zero)
    else:
        codes.clamp_(-zero, top - zero)
    return codes.mul_(scale).to(dtype)


def range_quantize(x: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """`x` on the 2**bits values from `low` to `high`, both of them included, differentiable in all
    three.

    With v = (x - low) / scale, r = round(v) and n = 2**bits - 1, the straight-through gradients are

        region              x_hat             d/dx    d/dlow     d/dhigh
        x < low             low                0        1           0
        low <= x <= high    low + scale * r    1     (v - r)/n   (r - v)/n
        x > high            high               0        0           1

    Shapes: `low` and `high` broadcast against `x`, with low <= high. The values need not contain
    0.0: this is the form in which a range is learned; `grid` is the one in which it is used.
    Source: adp_dm, table of gradients."""
    scale = ((high - low) / (2**bits - 1)).clamp(min=SMALLEST_SCALE)
    return low + scale * _round((x.clamp(low, high) - low) / scale)


class _Round(torch.autograd.Function):
    # Not x + (x.round() - x).detach(), which may miss the whole number by one unit in the last
    # place.
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


_round = _Round.apply
