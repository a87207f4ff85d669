"""Layers whose rounding is learned: what TIAR and block reconstruction train."""

from collections.abc import Iterable, Mapping
from dataclasses import replace as changed
from functools import singledispatch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..numerics.affine import dequantize
from ..numerics.rounding import hard_codes, indecision, share_up, soft_codes, start
from ..quantizers.codes import QuantizedWeight
from ..quantizers.layers import FakeQuantConv1d, FakeQuantConv2d, FakeQuantConv3d, FakeQuantLinear
from ..quantizers.weights import quantize_weight
from ..recipe import Weights


PENALTY = 0.01  # weight of the regulariser
ITERATIONS_PER_STATE = (
    25  # iterations from one good state that is kept to the next, and from one report to the next
)


class Rounding(nn.Module):
    """The soft codes of one weight: `v` is learned, scale, zero point and floor stay what they are.

    All of it is float32, whatever the precision of the weight that comes of it.
    """

    def __init__(self, weight: Tensor, spec: Weights, split: int = 0) -> None:
        super().__init__()
        nearest = quantize_weight(weight, spec, split)
        assert isinstance(nearest, QuantizedWeight)
        self.nearest, self.dtype = nearest, weight.dtype
        rows = weight.detach().float().reshape(self.nearest.codes.shape)
        self.scale, self.zero = self.nearest.spread()
        self.floor, v = start(rows, self.scale)
        self.v = nn.Parameter(v)
        self.up: Tensor | None = None  # h(v) of the last call

    def forward(self) -> Tensor:
        """The weight that the soft codes stand for, in the precision of the float one,
        differentiable in `v`.
        """
        self.up = share_up(self.v)
        codes = soft_codes(self.floor, self.zero, self.nearest.bits, self.up)
        return dequantize(codes, self.scale, self.zero).reshape(self.nearest.shape).to(self.dtype)

    @torch.no_grad()
    def hardened(self) -> QuantizedWeight:
        """Whole codes on the very grid that was trained with."""
        codes = hard_codes(self.floor, self.zero, self.nearest.bits, self.v)
        return changed(self.nearest, codes=codes.to(self.nearest.codes.dtype))


class SoftLinear(nn.Module):
    """A linear layer whose weight is that of `rounding`; what reads `weight` past `forward` gets it
    too.

    Its input passes through `bank`, if there is one.
    """

    def __init__(
        self, bias: nn.Parameter | None, rounding: Rounding, bank: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.rounding, self.bias = rounding, bias
        self.input = nn.Identity() if bank is None else bank

    @property
    def weight(self) -> Tensor:
        return self.rounding()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.input(x), self.rounding(), self.bias)


class SoftConv(nn.Module):
    """A convolution of any dimension around the quantized `layer`, with the weight of
    `rounding`.
    """

    def __init__(
        self, layer: FakeQuantConv1d | FakeQuantConv2d | FakeQuantConv3d, rounding: Rounding
    ) -> None:
        super().__init__()
        self.layer, self.rounding = layer, rounding

    @property
    def weight(self) -> Tensor:
        return self.rounding()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer._conv_forward(self.layer.input(x), self.rounding(), self.layer.bias)


@singledispatch
def make_soft(layer: nn.Module, rounding: Rounding) -> nn.Module:
    """A layer like the quantized `layer`, its bank included, whose weight is that of `rounding`."""
    raise TypeError(f"the rounding of a {type(layer).__name__} cannot be learned")


@make_soft.register
def _soft_linear(layer: FakeQuantLinear, rounding: Rounding) -> nn.Module:
    return SoftLinear(layer.bias, rounding, layer.input)


for _known in (FakeQuantConv1d, FakeQuantConv2d, FakeQuantConv3d):
    make_soft.register(_known, SoftConv)


def measure_indecision(roundings: Iterable[Rounding], beta: float) -> Tensor:
    """The regulariser of all `roundings` together, as of their last call."""
    known = (rounding.up for rounding in roundings if rounding.up is not None)
    return sum((indecision(up, beta) for up in known), start=torch.zeros(()))


def state_of(roundings: Mapping[str, Rounding]) -> dict[str, Tensor]:
    """A copy of all that is learned, by layer."""
    return {name: rounding.v.detach().clone() for name, rounding in roundings.items()}
