"""torch's own int8 product, that of GPUs, on the CPU: sums are exact, and layers agree with
their simulation.
"""

import numpy as np
import pytest
import torch
from torch import nn

from dmq.quantizers.bank import Clock, bank_module
from dmq.quantizers.weights import quantize_weight
from dmq.recipe import MinMax, Weights
from dmq.results import ActivationQParams, Site
from dmq.runtime import layers
from dmq.runtime.kernels import IntMm
from dmq.runtime.layers import PackedLayer
from dmq.runtime.whole_weights import WholeWeight


LAYERS = {
    "linear": (nn.Linear(30, 13), (2, 5, 30)),
    "few rows": (nn.Linear(16, 8), (1, 16)),
    "convolution": (nn.Conv2d(5, 7, 3, padding=1), (2, 5, 6, 6)),
    "strided": (
        nn.Conv2d(8, 16, 3, stride=2, padding=(1, 0), dilation=2, bias=False),
        (3, 8, 9, 9),
    ),
    "pointwise": (nn.Conv2d(6, 9, 1), (2, 6, 4, 4)),
}
BANKS = {  # dynamic, slots, symmetric
    "static": ("", 1, False),
    "groups": ("", 3, False),
    "call": ("call", 1, False),
    "sample": ("sample", 1, False),
    "sample, symmetric": ("sample", 1, True),
    "token": ("token", 1, False),
}
CASES = [
    (name, bank)
    for name in LAYERS
    for bank in BANKS
    if bank != "token" or name in ("linear", "few rows")
]
STEPS = (900.0, 500.0, 100.0)


def bank_for(layer, dynamic="", slots=1, symmetric=False):
    clock = Clock(STEPS, "error", lambda args, kwargs: args[0])
    clock.set(STEPS[1])
    kind = "linear" if isinstance(layer, nn.Linear) else "conv"
    return bank_module(
        ActivationQParams(
            site=Site(name="x", point="input", kind=kind),
            bits=np.full(slots, 8, np.uint8),
            scale=np.linspace(0.02, 0.03, slots, dtype=np.float32),
            zero=np.full(slots, 120, np.int32),
            slot=np.arange(len(STEPS)) % slots,
            dynamic=dynamic,
            symmetric=symmetric,
        ),
        clock,
    )


def packed(layer, bank, bits=8, **weights):
    spec = Weights(bits=bits, **({"symmetric": True, "range": MinMax()} | weights))
    layer = layer.requires_grad_(False)
    return PackedLayer(layer, quantize_weight(layer.weight, spec), layer.bias, bank)


def small(layer):
    """A weight so small that no processor's sums overflow, and codes of inputs."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-60, 61, layer.weight.shape, generator=generator).to(torch.int8)
    return WholeWeight(values=values, scale=2.0 ** -(torch.arange(len(values)) % 3), offset=None)


@pytest.mark.parametrize(
    "each", [False, True], ids=["one grid", "a grid for each row of the batch"]
)
@pytest.mark.parametrize("name", LAYERS)
def test_products_of_odd_sizes_are_exact(name, each):
    """Scales are powers of two, so that nothing is rounded."""
    layer, shape = LAYERS[name]
    weight = small(layer)
    kernel = IntMm(layer, weight)
    assert kernel.columns.shape[0] % 8 == kernel.columns.shape[1] % 8 == 0
    codes = torch.randint(
        0, 256, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    count = len(codes) if each else 1
    scale, zero = 2.0 ** torch.arange(count), torch.arange(count, dtype=torch.int32) * 50 + 100
    wide = [-1] + [1] * (len(shape) - 1)
    x = (codes.double() - zero.view(wide)) * scale.double().view(wide)
    meant = weight.dequantize().double()
    wanted = (
        nn.functional.linear(x, meant)
        if isinstance(layer, nn.Linear)
        else layer._conv_forward(x, meant, None)
    )
    assert torch.equal(kernel(codes, scale, zero, None, torch.float32).double(), wanted)
    if not each:
        numbers = kernel(codes, float(scale), int(zero), None, torch.float32)
        assert torch.equal(numbers, kernel(codes, scale, zero, None, torch.float32))


@pytest.mark.parametrize(
    ("name", "bank"),
    [(name, bank) for name, bank in CASES if name in ("linear", "convolution") and BANKS[bank][0]],
)
def test_ranges_that_stay_on_the_device_give_what_the_simulation_does(monkeypatch, name, bank):
    layer, shape = LAYERS[name]
    monkeypatch.setattr(layers, "kernel_for", lambda layer, weight, *more: IntMm(layer, weight))
    made = packed(layer, bank_for(layer, *BANKS[bank]), bits=6)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    x[1] *= 3  # rows of the batch differ in their ranges
    wanted = made.in_float(x)
    assert (made(x) - wanted).abs().max() < 1e-3 * wanted.abs().max()
