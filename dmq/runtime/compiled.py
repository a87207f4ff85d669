"""Executed models whose float part is compiled: norms, activation functions and residuals between integer kernels.

A layer on codes becomes one operator that the compiler does not look into. Slots are looked up inside of it, when it
is called, so that one compiled model serves all steps and nothing is compiled anew where a group ends.
"""

import itertools
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from .layers import PackedLayer, packed_layers


_layers: "weakref.WeakValueDictionary[int, PackedLayer]" = weakref.WeakValueDictionary()
_numbers = itertools.count()


def compiled(model: nn.Module, backend: str = "inductor") -> nn.Module:
    """`model`, an executed one, in place: compiled at its first call, for each shape of its inputs.

    It must not be borrowed, since what is compiled belongs to these very modules. `backend` as for `torch.compile`.
    """
    for _, layer in packed_layers(model):
        number = next(_numbers)
        _layers[number] = layer
        layer.forward = _Called(number)
    model.forward = torch.compile(model.forward, backend=backend)
    return model


class _Called:
    """The forward of a layer as an operator."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, x: Tensor) -> Tensor:
        return torch.ops.dmq.on_codes(x, self.number)


def _run(x: Tensor, number: int) -> Tensor:
    made = PackedLayer.forward(_layers[number], x)
    return made.contiguous(memory_format=torch.channels_last if made.ndim == 4 else torch.contiguous_format)


def _shaped(x: Tensor, number: int) -> Tensor:
    """A tensor without values that is laid out as the answer will be."""
    layout: Any = _layers[number].layout
    if isinstance(layout, nn.Linear):
        return x.new_empty(*x.shape[:-1], layout.out_features)
    reach = [d * (k - 1) for d, k in zip(layout.dilation, layout.kernel_size, strict=True)]
    sides = [
        (size + 2 * pad - far - 1) // stride + 1
        for size, pad, far, stride in zip(x.shape[2:], layout.padding, reach, layout.stride, strict=True)
    ]
    made = x.new_empty((len(x), layout.out_channels, *sides))
    return made.to(memory_format=torch.channels_last) if made.ndim == 4 else made


_library = torch.library.Library("dmq", "DEF")
_library.define("on_codes(Tensor x, int layer) -> Tensor")
_library.impl("on_codes", _run, "CompositeExplicitAutograd")
_library.impl("on_codes", _shaped, "Meta")
