"""Ranges that are dynamic: what each token or sample gets, and what a plan and a
model make of it.
"""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dmq.describe import describe_plan, plan_rows
from dmq.errors import DmqError
from dmq.models.borrow import borrow
from dmq.models.tiny import tiny_sd
from dmq.models.windows import leave_window_float
from dmq.numerics.affine import fake_quantize, grid
from dmq.quantizers.apply import quantize_model
from dmq.quantizers.bank import ActivationBank, Clock, DynamicBank, bank_module
from dmq.quantizers.plan import make_plan
from dmq.recipe import (
    FLOAT,
    Activations,
    ActiveSteps,
    BlockReconstruction,
    LearnedGroups,
    MinMax,
    Override,
    PerChannel,
    Progressive,
    Protection,
    Recipe,
    Temporal,
    Weights,
)
from dmq.results import ActivationQParams, Site
from tests.quantizers.conftest import TIMESTEPS, make_subject
from tests.quantizers.test_apply import call


NOTHING = np.zeros(0, np.float32)


@pytest.fixture(scope="module")
def sd():
    return make_subject(tiny_sd())


def clock():
    return Clock(TIMESTEPS, "error", lambda args, kwargs: args[0])


def dynamic(bits, per="token", kind="linear", point="input", symmetric=False, **other):
    """A module that knows no step."""
    bits = [bits] if isinstance(bits, int) else bits
    made = ActivationQParams(
        site=Site(name="a", point=point, kind=kind),
        bits=np.array(bits, np.uint8),
        scale=NOTHING,
        zero=NOTHING.astype(np.int32),
        slot=np.arange(6, dtype=np.int16) % len(bits),
        dynamic=per,
        symmetric=symmetric,
        **other,
    )
    return bank_module(made, clock())


def values(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(vector, bits, symmetric=False):
    """The values of one range, by the definition of the grid, in doubles."""
    low, high = min(float(vector.min()), 0.0), max(float(vector.max()), 0.0)
    if symmetric:
        zero, scale = 2 ** (bits - 1), max(-low, high) / (2 ** (bits - 1) - 1)
    else:
        scale = (high - low) / (2**bits - 1)
        zero = round(-low / scale)
    codes = np.clip(np.round(vector.double().numpy() / scale) + zero, 0, 2**bits - 1)
    return torch.tensor((codes - zero) * scale)


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize(
    ("per", "kind", "shape", "own"),
    [
        ("token", "linear", (2, 3, 5), 1),
        ("token", "linear", (4, 5), 1),
        ("token", "linear", (7,), 1),
        ("token", "conv", (2, 3, 4, 4), 3),
        ("token", "conv", (2, 3, 6), 2),
        ("token", "attention", (2, 3, 4, 5), 1),
        ("sample", "linear", (2, 3, 5), 2),
        ("sample", "linear", (4, 5), 1),
        ("sample", "conv", (2, 3, 4, 4), 3),
        ("sample", "attention", (2, 3, 4, 5), 3),
        ("sample", "linear", (7,), 1),
        ("call", "linear", (2, 3, 5), 1),
        ("call", "conv", (2, 3, 4, 4), 4),
        ("call", "attention", (2, 3, 4, 5), 1),
    ],
    ids=str,
)
def test_each_range_is_that_of_its_own_values(per, kind, shape, own, symmetric):
    """`own` axes at the end share a range: computed here for one run of values after another."""
    x = values(*shape) * torch.linspace(0.5, 9, shape[0]).view(-1, *[1] * (len(shape) - 1))
    made = dynamic(4, per, kind, symmetric=symmetric)(x)
    runs = x.reshape(-1, int(np.prod(shape[-own:])))
    expected = torch.stack([by_hand(run, 4, symmetric) for run in runs]).reshape(shape)
    assert torch.allclose(made.double(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("per", "kind", "shape"),
    [
        ("token", "linear", (3, 4, 5)),
        ("token", "conv", (3, 4, 5, 5)),
        ("sample", "linear", (3, 4, 5)),
        ("sample", "attention", (3, 2, 4, 5)),
    ],
    ids=str,
)
def test_rows_never_influence_each_other(per, kind, shape):
    module, x = dynamic(3, per, kind), values(*shape)
    other = x.clone()
    other[1] = 100 * values(*shape[1:], seed=1)
    made, again = module(x), module(other)
    assert torch.equal(made[[0, 2]], again[[0, 2]]) and not torch.equal(made[1], again[1])
    assert torch.equal(made, torch.cat([module(row) for row in x.split(1)]))


def test_tokens_do_not_influence_each_other_but_those_of_a_sample_do():
    x = values(1, 4, 8)
    wide = x.clone()
    wide[:, 2] *= 50
    for per, alone in (("token", True), ("sample", False)):
        made, again = (dynamic(3, per)(y)[:, [0, 1, 3]] for y in (x, wide))
        assert torch.equal(made, again) == alone


def test_rows_of_a_call_share_the_range_of_a_convolution():
    x = values(2, 3, 4, 4)
    wide = x.clone()
    wide[1] *= 50
    for per, alone in (("token", True), ("call", False)):
        made, again = (dynamic(3, per, "conv")(y)[0] for y in (x, wide))
        assert torch.equal(made, again) == alone


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
def test_images_of_a_call_share_the_range_of_a_pixels_channels(symmetric):
    x = values(2, 3, 4, 5) * torch.linspace(0.1, 9, 20).view(4, 5)
    module = dynamic(4, "place", "conv", symmetric=symmetric)
    runs = x.permute(2, 3, 0, 1).reshape(20, -1)
    expected = torch.stack([by_hand(run, 4, symmetric) for run in runs])
    assert torch.allclose(
        module(x).permute(2, 3, 0, 1).reshape(20, -1).double(), expected, atol=1e-6
    )
    assert torch.equal(module(x[0]), module(x[:1])[0])


def test_zero_stays_zero_and_an_empty_token_is_fine():
    x = values(1, 4, 9).abs() + 3  # far from zero, which is a value of the grid all the same
    x[0, 1] = 0
    x[0, 2, 4] = 0
    for symmetric in (False, True):
        made = dynamic(3, symmetric=symmetric)(x)
        assert (
            torch.equal(made[0, 1], torch.zeros(9)) and made[0, 2, 4] == 0 and made.isfinite().all()
        )


@pytest.mark.parametrize("per", ["token", "sample"])
def test_what_is_not_a_number_stays_visible_and_stays_at_home(per):
    x = values(2, 3, 5)
    x[0, 1, 2] = torch.nan
    made = dynamic(8, per)(x)
    assert made[0, 1].isnan().all() and made[1].isfinite().all()
    assert made[0, 0].isnan().all() == (per == "sample")


def test_softmax_outputs_have_a_constant_range():
    x = values(2, 3, 4, 5).softmax(-1)
    made = dynamic(4, kind="attention", point="probs")(x)
    assert torch.equal(made, fake_quantize(x, torch.tensor(1 / 15), 0.0, 4))


def test_sides_of_a_shortcut_have_ranges_of_their_own():
    x = values(2, 5, 4, 4)
    x[:, 3:] *= 40
    made = dynamic(4, kind="conv", axis=1, parts=(3, 2))(x)
    assert torch.equal(
        made, torch.cat([dynamic(4, kind="conv")(side) for side in (x[:, :3], x[:, 3:])], 1)
    )


def test_half_precision_is_kept_and_gradients_go_straight_through():
    assert dynamic(8)(values(2, 3).half()).dtype == torch.float16
    x = values(2, 6).requires_grad_()
    dynamic(4)(x).sum().backward()
    assert torch.equal(x.grad, torch.ones(2, 6))


def test_bits_follow_the_step_where_they_differ_and_bypassing_works():
    module, x = dynamic([4, 8]), values(2, 9)
    for t, bits in zip(TIMESTEPS, [4, 8] * 3, strict=True):
        module.clock.set(t)
        assert torch.equal(module(x), dynamic(bits)(x))
    module.clock.bypassed = True
    assert module(x) is x


# --- plans ----------------------------------------------------------------------------------------


def test_a_plan_needs_no_ranges_and_stores_none(sd):
    recipe = sd.recipe(activations=Activations(bits=8, attention_bits=6, dynamic="token"))
    errors = sd.errors(recipe, [0, 0, 1, 1, 1, 2])
    errors.low[:], errors.high[:] = np.inf, -np.inf  # which no calibrated range survives
    plan = make_plan(sd.info, recipe, sd.stats, errors)
    banks = [*(row.bank for row in plan.layers if row.bank), *plan.attention]
    assert all(bank.dynamic == "token" and bank.bits.size == bank.bytes == 1 for bank in banks)
    assert plan.table_bytes == len(banks) and {int(bank.bits[0]) for bank in plan.attention} == {6}
    said = "; activations A6/A8 dynamic per token (per sample in convolutions)"
    assert said in describe_plan(plan)
    table = {row["layer"]: row for row in plan_rows(plan)}
    assert table["conv_in"]["activations"] == "float"
    linear = next(row.layer.name for row in plan.layers if row.layer.kind == "linear" and row.bank)
    conv = next(row.layer.name for row in plan.layers if row.layer.shape[2:] == (3, 3) and row.bank)
    assert (
        table[linear]["activations"] == "8 bit per token"
        and table[conv]["activations"] == "8 bit per sample"
    )
    probs = next(row for name, row in table.items() if name.endswith("probs"))
    assert probs["activations"] == "6 bit" and probs["groups"] == 1


def test_a_range_per_call_is_one_per_pixel_where_a_convolution_is_a_linear_layer(sd):
    plan = sd.plan(activations=Activations(bits=8, dynamic="call"))
    kinds = {row.layer.shape[2:]: row.bank.per for row in plan.layers if row.bank}
    assert kinds == {(): "token", (1, 1): "place", (3, 3): "call"}
    said = "activations A8 dynamic per token (per call in convolutions, per pixel of the call in those of 1 x 1)"
    assert said in describe_plan(plan)
    assert {row["activations"] for row in plan_rows(plan)} >= {
        "8 bit per pixel of the call",
        "8 bit per call",
    }


def test_steps_with_more_bits_are_slots(sd):
    recipe = sd.recipe(activations=Activations(bits=8, dynamic="sample"))
    errors = sd.errors(recipe)
    errors.bits[:, [1, 4]] = np.where(errors.bits[:, [1, 4]] == 8, 10, FLOAT)
    plan = make_plan(sd.info, recipe, sd.stats, errors)
    bank = next(row.bank for row in plan.layers if row.bank)
    assert bank.bits[bank.slot].tolist() == [8, 10, 8, 8, 10, 8] and bank.bytes == 2 + len(
        TIMESTEPS
    )
    assert (
        "activations A8/A10 dynamic per sample;" in describe_plan(plan)
        and plan.mean_activation_bits == 52 / 6
    )
    quantized_model = quantize_model(sd.model, plan, sd.adapter)
    with pytest.raises(DmqError, match="timestep 500 was not calibrated"):
        call(quantized_model, 500)


def test_a_calibrated_plan_says_nothing_of_the_kind(sd):
    assert "dynamic" not in describe_plan(sd.plan())


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("temporal.fsc", {"temporal": Temporal(fsc="tib")}),
        ("progressive", {"progressive": Progressive()}),
        ("reconstruction.steps", {"reconstruction": BlockReconstruction(steps=5)}),
        ("grouping LearnedGroups", {"grouping": LearnedGroups(count=2)}),
        (
            "calibration_steps ActiveSteps",
            {"calibration_steps": ActiveSteps(), "grouping": LearnedGroups(count=2)},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_sets_ranges_before_is_refused(what, other):
    Recipe(**other)
    with pytest.raises(DmqError, match=rf"{what}.* would set them before") as caught:
        Recipe(activations=Activations(dynamic="token"), **other)
    assert "\n" not in str(caught.value)


def test_what_learns_nothing_of_ranges_is_not_refused():
    Recipe(
        activations=Activations(dynamic="sample"),
        reconstruction=BlockReconstruction(),
        temporal=Temporal(),
    )
    with pytest.raises(DmqError, match="set granularity to PerTensor"):
        Activations(dynamic="token", granularity=PerChannel(), range=MinMax())


# --- models ---------------------------------------------------------------------------------------


def model_of(subject, bits, per="token", attention=FLOAT, **changes):
    spec = Activations(bits=bits, attention_bits=attention, dynamic=per)
    plan = subject.plan(activations=spec, weights=Weights(bits=FLOAT), **changes)
    return quantize_model(subject.model, plan, subject.adapter)


def test_activation_bits_are_really_on(sd):
    answer = call(sd.model, 501)
    for per in ("token", "call", "sample"):
        made = [call(model_of(sd, bits, per, bits), 501) for bits in (16, 6, 3)]
        errors = [float((x - answer).square().mean() / answer.square().mean()) for x in made]
        assert 0 < errors[0] < 1e-4 < errors[1] < errors[2]
    assert not torch.equal(
        call(model_of(sd, 4, "token"), 501), call(model_of(sd, 4, "sample"), 501)
    )


def test_a_layer_inside_gets_the_ranges_of_its_tokens(sd):
    quantized_model = model_of(sd, 4)
    name = next(
        row.layer.name
        for row in quantized_model.plan.layers
        if row.layer.name.endswith("attn1.to_q")
    )
    layer, x = (
        quantized_model.get_submodule(name),
        values(2, 5, quantized_model.get_submodule(name).in_features),
    )
    scale, zero = grid(x.amin(-1, keepdim=True), x.amax(-1, keepdim=True), 4, False)
    assert isinstance(layer.input, DynamicBank)
    assert torch.equal(
        layer(x), F.linear(fake_quantize(x, scale, zero, 4), layer.weight, layer.bias)
    )


def test_rows_of_a_batch_are_as_if_alone(sd):
    """Up to the order of sums in a convolution, of which 16-bit grids make little."""
    quantized_model = model_of(sd, 16, "sample", 16)
    x, words = values(3, 4, 8, 8), values(3, 5, 16)
    with torch.no_grad():
        whole = quantized_model(x, 501, encoder_hidden_states=words).sample
        alone = [
            quantized_model(x[k : k + 1], 501, encoder_hidden_states=words[k : k + 1]).sample
            for k in range(3)
        ]
    assert torch.allclose(whole, torch.cat(alone), atol=1e-3)


def test_any_timestep_will_do_where_nothing_depends_on_the_step(sd):
    quantized_model = model_of(sd, 8, attention=8)
    assert (
        call(quantized_model, 77).isfinite().all()
        and call(quantized_model, torch.tensor([501, 77])).isfinite().all()
    )
    assert quantized_model.clock.notes == [] and not any(
        isinstance(m, ActivationBank) for m in quantized_model.modules()
    )
    call(quantized_model, 701)
    assert quantized_model.clock.i == 1


def test_steps_are_known_to_what_asks_for_them(sd):
    """A window of steps whose activations pass, as relaxing and the probe measure it."""
    quantized_model, plain = model_of(sd, 3), model_of(sd, FLOAT)
    window = leave_window_float(borrow(quantized_model), [1, 2])
    for t, passes in zip(TIMESTEPS[:4], (False, True, True, False), strict=True):
        assert torch.equal(call(window, t), call(plain if passes else quantized_model, t))


def test_overrides_and_protection_hold_as_ever(sd):
    own = (
        Override(layers="*.to_k", activation_bits=4),
        Override(layers="*.to_v", activation_bits=FLOAT),
    )
    quantized_model = model_of(sd, 8, overrides=own, protection=Protection(first_last=False))
    bits = {
        row.layer.name.rpartition(".")[2]: row.activation_bits
        for row in quantized_model.plan.layers
    }
    assert (bits["to_k"], bits["to_v"], bits["conv_in"]) == (4, FLOAT, 8)
    layers = {
        row.layer.name: quantized_model.get_submodule(row.layer.name)
        for row in quantized_model.plan.layers
    }
    assert all(layer.input.bits == [4] for name, layer in layers.items() if name.endswith("to_k"))
