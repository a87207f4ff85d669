"""Layers that compute what a quantized layer would, in floating point.

Their weights were rounded when they were made; their inputs pass through a bank, or an `nn.Identity`, named `input`.
"""

from functools import singledispatch
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import DmqError


class FakeQuantLinear(nn.Linear):
    """A linear layer around the parameters of another one."""

    def __init__(self, layer: nn.Linear, weight: nn.Parameter, bias: nn.Parameter | None, bank: nn.Module) -> None:
        super().__init__(layer.in_features, layer.out_features, bias is not None, device="meta")
        self.weight, self.bias, self.input = weight, bias, bank
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.input(x), self.weight, self.bias)


class _FakeQuantConv:
    """The part that convolutions of all dimensions share."""

    def __init__(self, layer: Any, weight: nn.Parameter, bias: nn.Parameter | None, bank: nn.Module) -> None:
        super().__init__(
            layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
            layer.groups, bias is not None, layer.padding_mode, device="meta",
        )
        self.weight, self.bias, self.input = weight, bias, bank
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(self.input(x), self.weight, self.bias)


class FakeQuantConv1d(_FakeQuantConv, nn.Conv1d):
    """A 1-D convolution around the parameters of another one."""


class FakeQuantConv2d(_FakeQuantConv, nn.Conv2d):
    """A 2-D convolution around the parameters of another one."""


class FakeQuantConv3d(_FakeQuantConv, nn.Conv3d):
    """A 3-D convolution around the parameters of another one."""


@singledispatch
def fake_quantized(layer: nn.Module, weight: nn.Parameter, bias: nn.Parameter | None, bank: nn.Module) -> nn.Module:
    """A layer like `layer` with these parameters and its input through `bank`; `layer` itself is left alone."""
    raise DmqError(f"a {type(layer).__name__} cannot be quantized; only Linear and Conv layers can.")


for _known, _made in (
    (nn.Linear, FakeQuantLinear),
    (nn.Conv1d, FakeQuantConv1d),
    (nn.Conv2d, FakeQuantConv2d),
    (nn.Conv3d, FakeQuantConv3d),
):
    fake_quantized.register(_known, _made)
