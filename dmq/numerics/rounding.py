"""Learned rounding (AdaRound, arXiv:2004.10568): a variable for every weight says how far it is
rounded up.

    codes = clip(floor(w / scale) + h(v) + zero, 0, 2**bits - 1),   h(v) = clip(1.2 * sigmoid(v) - 0.1, 0, 1)

While v is learned the codes are no whole numbers; in the end they are made so. v means nothing
without the floor that it was started with, so functions take that floor and never the weight: no
other scale can slip in."""

from typing import Any

import torch
from torch import Tensor


STRETCH, SHIFT = 1.2, -0.1  # of the sigmoid, so that 0 and 1 are reached
QUIET = 0.2  # share of the training during which the regulariser is silent
BETA = (
    20.0,
    2.0,
)  # its exponent from then on: first it pushes only what is nearly decided, in the end everything


def share_up(v: Tensor) -> Tensor:
    """h(v) in [0, 1]: how far each weight is rounded up, the rectified sigmoid. Differentiable.

    >>> share_up(torch.tensor([-9.0, 0.0, 9.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return _ShareUp.apply(v)


def start(weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The floor of weight / scale, and the v with which the soft codes stand for `weight` where
    nothing clips.

    Shapes: `scale` broadcasts against `weight`; both results have the weight's shape.
    """
    share = weight / scale
    floor = share.floor()
    return floor, torch.logit((share - floor - SHIFT) / STRETCH)


def soft_codes(floor: Tensor, zero: Tensor, bits: int, up: Tensor) -> Tensor:
    """Codes between whole numbers, differentiable in `up` = h(v); `zero` broadcasts against
    `floor`.
    """
    return (floor + up + zero).clamp(0, 2**bits - 1)


def hard_codes(floor: Tensor, zero: Tensor, bits: int, v: Tensor) -> Tensor:
    """Whole codes from 0 to 2**bits - 1: up where v >= 0, which is where h(v) >= 1/2."""
    return (floor + (v >= 0) + zero).clamp(0, 2**bits - 1)


def indecision(up: Tensor, beta: float) -> Tensor:
    """The regulariser, sum of 1 - |2 h - 1|**beta: 0 when every weight has decided, at most one
    for each.
    """
    return _Indecision.apply(up, beta)


def beta_at(progress: float) -> float | None:
    """The regulariser's exponent when a share `progress` of the training is over; None while it is
    silent.

    >>> beta_at(0.1), beta_at(0.2), beta_at(1.0)
    (None, 20.0, 2.0)
    """
    if progress < QUIET:
        return None
    return BETA[0] + (BETA[1] - BETA[0]) * (progress - QUIET) / (1 - QUIET)


# Training does little but these two, on every weight in every iteration. Their gradients by hand
# read each array fewer times than autograd does, and take one power instead of two: an iteration
# costs less than half.


class _ShareUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        up = torch.sigmoid(v).mul_(STRETCH).add_(SHIFT).clamp_(0, 1)
        ctx.save_for_backward(up)
        return up

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (up,) = ctx.saved_tensors
        sigmoid = (up - SHIFT) / STRETCH
        slope = sigmoid.mul_(1 - sigmoid).mul_(STRETCH)
        return slope.mul_((up > 0) & (up < 1)).mul_(gradient)


class _Indecision(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, up: Tensor, beta: float) -> Tensor:
        away = 2 * up - 1
        # |away|**(beta - 2), so that both value and gradient are one product away from it; 0 in the middle.
        power = away.abs().clamp_(min=1e-12).log_().mul_(beta - 2).exp_()
        slope = power.mul_(away)
        ctx.save_for_backward(slope)
        ctx.beta = beta
        return up.numel() - torch.dot(slope.flatten(), away.flatten())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return slope * (-2 * ctx.beta * gradient), None
