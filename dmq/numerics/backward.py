"""Gradients that come back through half precision, which loses numbers below 6e-8 and has none
above 65,504.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


SCALES = (
    2.0**14,
    2.0**7,
    1.0,
)  # tried one after another: the largest with which all gradients are finite


def backward(loss: Tensor, parameters: Iterable[Tensor], dtype: torch.dtype) -> None:
    """`loss.backward()` where numbers of `dtype` lie between the loss and the `parameters`, kept in
    float32.

    In float16 the loss is scaled on its way back, and gradients are scaled back where they arrive:
    a loss that is a mean over a million numbers would lose most of them. The others have the
    exponents of float32. Gradients that were there before are gone."""
    parameters = list(parameters)
    for scale in SCALES if dtype is torch.float16 else (1.0,):
        for p in parameters:
            p.grad = None
        (loss * scale).backward(retain_graph=scale > 1)
        found = [p.grad for p in parameters if p.grad is not None]
        if scale == 1 or all(grad.isfinite().all() for grad in found):
            break
    for grad in found if scale > 1 else ():
        grad.div_(scale)
