"""bfloat16 where it pays: a step of training costs half as much on a CPU that multiplies in it.

Convolutions and matrix products run in bfloat16 with float32 sums; weights, gradients,
normalization and attention stay float32, the last two because PyTorch's bfloat16 kernels for them
are several times slower (docs/decisions.md). On a processor that does not multiply in bfloat16
everything is float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dmq.numerics.processor import multiplies_bfloat16


STAY_FLOAT = {F.scaled_dot_product_attention, F.group_norm}


class _KeepFloat(TorchFunctionMode):
    """Inside `autocast`, the functions of STAY_FLOAT as if it were off."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function not in STAY_FLOAT:
            return function(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            return function(
                *(a.float() if isinstance(a, Tensor) else a for a in args), **(kwargs or {})
            )


@contextmanager
def half_precision() -> Iterator[None]:
    """Forward passes inside run in bfloat16 where that is faster."""
    with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bfloat16()), _KeepFloat():
        yield
