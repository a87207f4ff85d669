"""Codes of activations, in one pass over memory where a compiler can make one of them."""

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor


LARGE = 2**18  # elements from which one pass instead of five is worth what calling compiled code costs


def codes_of(x: Tensor, scale: Any, zero: Any, bits: int) -> Tensor:
    """The codes of `x`, uint8: clip(round(x / scale) + zero, 0, 2**bits - 1).

    Shapes: `scale` and `zero` broadcast against `x`. Dense in memory, the channels of 4-D tensors last.
    """
    layout = torch.channels_last if x.ndim == 4 else torch.contiguous_format
    top = 2**bits - 1
    if x.numel() >= LARGE and not compiling_fails():
        tensors = (torch.as_tensor(end, dtype=torch.float32, device=x.device) for end in (scale, zero))
        return _compiled(x.dtype, x.ndim)(x.contiguous(memory_format=layout), *tensors, float(top))
    # In place after the first pass: what limits this is memory.
    codes = torch.div(x.float(), scale).round_().add_(zero).clamp_(0, top)
    return codes.to(torch.uint8, memory_format=layout)


@cache
def compiling_fails() -> str:
    """Why `torch.compile` does not work here, in a few words, such as for want of a C++ compiler; "" if it does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _compiled(torch.float32, 1)(torch.ones(64), torch.ones(()), torch.zeros(()), 255.0)
    except Exception as error:  # what may go wrong is as varied as compilers are
        return f"torch.compile does not work here ({type(error).__name__}), so codes take five passes over memory"
    return ""


@cache
def _compiled(dtype: torch.dtype, axes: int) -> Any:
    """One for each kind of tensor, so that none meets torch's limit on recompiling."""
    return torch.compile(_codes, dynamic=True)


def _codes(x: Tensor, scale: Tensor, zero: Tensor, top: float) -> Tensor:
    return (x.float() / scale).round().add(zero).clamp(0, top).to(torch.uint8)
