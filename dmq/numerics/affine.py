"""Uniform affine quantization as functions of tensors. Every scale here broadcasts against its tensor.

codes = clip(round(x / scale) + zero, 0, 2**bits - 1);   x_hat = scale * (codes - zero)
"""

import torch
from torch import Tensor


SMALLEST_SCALE = 1e-8  # a constant activation has a range of width zero


def grid(low: Tensor, high: Tensor, bits: int | Tensor, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The scale and the integer zero point of the grid that covers low..high, 0.0 always being one of its values.

    Shapes: `low` and `high` alike; `bits` broadcasts against them. Symmetric grids have zero = 2**(bits-1) and
    reach as far down as up, which leaves their lowest code unused.

    >>> scale, zero = grid(torch.tensor([-1.0]), torch.tensor([2.0]), 2, symmetric=False)
    >>> scale.tolist(), zero.tolist()
    ([1.0], [1.0])
    """
    low, high = low.clamp(max=0), high.clamp(min=0)  # zero must be exact, or padding drifts
    if symmetric:
        half = 2 ** (torch.as_tensor(bits) - 1)
        scale = (torch.maximum(-low, high) / (half - 1)).clamp(min=SMALLEST_SCALE)
        return scale, half.to(scale.dtype).expand_as(scale)
    top = 2 ** torch.as_tensor(bits) - 1
    scale = ((high - low) / top).clamp(min=SMALLEST_SCALE)
    return scale, torch.minimum((-low / scale).round(), top.to(scale.dtype))
