"""Numbers that are kept beside codes (scales, centroids), rounded to the precision that they are
stored in.
"""

import torch
from torch import Tensor

from ..errors import DmqError


SMALLEST_HALF = 2.0**-24  # above zero, in half precision


def round_table(x: Tensor, bits: int) -> Tensor:
    """`x` as float32, each number as it is read back from `bits` bits: 32 leaves it, 16 is half
    precision.

    Raises DmqError for what is too large for half precision.

    >>> round_table(torch.tensor([0.1]), 16).tolist()
    [0.0999755859375]
    """
    if bits == 32:
        return x.float()
    half = x.half()
    if not half.isfinite().all():
        most = torch.finfo(torch.float16).max
        raise DmqError(
            f"{x.abs().max():.4g} is above {most:g}, too large for tables of 16 bits; set table to "
            "32."
        )
    return half.float()


def round_scale(scale: Tensor, bits: int) -> Tensor:
    """`round_table` for what is divided by: never zero."""
    return round_table(scale, bits).clamp(min=SMALLEST_HALF) if bits == 16 else scale.float()
