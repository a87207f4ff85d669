"""Whatever a pipeline reads of a float layer is there on every layer that takes its place."""

import pytest
import torch
from torch import nn

from dmq.quantizers.codes import LowRankWeight
from dmq.quantizers.layers import low_rank_layer, make_fake_quantized
from dmq.quantizers.weights import low_rank_codes, quantize_weight
from dmq.recipe import LowRank, Weights
from dmq.runtime.layers import PackedLayer


LAYERS = [
    nn.Linear(6, 4),
    nn.Linear(6, 4, bias=False),
    nn.Conv1d(4, 6, 3, padding=1, stride=2),
    nn.Conv2d(4, 6, (3, 1), padding=(1, 0), dilation=(2, 1)),
    nn.Conv2d(4, 8, 3, groups=2, padding="same"),
    nn.Conv3d(2, 3, 1, bias=False),
]


def fake(layer):
    return make_fake_quantized(layer, layer.weight, layer.bias, nn.Identity())


def packed(layer):
    codes = quantize_weight(layer.weight.detach(), Weights(bits=8))
    return PackedLayer(layer, codes, layer.bias, nn.Identity())


def split(layer):
    parts = nn.Parameter(layer.weight.detach() / 2), nn.Parameter(layer.weight.detach() / 2)
    return low_rank_layer(layer, *parts, layer.bias, nn.Identity(), None)


def packed_low_rank(layer):
    codes = low_rank_codes(layer.weight.detach(), Weights(bits=4, format=LowRank(rank=2)))
    assert isinstance(codes, LowRankWeight)
    return PackedLayer(layer, codes, layer.bias, nn.Identity())


@pytest.mark.parametrize("make", [fake, packed, split, packed_low_rank])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_every_attribute_of_the_real_class_is_there(layer, make):
    layer = layer.requires_grad_(False)
    made = make(layer)
    asked = {name for name in (*vars(layer), *type(layer).__annotations__) if name[0] != "_"}
    asked |= {name for kind in type(layer).__mro__ for name in getattr(kind, "__constants__", ())}
    assert {
        "training",
        *(("in_features",) if isinstance(layer, nn.Linear) else ("stride",)),
    } <= asked
    for name in asked - {"weight", "bias"}:
        assert getattr(made, name) == getattr(layer, name), name
    assert made.weight.shape == layer.weight.shape and made.weight.dtype == layer.weight.dtype
    assert (made.bias is None) == (layer.bias is None)
    x = (
        torch.randn(2, 6)
        if isinstance(layer, nn.Linear)
        else torch.randn(2, made.in_channels, *[5] * (layer.weight.ndim - 2))
    )
    assert made(x).shape == layer(x).shape
    with pytest.raises(AttributeError):
        _ = made.nothing_of_the_kind
