"""On a device that is no CPU nothing is mixed with tensors of the CPU: layers, banks, mixtures,
formats, gradients.

A build for CPUs has no such device, but tensors that know nothing except shape, dtype and device:
operations on them fail where a tensor of another device gets in. What is decided by values cannot
be followed: it is taken for true. The device is one that torch lets anybody add, with gradients and
slices; "cuda" has neither without a driver. It stays for the rest of the process, hence
`test_devices` runs this file in a process of its own."""

import os

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from dmq.numerics import codebook
from dmq.numerics.mixture import grids, mixture
from dmq.numerics.packing import pack, unpack
from dmq.quantizers.bank import Clock, bank_module
from dmq.quantizers.cache import FeatureTable
from dmq.quantizers.codes import LowRankWeight
from dmq.quantizers.layers import low_rank_layer, make_fake_quantized
from dmq.quantizers.mixture import CandidateGroups, SoftBank
from dmq.quantizers.weights import quantize_weight
from dmq.recipe import (
    Gptq,
    Hqq,
    KMeans,
    LowRank,
    MinMax,
    MseSearch,
    Percentile,
    PerGroup,
    PerTensor,
    PowerOfTwo,
    Uaq,
    Uniform,
    Weights,
)
from dmq.reconstruction.adaround import Rounding, SoftConv, SoftLinear, measure_indecision
from dmq.reconstruction.gptq import compensate_codes
from dmq.reconstruction.recorded_inputs import distance
from dmq.results import ActivationQParams, Site


ASKED = "DMQ_TEST_ELSEWHERE"  # that `test_devices` sets

# Who looks for doctests imports this file as well, and must not get the device with it.
if ASKED in os.environ:
    _setup_privateuseone_for_python_backend("elsewhere")
DEVICE = torch.device("elsewhere:0" if ASKED in os.environ else "meta")
SITE, PROBS = Site(name="a", point="input"), Site(name="a", point="probs")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch):
    """Tensors are on a device that is not there; whatever depends on their values is true."""
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda x: True)
    monkeypatch.setattr(torch.Tensor, "__float__", lambda x: 1.0)
    made = torch.tensor  # which copies to the device itself, past what is not really there
    monkeypatch.setattr(
        torch, "tensor", lambda data, device="cpu", **how: made(data, **how).to(device)
    )
    monkeypatch.setattr(codebook.torch, "equal", lambda a, b: True)
    monkeypatch.setattr(codebook, "_exact_where_few", lambda ordered, centroids: centroids)
    with FakeTensorMode(allow_non_fake_inputs=False):
        yield


def there(x):
    """Is all of `x` on the device?"""
    assert x.device.type == DEVICE.type
    return x


def on(*shape, dtype=torch.float32):
    return torch.ones(*shape, dtype=dtype, device=DEVICE)


def layer_of(kind, dtype=torch.float32):
    made = {
        "linear": lambda: nn.Linear(8, 6),
        "conv1d": lambda: nn.Conv1d(8, 6, 3),
        "conv2d": lambda: nn.Conv2d(8, 6, 3),
        "conv3d": lambda: nn.Conv3d(8, 6, 3),
        "groups": lambda: nn.Conv2d(16, 6, 3, groups=2),
    }[kind]()
    for name, p in list(made.named_parameters()):
        setattr(
            made,
            name,
            nn.Parameter(torch.ones(p.shape, dtype=dtype, device=DEVICE), requires_grad=False),
        )
    return made


def input_of(kind, dtype=torch.float32):
    sizes = {
        "linear": (2, 5, 8),
        "conv1d": (2, 8, 5),
        "conv3d": (2, 8, 5, 5, 5),
        "groups": (2, 16, 5, 5),
    }
    return on(*sizes.get(kind, (2, 8, 5, 5)), dtype=dtype)


def bank_of(*shape, axis=None, site=SITE, **how):
    size = (2, *shape)
    return ActivationQParams(
        site=site,
        bits=np.array([8, 4], np.uint8),
        scale=np.ones(size, np.float32),
        zero=np.ones(size, np.int32),
        slot=np.array([0, 1, 1], np.int16),
        axis=axis,
        **how,
    )


def clock_at(i=1):
    clock = Clock((9.0, 5.0, 1.0), "error", lambda args, kwargs: 5.0)
    clock._i = i  # a step is looked up before the call, in numbers
    return clock


BANKS = {
    "one range": lambda: bank_of(),
    "channels": lambda: bank_of(8, axis=-1),
    "parts": lambda: bank_of(2, axis=-1, parts=(3, 5)),
    "probs": lambda: bank_of(site=PROBS, dynamic="token"),
    **{per: lambda per=per: bank_of(dynamic=per) for per in ("token", "sample", "call", "place")},
    "symmetric": lambda: bank_of(dynamic="token", symmetric=True),
    "dynamic parts": lambda: bank_of(axis=-1, dynamic="token", parts=(3, 5)),
}


def test_a_tensor_of_the_cpu_among_them_is_noticed():
    with pytest.raises(RuntimeError, match="device"):
        on(3) + torch.ones(3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", BANKS)
def test_banks(name, dtype):
    bank = bank_module(BANKS[name](), clock_at()).to(DEVICE)
    x = on(2, 5, 8, dtype=dtype).requires_grad_(True)
    made = there(bank(x))
    assert made.dtype is dtype and made.shape == x.shape
    made.sum().backward()
    assert there(x.grad).dtype is dtype


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["linear", "conv1d", "conv2d", "conv3d", "groups"])
def test_layers(kind, dtype):
    layer, bank = layer_of(kind, dtype), bank_module(bank_of(), clock_at()).to(DEVICE)
    x = input_of(kind, dtype)
    made = there(make_fake_quantized(layer, layer.weight, layer.bias, bank)(x))
    assert made.dtype is dtype
    smoothing = on(8, dtype=dtype)
    low = low_rank_layer(layer, layer.weight, layer.weight, layer.bias, bank, smoothing)
    assert there(low(x)).shape == made.shape and there(low.weight).shape == layer.weight.shape


FORMATS = {
    "grid": Weights(bits=4, range=MinMax()),
    "symmetric": Weights(bits=4, symmetric=True, range=MseSearch(candidates=8)),
    "searched": Weights(bits=4, symmetric=False, range=MseSearch(candidates=8)),
    "percentile": Weights(bits=4, range=Percentile(percent=99.0)),
    "per tensor": Weights(bits=8, granularity=PerTensor()),
    "per group": Weights(bits=4, granularity=PerGroup(size=5)),
    "two bytes": Weights(bits=16, format=Uniform()),
    "UAQ": Weights(bits=3, format=Uaq()),
    "KMC": Weights(bits=3, format=KMeans()),
    "KMC of many": Weights(bits=6, format=KMeans()),
    "KMA": Weights(bits=3, format=KMeans(shared="tensor")),
    "HQQ": Weights(bits=3, format=Hqq()),
    "GPTQ": Weights(bits=3, format=Gptq()),
    "GPTQ in groups": Weights(bits=3, format=Gptq(group=16)),
    "low rank": Weights(bits=3, format=LowRank(rank=2)),
    "powers of two": Weights(bits=4, format=PowerOfTwo()),
}


@pytest.mark.parametrize(
    ("split", "dtype"), [(0, torch.float32), (5, torch.bfloat16)], ids=["whole", "split"]
)
@pytest.mark.parametrize("name", FORMATS)
def test_formats(name, split, dtype):
    weight = on(70, 80, dtype=dtype)
    codes = quantize_weight(weight, FORMATS[name], split)
    made = there(codes.dequantize())
    assert made.shape == weight.shape and made.dtype is torch.float32 and codes.bytes > 0
    if isinstance(codes, LowRankWeight):
        there(codes.low_rank_weight()), there(codes.rest_weight())
    elsewhere = codes.to(torch.device("cpu"))
    assert elsewhere.dequantize().device.type == "cpu"


@pytest.mark.parametrize("bits", [2, 3, 8, 11])
def test_packed_codes(monkeypatch, bits):
    monkeypatch.setattr(torch.Tensor, "__int__", lambda x: 1)
    codes = on(999, dtype=torch.int32)
    assert there(unpack(there(pack(codes, bits)), bits, 999)).shape == (999,)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("symmetric", [False, True])
def test_mixtures_and_their_gradients(symmetric, dtype):
    ends = [nn.Parameter(on(3)), nn.Parameter(on(3))]
    x, weights = on(4, 7, dtype=dtype).requires_grad_(True), nn.Parameter(on(3))
    made = there(mixture(x, weights, grids(-ends[0], ends[1], 6, symmetric), 6))
    made.float().sum().backward()
    assert made.dtype is x.grad.dtype is dtype and all(
        there(p.grad).shape == (3,) for p in (*ends, weights)
    )


@pytest.mark.parametrize("shared", [False, True])
def test_candidate_groups(shared):
    ends = np.ones((2, 3), np.float32)
    groups = CandidateGroups(
        np.zeros((2, 5), np.int64),
        -ends,
        ends,
        sites=(SITE, PROBS),
        bits=np.array([8, 6]),
        symmetric=False,
        shared=shared,
        device=DEVICE,
    )
    for assigned in (False, True):
        if assigned:
            groups.assign(np.zeros((2, 5), np.int64))
        groups.before_call(3)
        made = [there(SoftBank(groups, q)(on(4, 7, dtype=torch.float16))) for q in range(2)]
        sum(x.float().sum() for x in made).backward()
        assert there(groups.shift.grad).shape == (2, 3) and there(groups.stretch.grad) is not None
        groups.restore(groups.state())
    there(groups.weights(0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["linear", "conv2d"])
def test_learned_rounding_is_float32_in_layers_of_any_precision(kind, dtype):
    layer = layer_of(kind, dtype)
    rounding = Rounding(layer.weight, Weights(bits=4, range=MinMax()))
    quantized = make_fake_quantized(layer, layer.weight, layer.bias, nn.Identity())
    soft = SoftLinear(layer.bias, rounding) if kind == "linear" else SoftConv(quantized, rounding)
    answer = there(soft(input_of(kind, dtype)))
    loss = distance([answer], [torch.ones_like(answer)]) + measure_indecision([rounding], 5.0)
    loss.backward()
    assert (
        answer.dtype is soft.weight.dtype is dtype
        and loss.dtype is there(rounding.v.grad).dtype is torch.float32
    )
    assert there(rounding.hardened().dequantize()).dtype is torch.float32


def test_gptq(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "any", lambda x: False)  # no factorisation fails
    scale = zero = on(6, 1)
    codes, _ = compensate_codes(
        on(6, 200), scale, zero, 3, [on(1, 150, 150), on(1, 50, 50)], order=True
    )
    assert there(codes).shape == (6, 200)


@pytest.mark.parametrize("bits", [4, 12, 16])
def test_cached_features(bits):
    table = FeatureTable(on(5, 7), bits)
    assert there(table(3)).shape == (7,) and there(table(on(2, dtype=torch.int64))).shape == (2, 7)
