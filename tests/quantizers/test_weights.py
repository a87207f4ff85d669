import math

import pytest
import torch

from dmq.quantizers.weights import quantize_weight, weight_bytes
from dmq.recipe import (
    FLOAT,
    MinMax,
    MseSearch,
    Percentile,
    PerChannel,
    PerGroup,
    PerTensor,
    Weights,
)


SHAPES = {"linear": (6, 20), "conv": (5, 4, 3, 3), "vector": (13,), "1x1": (3, 7, 1, 1)}
GRANULARITIES = [PerTensor(), PerChannel(), PerGroup(size=8), PerGroup(size=2), PerGroup(size=1024)]


def weight(kind="linear"):
    return torch.randn(SHAPES[kind], generator=torch.Generator().manual_seed(0)) ** 3


@pytest.fixture(params=[False, True], ids=["asymmetric", "symmetric"])
def symmetric(request):
    return request.param


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=repr)
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("bits", [2, 3, 8, 10, 16])
def test_bytes_from_the_shape_equal_those_of_the_tensors(bits, kind, granularity, symmetric):
    spec = Weights(bits=bits, granularity=granularity, symmetric=symmetric, range=MinMax())
    made = quantize_weight(weight(kind), spec)
    counted = math.ceil(sum(bits for _ in made.codes.flatten().tolist()) / 8) + sum(
        4 for _ in made.scale.flatten()
    )
    if not symmetric:
        counted += sum(math.ceil(bits / 8) for _ in made.zero.flatten())
    assert made.bytes == weight_bytes(SHAPES[kind], spec) == counted
    assert made.codes.numel() == math.prod(SHAPES[kind])
    assert 0 <= made.codes.min() and made.codes.max() <= 2**bits - 1


def test_bytes_of_examples_counted_by_hand():
    assert weight_bytes((6, 20), Weights(bits=4, granularity=PerTensor(), symmetric=True)) == 60 + 4
    assert weight_bytes((6, 20), Weights(bits=4, granularity=PerChannel())) == 60 + 6 * (4 + 1)
    assert weight_bytes((6, 20), Weights(bits=3, granularity=PerGroup(size=8))) == 45 + 6 * 3 * (
        4 + 1
    )
    assert weight_bytes((5, 4, 3, 3), Weights(bits=10, granularity=PerChannel())) == 225 + 5 * (
        4 + 2
    )
    assert weight_bytes((6, 20), Weights(bits=FLOAT)) == 480


@pytest.mark.parametrize(
    "range", [MinMax(), Percentile(percent=98.0), MseSearch()], ids=lambda r: type(r).__name__
)
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_group_is_quantized_as_if_it_were_alone(kind, range, symmetric):
    """Group size 8 divides neither 20 nor 36: the shorter last group is a tensor of its own as
    well.
    """
    x = weight(kind)
    made = quantize_weight(
        x, Weights(bits=4, granularity=PerGroup(size=8), symmetric=symmetric, range=range)
    )
    alone = Weights(bits=4, granularity=PerTensor(), symmetric=symmetric, range=range)
    expected = [
        [quantize_weight(run, alone).dequantize() for run in row.flatten().split(8)] for row in x
    ]
    assert torch.equal(
        made.dequantize(), torch.stack([torch.cat(runs) for runs in expected]).reshape(x.shape)
    )


def test_a_channel_is_quantized_as_if_it_were_alone(symmetric):
    x = weight("conv")
    made = quantize_weight(x, Weights(bits=4, granularity=PerChannel(), symmetric=symmetric))
    alone = Weights(bits=4, granularity=PerTensor(), symmetric=symmetric)
    assert torch.equal(
        made.dequantize(), torch.stack([quantize_weight(row, alone).dequantize() for row in x])
    )


def test_a_group_as_long_as_the_channel_is_the_channel():
    x = weight()
    group, channel = (
        quantize_weight(x, Weights(bits=4, granularity=g)).dequantize()
        for g in (PerGroup(size=1024), PerChannel())
    )
    assert torch.equal(group, channel)


def test_finer_is_closer():
    x = weight()
    errors = [
        (quantize_weight(x, Weights(bits=4, granularity=g)).dequantize() - x).square().sum()
        for g in (PerTensor(), PerChannel(), PerGroup(size=5))
    ]
    assert errors[0] > errors[1] > errors[2]


def test_many_bits_are_nearly_exact(symmetric):
    x = weight("conv")
    made = quantize_weight(x, Weights(bits=16, symmetric=symmetric, range=MinMax())).dequantize()
    assert (made - x).abs().max() < 1e-4 * x.abs().max()


def test_half_precision_weights_are_read():
    assert quantize_weight(weight().half(), Weights(bits=8)).dequantize().isfinite().all()
