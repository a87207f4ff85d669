"""Learned rounding (AdaRound, arXiv:2004.10568): a variable for every weight says how far it is rounded up.

    codes = clip(floor(w / scale) + h(v) + zero, 0, 2**bits - 1),   h(v) = clip(1.2 * sigmoid(v) - 0.1, 0, 1)

While v is learned the codes are no whole numbers; `hard` makes them so. The floor belongs to the scale that v was
started with: with another one, v means nothing.
"""

import torch
from torch import Tensor


STRETCH, SHIFT = 1.2, -0.1  # of the sigmoid, so that 0 and 1 are reached
QUIET = 0.2  # share of the training during which the regulariser is silent
BETA = (20.0, 2.0)  # its exponent from then on: first it pushes only what is nearly decided, in the end everything


def share_up(v: Tensor) -> Tensor:
    """h(v) in [0, 1]: how far each weight is rounded up, the rectified sigmoid.

    >>> share_up(torch.tensor([-9.0, 0.0, 9.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return (torch.sigmoid(v) * STRETCH + SHIFT).clamp(0, 1)


def start(weight: Tensor, scale: Tensor) -> Tensor:
    """The v with which the soft codes stand for `weight` itself, where the grid does not clip.

    Shapes: `scale` broadcasts against `weight`.
    """
    part = weight / scale
    return torch.logit((part - part.floor() - SHIFT) / STRETCH)


def soft_codes(weight: Tensor, scale: Tensor, zero: Tensor, bits: int, v: Tensor) -> Tensor:
    """Codes between whole numbers, differentiable in `v`; shapes as in `start`."""
    return ((weight / scale).floor() + share_up(v) + zero).clamp(0, 2**bits - 1)


def hard_codes(weight: Tensor, scale: Tensor, zero: Tensor, bits: int, v: Tensor) -> Tensor:
    """Whole codes from 0 to 2**bits - 1: up where v >= 0, which is where h(v) >= 1/2."""
    return ((weight / scale).floor() + (v >= 0) + zero).clamp(0, 2**bits - 1)


def indecision(v: Tensor, beta: float) -> Tensor:
    """The regulariser, sum of 1 - |2 h(v) - 1|**beta: 0 when every weight has decided, at most one for each."""
    return (1 - (2 * share_up(v) - 1).abs() ** beta).sum()


def beta_at(progress: float) -> float | None:
    """The regulariser's exponent when a share `progress` of the training is over; None while it is silent.

    >>> beta_at(0.1), beta_at(0.2), beta_at(1.0)
    (None, 20.0, 2.0)
    """
    if progress < QUIET:
        return None
    return BETA[0] + (BETA[1] - BETA[0]) * (progress - QUIET) / (1 - QUIET)
