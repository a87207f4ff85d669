"""Several quantizers of one tensor, averaged with weights: what a differentiable choice among
them computes.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .affine import grid
from .devices import chunk_size


class Grids(NamedTuple):
    """Grids that share their number of bits. All tensors have the same shape, the last axis numbers
    the grids.

    `low` = -zero * scale and `high` = (2**bits - 1 - zero) * scale are the ends, and carry the
    gradients."""

    low: Tensor
    high: Tensor
    scale: Tensor
    zero: Tensor


def grids(low: Tensor, high: Tensor, bits: int | Tensor, symmetric: bool) -> Grids:
    """`affine.grid` of low..high with its ends, straight through the rounding of the zero point.

    Shapes: `low` and `high` alike, `bits` broadcasts against them. Units: those of `low`.
    """
    top = 2.0**bits - 1
    with torch.no_grad():
        scale, zero = grid(low, high, bits, symmetric)
        ends = -zero * scale, (top - zero) * scale
    if symmetric:
        reach = torch.maximum(-low, high)
        through = -reach * (top + 1) / (top - 1), reach
    else:
        through = low.clamp(max=0), high.clamp(min=0)
    # The values of the grid that will be used, with the gradient of what is learned.
    low, high = (soft + (end - soft).detach() for soft, end in zip(through, ends, strict=True))
    return Grids(low, high, scale, zero)


def mixture(x: Tensor, weights: Tensor, quantizers: Grids, bits: int) -> Tensor:
    """sum over g of weights[g] * Q_g(x), of x's shape and dtype; Q_g is `affine.fake_quantize`, bit
    for bit.

    Shapes: `x` any, `weights` and the tensors of `quantizers` (G,). Differentiable in x, weights,
    low and high with straight-through rounding: with v = (x - low) / scale, r = round(v) and n =
    2**bits - 1, each Q_g has

        region              d/dx    d/dlow     d/dhigh
        x < low              0        1           0
        low <= x <= high     1    (v - r)/n   (r - v)/n
        x > high             0        0           1

    and d/d weights[g] is Q_g(x). Only x is kept for the backward pass, where each Q_g is made
    again: memory does not grow with G. Source: adp_dm, "Range quantizer" and "Linear-cost
    implementation"."""
    dtype = x.dtype
    x = (
        x.float() if dtype in (torch.float16, torch.bfloat16) else x
    )  # 16-bit codes do not fit these
    return _Mixture.apply(x, weights, *quantizers, 2**bits - 1).to(dtype)


class _Mixture(torch.autograd.Function):
    # All grids at once for a piece of x at a time: few operations where x is small, bounded memory
    # where it is large.
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weights: Tensor,
        low: Tensor,
        high: Tensor,
        scale: Tensor,
        zero: Tensor,
        top: int,
    ) -> Tensor:
        ctx.save_for_backward(x, weights, scale, zero)
        ctx.top = top
        step, zero = scale[:, None], zero[:, None]
        share, made = weights * scale, []
        for part in x.reshape(-1).split(_piece(scale)):
            codes = torch.div(part, step).round_().add_(zero).clamp_(0, top).sub_(zero)
            made.append(share @ codes)
        return torch.cat(made).view(x.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weights, scale, zero = ctx.saved_tensors
        step, zero, top = scale[:, None], zero[:, None], ctx.top
        sums, kept = [], []
        pieces = (y.reshape(-1).split(_piece(scale)) for y in (x, gradient))
        for part, g in zip(*pieces, strict=True):
            v = torch.div(part, step)
            codes = v.round().add_(zero).clamp_(0, top)
            v.add_(zero)
            below, above = (v < 0).to(g.dtype), (v > top).to(g.dtype)
            slope = v.clamp_(0, top).sub_(codes).div_(top)  # (v - r) / n, and 0 beyond the ends
            sums.append(torch.stack([codes.sub_(zero) @ g, below @ g, above @ g, slope @ g]))
            if ctx.needs_input_grad[0]:
                kept.append((weights.sum() - weights @ below.add_(above)).mul_(g))
        values, below, above, slope = torch.stack(sums).sum(0)
        to_x = torch.cat(kept).view(x.shape) if kept else None
        return (
            to_x,
            values * scale,
            weights * (below + slope),
            weights * (above - slope),
            None,
            None,
            None,
        )


def _piece(scale: Tensor) -> int:
    return max(1, chunk_size(scale.device) // len(scale))
