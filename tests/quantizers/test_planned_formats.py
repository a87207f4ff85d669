"""Formats of weights in plans and quantized models, low rank beside quantized inputs among them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dmq.describe import describe_plan, plan_rows
from dmq.errors import DmqError
from dmq.models.tiny import tiny_sd
from dmq.numerics.affine import fake_quantize, grid
from dmq.quantizers.apply import quantize_model
from dmq.quantizers.bank import Clock, bank_module
from dmq.quantizers.layers import FakeQuantLowRank, low_rank_layer
from dmq.quantizers.weights import low_rank_codes, quantize_weight, weight_bytes
from dmq.recipe import (
    FLOAT,
    FORMATS,
    Activations,
    Hqq,
    KMeans,
    LowRank,
    MinMax,
    Override,
    PowerOfTwo,
    Protection,
    Temporal,
    Uaq,
    Uniform,
    WeightFormat,
    Weights,
)
from dmq.results import ActivationQParams, Site
from tests.quantizers.conftest import TIMESTEPS, make_subject
from tests.quantizers.test_apply import call


KMC, KMA, LOW = KMeans(), KMeans(shared="tensor"), LowRank(rank=4, rounds=1)
QUICK = FORMATS | {"LR": LOW}
DYNAMIC = Activations(bits=8, dynamic="token")


@pytest.fixture(scope="module")
def sd():
    return make_subject(tiny_sd())


def rows(plan):
    return {row.layer.name: row for row in plan.layers}


def weights(bits=4, form=None):
    return Weights(bits=bits, format=form or Uniform(), range=MinMax())


def values(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- which format a layer has ---------------------------------------------------------------------


def test_the_last_override_with_a_format_holds_and_bits_are_apart(sd):
    inner = next(layer.name for layer in sd.info.layers if layer.name.endswith("attn1.to_q"))
    plan = sd.plan(
        weights=weights(4, Uaq()),
        overrides=(
            Override(layers="*", format=KMC),
            Override(layers="*.attn1.to_q", weight_bits=3, activation_bits=6),
            Override(layers=inner, format=KMA),
            Override(layers="*", activation_bits=FLOAT),
            Override(layers=inner, activation_bits=5),
            Override(layers="conv_in", format=Hqq()),
        ),
    )
    by_name = rows(plan)
    assert (
        by_name[inner].weights == replace(weights(3, KMA)) and by_name[inner].format == "KMA-3 A5"
    )
    other = next(name for name in by_name if name.endswith("attn1.to_q") and name != inner)
    assert (by_name[other].format, by_name[other].weights.format) == ("KMC-3", KMC)
    assert by_name["conv_in"].format == "float"  # a format does not open what is protected
    assert "KMC-4, " in describe_plan(plan) and "1 KMA-3 A5" in describe_plan(plan)


def test_formats_are_named_in_coverage_with_where_codes_come_from(sd):
    names = [row.layer.name for row in sd.plan().layers if row.format != "float"]
    own = dict(zip(names, FORMATS.values(), strict=False))
    plan = sd.plan(
        weights=weights(4), overrides=tuple(Override(layers=n, format=f) for n, f in own.items())
    )
    table = {row["layer"]: (row["weights"], row["rounding"]) for row in plan_rows(plan)}
    assert [table[name] for name in own] == [
        ("4 bit", "nearest"),
        ("UAQ-4", "nearest"),
        ("KMC-4", "k-means"),
        ("KMA-4", "k-means"),
        ("HQQ-4", "HQQ"),
        ("GPTQ-4", "nearest"),
        ("PoT-4", "nearest"),
        ("LR-4", "low rank"),
    ]
    made = replace(plan, layers=tuple(replace(row, learned="GPTQ") for row in plan.layers))
    assert {row["rounding"] for row in plan_rows(made) if row["weights"] != "float"} == {"GPTQ"}


def test_bits_in_float_are_float_in_any_format(sd):
    plan = sd.plan(weights=weights(FLOAT, KMC), activations=Activations(bits=FLOAT))
    assert {row.format for row in plan.layers} == {"float"} and plan.bytes == plan.float_bytes
    only_inputs = sd.plan(weights=weights(FLOAT, KMC))
    assert {row.format for row in only_inputs.layers} == {"float", "W32A8"}
    assert torch.equal(call(quantize_model(sd.model, plan, sd.adapter), 501), call(sd.model, 501))


@pytest.mark.parametrize(
    "form", [KMC, Hqq(), PowerOfTwo(), LowRank()], ids=lambda form: type(form).__name__
)
def test_formats_with_more_bits_than_make_sense_are_refused_naming_the_layer(sd, form):
    for make in (Weights, WeightFormat):
        make(bits=8, format=form), make(bits=FLOAT, format=form)
        with pytest.raises(
            DmqError, match=f"bits is 10, but format {type(form).__name__} has at most 8: "
        ):
            make(bits=10, format=form)
    with pytest.raises(
        DmqError, match=r"recipe\.overrides: mid_block\..*: bits is 16, but format "
    ):
        sd.plan(weights=weights(16), overrides=(Override(layers="mid_block.*", format=form),))


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
@pytest.mark.parametrize("form", QUICK.values(), ids=QUICK)
def test_every_format_is_in_the_model_with_its_bytes(sd, form, split):
    some = Override(layers="*", weight_bits=FLOAT), Override(layers="up_blocks.0.*", weight_bits=4)
    plan = sd.plan(
        weights=weights(4, form),
        activations=Activations(bits=FLOAT),
        split_shortcuts=split,
        overrides=some,
    )
    quantized_model = quantize_model(sd.model, plan, sd.adapter)
    assert call(quantized_model, 501).isfinite().all()
    assert any(row.split for row in plan.layers) == split
    for row in plan.layers:
        own, theirs = (
            quantized_model.get_submodule(row.layer.name),
            sd.model.get_submodule(row.layer.name),
        )
        if row.weights.bits < FLOAT:
            codes = quantize_weight(theirs.weight, row.weights, row.split)
            assert row.weight_bytes == codes.bytes and torch.equal(own.weight, codes.dequantize())
            assert (
                0
                < (own.weight - theirs.weight).square().mean()
                < 0.1 * theirs.weight.square().mean()
            )


def test_vectors_are_on_a_grid_whatever_the_weights_are(sd):
    plan = sd.plan(weights=weights(2, KMC), protection=Protection(norms_and_biases=False))
    quantized_model = quantize_model(sd.model, plan, sd.adapter)
    vectors = [p for p in quantized_model.parameters() if p.ndim == 1]
    assert vectors and all(len(p.unique()) <= 4 for p in vectors)


def test_a_weight_that_is_not_finite_is_named(sd):
    broken = make_subject(tiny_sd())
    name = next(layer.name for layer in broken.info.layers if layer.name.endswith("to_k"))
    with torch.no_grad():
        broken.model.get_submodule(name).weight[0, 0] = torch.nan
    broken = replace(
        broken,
        info=replace(broken.info, fingerprint="f"),
        stats=replace(broken.stats, fingerprint="f"),
    )
    plan = broken.plan(weights=weights(4, KMC))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dmq.quantizers.apply.fingerprint", lambda model: "f")
        with pytest.raises(DmqError, match=rf"^{name}: the weight has NaN"):
            quantize_model(broken.model, plan, broken.adapter)


# --- low rank -------------------------------------------------------------------------------------


def dynamic_bank(bits, kind):
    made = ActivationQParams(
        site=Site(name="a", point="input", kind=kind),
        bits=np.array([bits], np.uint8),
        scale=np.zeros(0, np.float32),
        zero=np.zeros(0, np.int32),
        slot=np.zeros(6, np.int16),
        dynamic="token",
    )
    return bank_module(made, Clock(TIMESTEPS, "error", lambda args, kwargs: args[0]))


def rounded(x, bits, axes):
    return fake_quantize(
        x, *grid(x.amin(axes, keepdim=True), x.amax(axes, keepdim=True), bits, False), bits
    )


def test_a_low_rank_linear_layer_by_hand():
    layer, x = nn.Linear(6, 5), values(2, 3, 6)
    left, rest, s = values(5, 6, seed=1), values(5, 6, seed=2), torch.tensor([0.5, 1, 2, 4, 1, 8])
    made = low_rank_layer(
        layer, nn.Parameter(left), nn.Parameter(rest), layer.bias, dynamic_bank(4, "linear"), s
    )
    expected = (x / s) @ left.T + rounded(x / s, 4, -1) @ rest.T + layer.bias
    assert torch.allclose(made(x), expected, atol=1e-5) and made.bias is layer.bias
    assert torch.allclose(made.weight, (left + rest) / s)
    passed = low_rank_layer(
        layer, nn.Parameter(left), nn.Parameter(rest), layer.bias, nn.Identity(), s
    )
    assert torch.allclose(passed(x), F.linear(x, made.weight, layer.bias), atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 4, 3, padding=1),
        nn.Conv2d(6, 4, 3, groups=2, stride=2, bias=False),
        nn.Conv1d(6, 4, 1),
    ],
    ids=repr,
)
def test_a_low_rank_convolution_by_hand(layer):
    x = values(2, 6, 7, 7)[..., : 7 if layer.weight.ndim == 4 else 1].squeeze(-1)
    left, rest = (values(*layer.weight.shape, seed=seed) for seed in (1, 2))
    s = torch.linspace(0.5, 4, layer.weight.shape[1])
    made = low_rank_layer(
        layer, nn.Parameter(left), nn.Parameter(rest), layer.bias, dynamic_bank(4, "conv"), s
    )
    smooth = x / s.repeat(layer.groups).reshape(1, -1, *[1] * (x.ndim - 2))
    inner = rounded(smooth, 4, tuple(range(1, x.ndim)))
    expected = layer._conv_forward(smooth, left, None) + layer._conv_forward(
        inner, rest, layer.bias
    )
    assert torch.allclose(made(x), expected, atol=1e-4)
    passed = low_rank_layer(
        layer, nn.Parameter(left), nn.Parameter(rest), layer.bias, nn.Identity(), s
    )
    assert torch.allclose(passed(x), layer._conv_forward(x, passed.weight, layer.bias), atol=1e-4)


def test_low_rank_beside_inputs_in_float_is_one_layer(sd):
    quantized_model = quantize_model(
        sd.model, sd.plan(weights=weights(4, LOW), activations=Activations(bits=FLOAT)), sd.adapter
    )
    assert not any(isinstance(module, FakeQuantLowRank) for module in quantized_model.modules())


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
def test_low_rank_beside_ranges_as_they_come_uses_learned_smoothing(sd, split):
    plan = sd.plan(weights=weights(4, LOW), activations=DYNAMIC, split_shortcuts=split)
    row = next(
        row for row in plan.layers if row.layer.kind == "linear" and row.bank and not row.split
    )
    weight = sd.model.get_submodule(row.layer.name).weight
    smoothing = torch.linspace(0.5, 4, weight.shape[1])
    codes = low_rank_codes(weight, row.weights, smoothing)
    quantized_model = quantize_model(sd.model, plan, sd.adapter, {row.layer.name: codes})
    layer, x = quantized_model.get_submodule(row.layer.name), values(2, 3, weight.shape[1])
    s = codes.smoothing.float()
    rest = F.linear(rounded(x / s, 8, -1), codes.rest_weight(), layer.bias)
    expected = F.linear(x / s, codes.low_rank_weight()) + rest
    assert torch.allclose(layer(x), expected, atol=1e-5)
    assert (
        row.weights.format.smooth
        and row.weight_bytes == codes.bytes
        and "smoothing" not in describe_plan(plan)
    )
    assert call(quantized_model, 501).isfinite().all()
    for row in plan.layers:
        if row.split:
            parts = quantized_model.get_submodule(row.layer.name)
            codes = quantize_weight(
                sd.model.get_submodule(row.layer.name).weight, row.weights, row.split
            )
            assert torch.allclose(parts.weight, codes.dequantize(), atol=1e-6)


def test_low_rank_beside_calibrated_ranges_is_not_smoothed_and_says_so(sd):
    plan = sd.plan(weights=weights(4, LOW))
    counted = [row for row in plan.layers if row.bank]
    assert (
        f"; low rank without smoothing in {len(counted)} layers, whose ranges are cal"
        in describe_plan(plan)
    )
    assert all(not row.weights.format.smooth for row in counted)
    assert counted[0].weight_bytes == weight_bytes(counted[0].layer.shape, counted[0].weights)
    quantized_model = quantize_model(sd.model, plan, sd.adapter)
    call(quantized_model, 501)
    row = next(row for row in counted if row.layer.kind == "linear")
    layer, x = quantized_model.get_submodule(row.layer.name), values(2, 3, row.layer.shape[1])
    codes = quantize_weight(sd.model.get_submodule(row.layer.name).weight, row.weights)
    expected = F.linear(x, codes.low_rank_weight()) + F.linear(
        layer.input(x), codes.rest_weight(), layer.bias
    )
    assert torch.allclose(layer(x), expected, atol=1e-5) and not torch.equal(layer.input(x), x)
    smoothed = low_rank_codes(sd.model.get_submodule(row.layer.name).weight, weights(4, LOW))
    with pytest.raises(DmqError, match=f"^{row.layer.name}: its weight is for smoothed inputs"):
        quantize_model(sd.model, plan, sd.adapter, {row.layer.name: smoothed})


def test_low_rank_layers_of_a_time_embedding_with_ranges_per_step(sd):
    plan = sd.plan(weights=weights(4, LOW), temporal=Temporal(fsc="tib"))
    quantized_model = quantize_model(sd.model, plan, sd.adapter)
    inside = [rows(plan)[name] for name in sd.info.temporal.layers]
    assert all(
        len(row.bank.bits) == len(TIMESTEPS) and not row.weights.format.smooth for row in inside
    )
    assert not torch.equal(call(quantized_model, 501), call(sd.model, 501))


def test_the_smoothing_is_no_vector_of_the_model(sd):
    """It keeps its values where 1-D parameters are rounded, and the float model does not have
    it.
    """
    plan = sd.plan(
        weights=weights(2, LOW), activations=DYNAMIC, protection=Protection(norms_and_biases=False)
    )
    quantized_model = quantize_model(sd.model, plan, sd.adapter)
    layers = [
        module for module in quantized_model.modules() if isinstance(module, FakeQuantLowRank)
    ]
    assert layers and all(torch.equal(m.smoothing, torch.ones_like(m.smoothing)) for m in layers)
    assert all(m.bias is None or len(m.bias.unique()) <= 4 for m in layers)
