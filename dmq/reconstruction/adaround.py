"""Linear layers whose rounding is learned: what TIAR and block reconstruction train."""

from collections.abc import Iterable
from dataclasses import replace as changed

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..numerics.affine import dequantize
from ..numerics.rounding import hard_codes, indecision, share_up, soft_codes, start
from ..quantizers.weights import QuantizedWeight, quantize_weight
from ..recipe import Weights


class Rounding(nn.Module):
    """The soft codes of one weight: `v` is learned, scale, zero point and floor stay what they are."""

    def __init__(self, weight: Tensor, spec: Weights) -> None:
        super().__init__()
        self.nearest = quantize_weight(weight, spec)
        rows = weight.detach().float().reshape(self.nearest.codes.shape)
        self.scale, self.zero = self.nearest.spread()
        self.floor, v = start(rows, self.scale)
        self.v = nn.Parameter(v)
        self.up: Tensor | None = None  # h(v) of the last call

    def forward(self) -> Tensor:
        """The weight that the soft codes stand for, differentiable in `v`."""
        self.up = share_up(self.v)
        codes = soft_codes(self.floor, self.zero, self.nearest.bits, self.up)
        return dequantize(codes, self.scale, self.zero).reshape(self.nearest.shape)

    @torch.no_grad()
    def hardened(self) -> QuantizedWeight:
        """Whole codes on the very grid that was trained with."""
        codes = hard_codes(self.floor, self.zero, self.nearest.bits, self.v)
        return changed(self.nearest, codes=codes.to(self.nearest.codes.dtype))


class SoftLinear(nn.Module):
    """A linear layer whose weight is that of `rounding`; what reads `weight` past `forward` gets it too."""

    def __init__(self, layer: nn.Linear, rounding: Rounding) -> None:
        super().__init__()
        self.rounding, self.bias = rounding, layer.bias

    @property
    def weight(self) -> Tensor:
        return self.rounding()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.rounding(), self.bias)


def undecided(roundings: Iterable[Rounding], beta: float) -> Tensor:
    """The regulariser of all `roundings` together, as of their last call."""
    return sum(indecision(rounding.up, beta) for rounding in roundings)
