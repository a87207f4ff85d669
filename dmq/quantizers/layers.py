"""Layers that compute what a quantized layer would, in floating point.

Their weights were rounded when they were made; their inputs pass through a bank, or an
`nn.Identity`, named `input`. A low-rank weight beside quantized inputs stays in its two parts;
beside float inputs it is a weight like all others."""

from functools import singledispatch
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from ..errors import DmqError
from ..models.borrow import parameters_of


class FakeQuantLinear(nn.Linear):
    """A linear layer around the parameters of another one."""

    def __init__(
        self, layer: nn.Linear, weight: nn.Parameter, bias: nn.Parameter | None, bank: nn.Module
    ) -> None:
        super().__init__(layer.in_features, layer.out_features, bias is not None, device="meta")
        self.weight, self.input = weight, bank
        self.register_parameter("bias", bias)
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.input(x), self.weight, self.bias)


class _FakeQuantConv(_ConvNd):
    """The part that convolutions of all dimensions share."""

    def __init__(
        self, layer: Any, weight: nn.Parameter, bias: nn.Parameter | None, bank: nn.Module
    ) -> None:
        shape: tuple[Any, ...] = (
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            bias is not None,
            layer.padding_mode,
        )
        beside: Any = super()  # the class beside it, such as Conv2d
        beside.__init__(*shape, device="meta")
        self.weight, self.input = weight, bank
        self.register_parameter("bias", bias)
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(self.input(x), self.weight, self.bias)


class FakeQuantConv1d(_FakeQuantConv, nn.Conv1d):
    """A 1-D convolution around the parameters of another one."""


class FakeQuantConv2d(_FakeQuantConv, nn.Conv2d):
    """A 2-D convolution around the parameters of another one."""


class FakeQuantConv3d(_FakeQuantConv, nn.Conv3d):
    """A 3-D convolution around the parameters of another one."""


class FakeQuantLowRank(nn.Module):
    """A layer whose weight is a low-rank part in float and a quantized rest; only the rest reads
    quantized inputs.

        low_rank(x / smoothing) + rest(bank(x / smoothing)) + bias

    `low_rank` and `rest` are layers around the two parts, the bias with the second; `smoothing`
    [input channels] or none. What reads `weight` past `forward` gets what the parts stand for
    together. Source: neighbours, "SVDQuant"."""

    smoothing: Tensor | None

    def __init__(
        self, low_rank: nn.Module, rest: nn.Module, bank: nn.Module, smoothing: Tensor | None
    ) -> None:
        super().__init__()
        self.low_rank, self.rest, self.input = low_rank, rest, bank
        # A buffer, since it is no vector of the float model that could be rounded.
        self.register_buffer("smoothing", smoothing)
        self.train(rest.training)

    def __getattr__(self, name: str) -> Any:
        """What pipelines ask of a float layer, such as `in_features`, is answered by its rest."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if (rest := self.__dict__.get("_modules", {}).get("rest")) is None:
                raise
            return getattr(rest, name)

    @property
    def weight(self) -> Tensor:
        weight = self.low_rank.get_parameter("weight") + self.rest.get_parameter("weight")
        return weight if self.smoothing is None else weight / self._by_channel(self.smoothing)

    @property
    def bias(self) -> Tensor | None:
        return parameters_of(self.rest)[1]

    def forward(self, x: Tensor) -> Tensor:
        if self.smoothing is not None:
            groups = getattr(self.rest, "groups", 1)  # whose inputs are smoothed alike
            x = x / self._by_channel(self.smoothing.repeat(groups))
        return self.low_rank(x) + self.rest(self.input(x))

    def _by_channel(self, values: Tensor) -> Tensor:
        """Values of input channels as they broadcast against inputs, and against weights alike."""
        return values.view(-1, *[1] * (self.rest.get_parameter("weight").ndim - 2))


@singledispatch
def make_fake_quantized(
    layer: nn.Module, weight: nn.Parameter, bias: nn.Parameter | None, bank: nn.Module
) -> nn.Module:
    """A layer like `layer` with these parameters and its input through `bank`; `layer` itself is
    left alone.
    """
    raise DmqError(
        f"a {type(layer).__name__} cannot be quantized; only Linear and Conv layers can."
    )


for _known, _made in (
    (nn.Linear, FakeQuantLinear),
    (nn.Conv1d, FakeQuantConv1d),
    (nn.Conv2d, FakeQuantConv2d),
    (nn.Conv3d, FakeQuantConv3d),
):
    make_fake_quantized.register(_known, _made)


def low_rank_layer(
    layer: nn.Module,
    low_rank: nn.Parameter,
    rest: nn.Parameter,
    bias: nn.Parameter | None,
    bank: nn.Module,
    smoothing: Tensor | None,
) -> FakeQuantLowRank:
    """A layer like `layer` with the weight `low_rank` + `rest` for smoothed inputs, quantized
    for `rest` only.
    """
    return FakeQuantLowRank(
        make_fake_quantized(layer, low_rank, None, nn.Identity()),
        make_fake_quantized(layer, rest, bias, nn.Identity()),
        bank,
        smoothing,
    )
