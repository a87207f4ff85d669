"""Executed layers against simulated ones, for every kind of layer, format and slot: a rounding
step apart at most.
"""

import copy
import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from dmq.errors import DmqError
from dmq.models.borrow import borrow
from dmq.models.tiny import tiny_ddpm, tiny_sd
from dmq.numerics.processor import multiplies_bfloat16
from dmq.quantizers.apply import quantize_model
from dmq.quantizers.bank import ActivationBank, Clock, bank_module
from dmq.recipe import (
    Activations,
    Cache,
    Hqq,
    KMeans,
    LowRank,
    MinMax,
    PerChannel,
    PerGroup,
    PerTensor,
    Temporal,
    Uaq,
    Uniform,
    Weights,
)
from dmq.results import ActivationQParams, Site
from dmq.runtime import attention, convert, fused_quantize, kernels, layers
from dmq.runtime.attention import _run_chunked
from dmq.runtime.compiled import compile_model
from dmq.runtime.convert import count_kernels, execute_model, find_kernels
from dmq.runtime.fused_quantize import codes_of
from dmq.runtime.kernels import OVERFLOW, IntMm, OneDnn, kernel_for, lacks_onednn
from dmq.runtime.layers import PackedLayer, packed_layers
from dmq.runtime.sums import Sums
from dmq.runtime.whole_weights import whole_parts
from tests.machine import KERNEL, adds_in_32_bits, should_run
from tests.quantizers.conftest import TIMESTEPS, make_subject


GROUPS = [0, 0, 1, 1, 2, 2]
HALF_RANGE = Weights(
    bits=7, range=MinMax()
)  # which integer kernels of every machine add up exactly
FORMS = {
    "static": {},
    "groups": {"slot": GROUPS},
    "a slot a step": {"slot": list(range(len(TIMESTEPS)))},
    "symmetric": {"weights": Weights(symmetric=True, range=MinMax())},
    "per tensor": {"weights": Weights(granularity=PerTensor(), range=MinMax())},
    "W7A8": {"weights": HALF_RANGE, "slot": GROUPS},
    "W7A8, symmetric": {"weights": Weights(bits=7, symmetric=True, range=MinMax())},
    "W8A7": {"activations": Activations(bits=7), "slot": GROUPS},
    "W4A6": {
        "weights": Weights(bits=4, range=MinMax()),
        "activations": Activations(bits=6),
        "slot": GROUPS,
    },
    "UAQ": {"weights": Weights(bits=3, format=Uaq())},
    "dynamic": {
        "weights": Weights(bits=4, format=Uaq()),
        "activations": Activations(dynamic="token"),
    },
    "dynamic per call": {
        "weights": Weights(bits=4, format=Uaq()),
        "activations": Activations(dynamic="call"),
    },
    "dynamic per sample, symmetric": {
        "weights": Weights(symmetric=True, range=MinMax()),
        "activations": Activations(dynamic="sample", symmetric=True),
    },
    "low rank": {"weights": Weights(bits=4, format=LowRank(rank=4, group=1024))},
    "low rank, dynamic": {
        "weights": Weights(bits=4, format=LowRank(rank=4, group=1024)),
        "activations": Activations(dynamic="token"),
    },
    "split": {"split_shortcuts": True, "slot": GROUPS},
    "split UAQ": {
        "split_shortcuts": True,
        "weights": Weights(bits=4, format=Uaq()),
        "slot": GROUPS,
    },
}
IN_FLOAT = {
    "k-means": ({"weights": Weights(bits=4, format=KMeans())}, "not on a grid"),
    "HQQ": ({"weights": Weights(bits=4, format=Hqq())}, "no whole numbers"),
    "groups of a row": (
        {"weights": Weights(bits=4, granularity=PerGroup(size=8), range=MinMax())},
        "within a row",
    ),
    "ten bits": ({"weights": Weights(bits=10, range=MinMax())}, "10 bits"),
    "inputs per channel": (
        {"activations": Activations(granularity=PerChannel(), range=MinMax())},
        "for each channel",
    ),
    "inputs of 16 bits": ({"activations": Activations(bits=16)}, "16 bits"),
    "inputs in float": ({"activations": Activations(bits=32)}, "stay in float"),
}


@pytest.fixture(scope="module", params=[tiny_ddpm, tiny_sd], ids=["ddpm", "sd"])
def subject(request):
    return make_subject(request.param())


def pair(subject, slot=None, **changes):
    """The simulated and the executed model of one plan."""
    plan = subject.plan(slot, **changes)
    return quantize_model(subject.model, plan, subject.adapter), execute_model(
        subject.model, plan, subject.adapter
    )


def input_of(layout, seed):
    generator = torch.Generator().manual_seed(seed)
    if isinstance(layout, nn.Linear):
        return torch.randn(2, 5, layout.in_features, generator=generator)
    return torch.randn(2, layout.in_channels, 8, 8, generator=generator)


def one_step(layer, x, bank):
    """How far an output moves, at most, if each code of its input moves by one: a bound, and a
    loose one.
    """
    scale = (
        1.0
        if not isinstance(bank, ActivationBank)
        else float(bank.scale[bank.slot[bank.clock.i]].max())
    )
    return scale * float(layer.weight.abs().flatten(1).max(1).values.max())


@pytest.mark.parametrize("changes", FORMS.values(), ids=FORMS)
def test_executed_equals_simulated_within_a_step_at_all_slots(subject, changes):
    simulated, made = pair(subject, **changes)
    assert find_kernels(made) == {name: should_run(layer) for name, layer in packed_layers(made)}
    flipped = values = 0
    for i in range(len(TIMESTEPS)):
        simulated.clock._i = made.clock._i = i
        for n, (name, layer) in enumerate(packed_layers(made)):
            x = input_of(layer.layout, 100 * i + n)
            with torch.no_grad():
                wanted, got = simulated.get_submodule(name)(x), layer(x)
            apart = (got - wanted).abs()
            assert apart.max() <= (
                0 if layer.why else 2 * one_step(layer, x, layer.input) + 1e-5 * wanted.abs().max()
            )
            flipped += int((apart > 1e-5 * wanted.abs().max()).sum())
            values += wanted.numel()
    assert flipped < 0.02 * values  # where x / scale is next to a half, either code is right


@pytest.mark.parametrize(("changes", "why"), IN_FLOAT.values(), ids=IN_FLOAT)
def test_what_has_no_kernel_is_computed_as_simulated_and_says_why(subject, changes, why):
    simulated, made = pair(subject, **changes)
    reasons = {own for kernel, own in find_kernels(made).values() if kernel == "reference"}
    assert reasons and all(why in own for own in reasons)
    assert count_kernels(made)[1].keys() == reasons
    simulated.clock._i = made.clock._i = 2
    for name, layer in packed_layers(made):
        if layer.why:
            x = input_of(layer.layout, 3)
            with torch.no_grad():
                assert torch.equal(layer(x), simulated.get_submodule(name)(x)), name


def test_without_kernels_nothing_differs_by_a_bit(subject):
    plan = subject.plan(GROUPS)
    simulated = quantize_model(subject.model, plan, subject.adapter)
    plain = execute_model(subject.model, plan, subject.adapter, kernels=False)
    simulated.clock._i = plain.clock._i = 4
    for name, layer in packed_layers(plain):
        x = input_of(layer.layout, 5)
        with torch.no_grad():
            assert torch.equal(layer(x), simulated.get_submodule(name)(x)), name


def called(subject, model, t=TIMESTEPS[3]):
    generator = torch.Generator().manual_seed(7)
    config = subject.model.config
    x = torch.randn(
        2, config.in_channels, config.sample_size, config.sample_size, generator=generator
    )
    words = (
        [torch.randn(2, 6, config.cross_attention_dim, generator=generator)]
        if subject.info.prompted
        else []
    )
    with torch.no_grad():
        return model(x, torch.tensor(t), *words).sample


def test_a_whole_model_finds_its_slots_and_draws_as_simulated(subject):
    simulated, made = pair(subject, GROUPS)
    for t in TIMESTEPS:
        wanted, got = called(subject, simulated, t), called(subject, made, t)
        assert (got - wanted).square().mean() < 1e-3 * wanted.square().mean()
    with pytest.raises(DmqError, match="recorded"):
        called(subject, made, 333.0)


def test_the_rest_in_bfloat16_takes_and_gives_float32(subject):
    plan = subject.plan(GROUPS)
    wanted = called(subject, execute_model(subject.model, plan, subject.adapter))
    made = execute_model(subject.model, plan, subject.adapter, rest=torch.bfloat16)
    got = called(subject, made)
    assert got.dtype == torch.float32 and next(made.parameters()).dtype == torch.bfloat16
    assert 0 < (got - wanted).square().mean() < 1e-2 * wanted.square().mean()
    assert next(subject.model.parameters()).dtype == torch.float32
    assert bool(made.clock.notes) != multiplies_bfloat16()


def test_a_borrowed_executed_model_has_a_clock_of_its_own_and_the_same_kernels(subject):
    _, made = pair(subject, GROUPS, weights=HALF_RANGE)
    quantized_model = borrow(made)
    quantized_model.clock.set(TIMESTEPS[-1])
    made.clock.set(TIMESTEPS[0])
    ours, theirs = dict(packed_layers(made)), dict(packed_layers(quantized_model))
    for name, layer in ours.items():
        assert theirs[name].input.clock is quantized_model.clock and layer.input.clock is made.clock
        assert theirs[name].parts[0] is layer.parts[0] and theirs[name].codes is layer.codes
    assert torch.equal(called(subject, made), called(subject, quantized_model))


def test_the_float_model_is_left_alone(subject):
    before = copy.deepcopy(subject.model.state_dict())
    pair(subject)
    assert all(torch.equal(x, before[name]) for name, x in subject.model.state_dict().items())


# --- kernels --------------------------------------------------------------------------------------


LAYOUTS = {
    "linear": nn.Linear(24, 16),
    "conv": nn.Conv2d(8, 16, 3, padding=1),
    "stride": nn.Conv2d(8, 16, 3, 2, 1),
    "dilation": nn.Conv2d(8, 16, 3, padding=2, dilation=2),
    "pointwise": nn.Conv2d(8, 16, 1),
    "uneven": nn.Conv2d(8, 16, (3, 1), padding=(1, 0)),
}
DEPTHWISE = {
    "depthwise": nn.Conv2d(8, 8, 3, padding=1, groups=8),
    "conv1d": nn.Conv1d(8, 16, 3, padding=1),
}


def weights_of(layer, bits=8):
    """Codes of an asymmetric weight: rows lie to one side of zero, the first two all but one
    value at its end.
    """
    from dmq.quantizers.weights import quantize_weight

    weight = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(1)) + 0.8
    rows = weight.flatten(1)
    rows[0], rows[1], rows[:2, 0] = 1.5, -1.5, 0.0
    return quantize_weight(
        rows.view_as(weight), Weights(bits=bits, format=Uniform(), range=MinMax())
    )


@pytest.mark.parametrize("bits", [8, 7])
@pytest.mark.parametrize("zero", [0, 117, 255])
@pytest.mark.parametrize(
    ("kind", "layer"),
    [(OneDnn, layer) for layer in (LAYOUTS | DEPTHWISE).values()]
    + [(IntMm, layer) for layer in LAYOUTS.values()],
    ids=[f"onednn {name}" for name in LAYOUTS | DEPTHWISE] + [f"int_mm {name}" for name in LAYOUTS],
)
def test_a_kernel_adds_up_whole_numbers_exactly(kind, layer, zero, bits, monkeypatch):
    codes = weights_of(layer, bits)
    (part,) = whole_parts(codes)
    assert (part.offset is not None) == (bits == 8) and torch.equal(
        part.dequantize(), codes.dequantize()
    )
    monkeypatch.setattr(kernels, "KERNELS", (kind,))
    made = kernel_for(layer, part)
    if bits == 8 and not adds_in_32_bits():
        assert made == OVERFLOW
        return
    assert isinstance(made, kind)
    shape = {nn.Linear: (2, 3, 24), nn.Conv1d: (2, 8, 9)}.get(type(layer), (2, 8, 9, 10))
    x = torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(zero)
    )
    x[0] = 255
    bias = torch.linspace(-1, 1, codes.shape[0])
    got = made(x, 0.03, zero, bias, torch.float32)
    exact, weight = (x.double() - zero) * 0.03, codes.dequantize().double()
    if isinstance(layer, nn.Linear):
        wanted = exact @ weight.T + bias
    else:
        wanted = layer._conv_forward(exact, weight, bias.double())
    assert torch.allclose(got.double(), wanted, atol=1e-5 * float(wanted.abs().max()))


def test_a_kernel_that_is_wrong_here_is_named_and_the_reference_takes_over(subject, monkeypatch):
    for name in ("onednn_sums", "int_mm_sums"):
        monkeypatch.setattr(kernels, name, lambda: Sums.WRONG)
    simulated, made = pair(subject, GROUPS)
    runs, counted = find_kernels(made).values(), count_kernels(made)
    assert all("oneDNN int8: its sums are wrong" in why for _, why in runs)
    assert counted == ({}, dict(Counter(why for _, why in runs)))
    assert torch.equal(called(subject, made), called(subject, simulated))


def test_eight_bits_by_eight_run_in_float_where_sums_have_sixteen_and_seven_do_not(
    subject, monkeypatch
):
    monkeypatch.setattr(kernels, "onednn_sums", lambda: Sums.PAIRS)
    monkeypatch.setattr(kernels, "int_mm_sums", lambda: Sums.PAIRS)
    simulated, made = pair(subject, GROUPS)
    assert set(find_kernels(made).values()) == {("reference", OVERFLOW)}
    assert torch.equal(called(subject, made), called(subject, simulated))
    for changes in ({"weights": HALF_RANGE}, {"activations": Activations(bits=7)}):
        assert set(find_kernels(pair(subject, GROUPS, **changes)[1]).values()) == {(KERNEL, "")}


def test_what_has_eight_bits_at_some_steps_only_is_in_float_at_those(subject, monkeypatch):
    monkeypatch.setattr(kernels, "onednn_sums", lambda: Sums.PAIRS)
    simulated, made = with_bits(subject, subject.plan([0, 0, 0, 1, 1, 1]), [-1, 0])
    assert set(find_kernels(made).values()) == {
        (f"{KERNEL}, but for steps of more than 7 bits", "")
    }
    codes = []
    monkeypatch.setattr(
        layers, "codes_of", lambda *args: codes.append(codes_of(*args)) or codes[-1]
    )
    for i in (2, 5):
        simulated.clock._i = made.clock._i = i
        for name, layer in packed_layers(made):
            x = input_of(layer.layout, i)
            with torch.no_grad():
                got, wanted = layer(x), simulated.get_submodule(name)(x)
            assert (got - wanted).abs().max() <= (
                0 if i == 5 else 2 * one_step(layer, x, layer.input) + 1e-5
            ), name
    assert (
        len(codes) == len(dict(packed_layers(made))) and max(int(one.max()) for one in codes) == 127
    )


def test_an_older_torch_is_noticed(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    lacks_onednn.cache_clear()
    try:
        assert "no int8 kernels" in lacks_onednn()
    finally:
        monkeypatch.undo()
        lacks_onednn.cache_clear()
    assert lacks_onednn() == ""


def test_reflected_padding_has_no_kernel():
    layer = nn.Conv2d(8, 16, 3, padding=1, padding_mode="reflect")
    (part,) = whole_parts(weights_of(layer))
    assert "padding 'reflect'" in kernel_for(layer, part)


# --- codes and attention --------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("legacy", [True, False])
def test_codes_are_those_of_the_formula(monkeypatch, bits, legacy):
    monkeypatch.setattr(fused_quantize, "_has_one_pass", lambda: legacy)
    x = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0)) * 9
    scale, zero, top = 0.37, 3, 2**bits - 1
    codes = codes_of(x, scale, float(zero), bits)
    wanted = (x.double() / scale).round().add(zero).clamp(0, top)
    assert codes.dtype == torch.uint8 and torch.equal(codes.double(), wanted)
    assert codes.is_contiguous(memory_format=torch.channels_last)
    turned = codes_of(x.transpose(1, 2)[0], scale, float(zero), bits)
    assert turned.is_contiguous() and torch.equal(turned.double(), wanted.transpose(1, 2)[0])


def test_the_fast_way_to_codes_is_there_with_the_pinned_torch():
    assert fused_quantize._has_one_pass()


@pytest.mark.parametrize("far", [1e-6, 100])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_in_pieces_is_attention(scale, far, monkeypatch):
    monkeypatch.setattr(attention, "SCORES", 90 * 23)  # 23 queries at a time, and two left over
    monkeypatch.setattr(attention, "FAR", far)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, 3, length, depth, generator=generator)
        for length, depth in ((94, 8), (90, 8), (90, 6))
    )
    wanted = nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)
    got = _run_chunked(q, k, v, scale)
    assert got.dtype == q.dtype and got.shape == wanted.shape
    assert (got - wanted).norm() < 0.02 * wanted.norm()
    told = torch.ops.dmq.attention(*(x.to("meta") for x in (q, k, v)), scale)
    assert told.shape == got.shape and told.stride() == got.stride() and told.dtype == got.dtype


def test_attention_in_pieces_bears_scores_of_any_size():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 50, 8, generator=generator) for _ in range(3))
    for factor in (1e-3, 60.0, -60.0):  # products of some thousands: only the greatest scores count
        wanted = nn.functional.scaled_dot_product_attention(
            q.bfloat16().float() * factor, k.bfloat16().float(), v
        )
        got = _run_chunked(q.bfloat16() * factor, k.bfloat16(), v.bfloat16()).float()
        assert got.isfinite().all() and (got - wanted).norm() < 0.1 * wanted.norm()


@pytest.mark.parametrize("pays", [True, False])
def test_long_attention_of_an_executed_model_goes_in_pieces_where_that_pays(monkeypatch, pays):
    seen = []
    monkeypatch.setattr(convert, "multiplies_bfloat16", lambda: pays)
    monkeypatch.setattr(attention, "SHORT", 4)
    monkeypatch.setattr(
        attention, "_run_chunked", lambda *args: seen.append(args[0].shape) or _run_chunked(*args)
    )
    subject = make_subject(tiny_sd())
    plain = called(
        subject, execute_model(subject.model, subject.plan(), subject.adapter, kernels=False)
    )
    assert not seen
    got = called(subject, execute_model(subject.model, subject.plan(), subject.adapter))
    assert bool(seen) == pays and (got - plain).square().mean() < 1e-2 * plain.square().mean()


def with_bits(subject, plan, more):
    """The simulated and the executed model of a plan whose slots have so many bits more than
    they had.
    """
    rows = []
    for row in plan.layers:
        bank = row.bank and dataclasses.replace(
            row.bank, bits=(row.bank.bits + np.array(more)).astype(np.uint8)
        )
        rows.append(dataclasses.replace(row, bank=bank))
    plan = dataclasses.replace(plan, layers=tuple(rows))
    return quantize_model(subject.model, plan, subject.adapter), execute_model(
        subject.model, plan, subject.adapter
    )


def test_slots_with_more_than_eight_bits_run_in_float(subject):
    simulated, made = with_bits(
        subject, subject.plan([0, 0, 0, 1, 1, 1], weights=HALF_RANGE), [0, 2]
    )
    assert set(find_kernels(made).values()) == {
        ("oneDNN int8, but for steps of more than 8 bits", "")
    }
    simulated.clock._i = made.clock._i = 5
    for name, layer in packed_layers(made):
        x = input_of(layer.layout, 5)
        with torch.no_grad():
            assert torch.equal(layer(x), simulated.get_submodule(name)(x)), name


# --- compiled -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FORMS, "inputs in float"])
def test_what_the_compiler_sees_of_a_layer_is_the_layer(subject, name, monkeypatch):
    plan = subject.plan(**(FORMS[name] if name in FORMS else IN_FLOAT[name][0]))
    plain = execute_model(subject.model, plan, subject.adapter)
    made = compile_model(execute_model(subject.model, plan, subject.adapter), "eager")
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    flipped = values = 0
    for i in range(len(TIMESTEPS)):
        plain.clock._i = made.clock._i = i
        made.forward.set_step()
        for n, (layer_name, layer) in enumerate(packed_layers(made)):
            x, same = input_of(layer.layout, 100 * i + n), plain.get_submodule(layer_name)
            with torch.no_grad():
                wanted, got = same(x), layer(x)
            apart = (got - wanted).abs()
            assert apart.max() <= 2 * one_step(same, x, same.input) + 1e-5 * wanted.abs().max(), (
                layer_name
            )
            flipped += int((apart > 1e-5 * wanted.abs().max()).sum())
            values += wanted.numel()
    assert flipped < 0.001 * values


@pytest.mark.parametrize(
    "changes",
    [
        {"slot": [0, 1, 2, 3, 4, 5]},
        {"weights": Weights(bits=4, format=KMeans())},
        {"temporal": Temporal(cache=Cache(bits=8)), "activations": Activations(bits=32)},
        {"slot": [0, 1, 2, 3, 4, 5], "activations": Activations(bits=32, attention_bits=6)},
    ],
    ids=["kernels", "reference", "cache", "attention"],
)
def test_a_compiled_model_draws_the_same_at_all_slots_and_is_compiled_once(changes):
    from torch._dynamo.testing import CompileCounter

    subject, counter = make_subject(tiny_sd()), CompileCounter()
    plan = subject.plan(**changes)
    plain = execute_model(subject.model, plan, subject.adapter)
    made = compile_model(execute_model(subject.model, plan, subject.adapter), counter)
    drawn = [called(subject, made, t) for t in TIMESTEPS]
    graphs = counter.frame_count
    for t, first in zip(TIMESTEPS, drawn, strict=True):
        assert (first - called(subject, plain, t)).norm() < 0.02 * first.norm()
        assert torch.equal(called(subject, made, t), first)
    assert 0 < graphs == counter.frame_count


@pytest.mark.parametrize("apart", [True, False], ids=["as here", "older torch"])
def test_models_of_one_class_are_compiled_each_for_itself(apart, monkeypatch):
    if not apart:
        monkeypatch.setattr("dmq.runtime.compiled.APART", {})
    subject = make_subject(tiny_ddpm())
    plans = [
        subject.plan(weights=HALF_RANGE, activations=Activations(bits=bits)) for bits in (8, 4)
    ]
    made = [
        compile_model(execute_model(subject.model, plan, subject.adapter), "eager")
        for plan in plans
    ]
    for _ in range(2):
        for plan, model in zip(plans, made, strict=True):
            plain = execute_model(subject.model, plan, subject.adapter)
            assert torch.equal(called(subject, model), called(subject, plain))


def test_a_compiled_model_that_gives_no_single_graph_runs_all_the_same():
    subject = make_subject(tiny_ddpm())
    plan = subject.plan([0, 0, 0, 1, 1, 1], weights=HALF_RANGE)
    plain, made = (execute_model(subject.model, plan, subject.adapter) for _ in range(2))
    one = next(m for m in made.modules() if isinstance(m, nn.SiLU))
    one.forward = torch.compiler.disable(one.forward)
    made = compile_model(made, "eager")
    for t in (TIMESTEPS[0], TIMESTEPS[-1]):
        assert torch.equal(called(subject, made, t), called(subject, plain, t))
    assert [note.partition(" ")[0] for note in made.clock.notes] == ["compiled"]


def test_a_compiled_model_takes_batches_of_any_size():
    subject = make_subject(tiny_ddpm())
    plan = subject.plan(weights=HALF_RANGE)
    plain, made = (execute_model(subject.model, plan, subject.adapter) for _ in range(2))
    made, x = (
        compile_model(made, "eager"),
        torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
    )
    with (
        torch._dynamo.config.patch(recompile_limit=1),
        torch.no_grad(),
    ):  # beyond it, with all guards
        for rows in (2, 1, 2):
            got, wanted = (
                model(x[:rows], torch.tensor(TIMESTEPS[0])).sample for model in (made, plain)
            )
            assert torch.equal(got, wanted), rows


def test_a_compiled_model_lets_activations_through_as_they_are():
    subject = make_subject(tiny_ddpm())
    plan = subject.plan()
    plain = execute_model(subject.model, plan, subject.adapter)
    made = compile_model(execute_model(subject.model, plan, subject.adapter), "eager")
    rounded = called(subject, made)
    plain.clock.bypassed = made.clock.bypassed = True
    through = called(subject, made)
    assert torch.equal(through, called(subject, plain)) and not torch.equal(through, rounded)


@pytest.mark.parametrize(
    ("changes", "kernel"),
    [({}, "oneDNN int8"), ({"stride": 2}, "reference"), ({"padding": 1}, "reference")],
    ids=str,
)
def test_pixels_with_ranges_of_their_own_are_neither_skipped_nor_added(changes, kernel):
    clock = Clock((1.0,), "error", lambda args, kwargs: 1.0)
    clock.set(1.0)
    site, none = Site(name="layer", point="input", kind="conv", block=""), np.zeros(0, np.float32)
    bits, slot = np.array([8], np.uint8), np.zeros(1, np.int16)
    bank = bank_module(
        ActivationQParams(site=site, bits=bits, scale=none, zero=none, slot=slot, dynamic="place"),
        clock,
    )
    layer = nn.Conv2d(8, 6, 1, **changes).requires_grad_(False)
    packed = PackedLayer(layer, weights_of(layer, 4), layer.bias, bank)
    x = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    assert packed.kernel == kernel and bool(packed.why) == bool(changes)
    wanted = layer._conv_forward(x, packed.weight, layer.bias)
    assert torch.allclose(packed(x), wanted, atol=0.02 * float(wanted.abs().max()))


@pytest.mark.parametrize("layer", (LAYOUTS | DEPTHWISE).values(), ids=LAYOUTS | DEPTHWISE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiler_is_told_the_right_layout(layer, dtype):
    clock = Clock((1.0,), "error", lambda args, kwargs: 1.0)
    clock.set(1.0)
    site = Site(name="layer", point="input", kind="conv", block="")
    one = (
        np.array([8], np.uint8),
        np.array([0.1], np.float32),
        np.array([128], np.int32),
        np.zeros(1, np.int16),
    )
    bank = bank_module(
        ActivationQParams(site=site, bits=one[0], scale=one[1], zero=one[2], slot=one[3]), clock
    )
    model = nn.Sequential(PackedLayer(layer, weights_of(layer, 7), layer.bias, bank))
    model.clock = clock
    traced = compile_model(model, "eager")[0].traced
    shape = {nn.Linear: (2, 3, 24), nn.Conv1d: (2, 8, 9)}.get(type(layer), (2, 8, 9, 10))
    codes = torch.randint(0, 256, shape, dtype=torch.uint8)
    for operator, x, *given in (
        (torch.ops.dmq.on_codes, torch.randn(shape), traced.layer),
        (torch.ops.dmq.product, codes, None, None, True, traced.numbers[0], dtype),
        (
            torch.ops.dmq.product,
            codes,
            torch.tensor(0.2),
            torch.tensor(7.0),
            False,
            traced.numbers[0],
            dtype,
        ),
    ):
        told = operator(torch.empty_like(x, device="meta"), *given)
        with torch.no_grad():
            got = operator(x, *given)
        assert told.shape == got.shape and told.stride() == got.stride() and told.dtype == got.dtype
