from dataclasses import replace

import numpy as np
import pytest
import torch

from dmq.describe import describe_plan, plan_rows
from dmq.errors import DmqError
from dmq.numerics.affine import grid
from dmq.quantizers.apply import quantize_model
from dmq.quantizers.plan import make_plan, site_bits
from dmq.quantizers.weights import quantize_weight
from dmq.recipe import (
    FLOAT,
    Activations,
    MinMax,
    Override,
    PerChannel,
    PerGroup,
    PerTensor,
    Protection,
    Sampling,
    Weights,
)


SLOT = [0, 0, 1, 1, 1, 2]


def rows(plan):
    return {row.layer.name: row for row in plan.layers}


def test_first_and_last_layer_are_protected_and_say_so(subject):
    plan = subject.plan()
    kept = {name: row.reason for name, row in rows(plan).items() if row.format == "float"}
    assert kept == {"conv_in": "first layer", "conv_out": "last layer"}
    assert {row.format for row in plan.layers} == {"float", "W8A8"}


def test_protection_can_be_switched_off(subject):
    plan = subject.plan(protection=Protection(first_last=False, norms_and_biases=False))
    assert {row.format for row in plan.layers} == {"W8A8"}
    assert plan.vector_bits == 8


def test_an_override_is_stronger_than_protection_and_the_last_one_holds(ddpm):
    plan = ddpm.plan(
        overrides=(
            Override(layers="conv_in", weight_bits=8),
            Override(layers="down_blocks.*", weight_bits=4, activation_bits=6),
            Override(layers="down_blocks.0.*", weight_bits=FLOAT, activation_bits=FLOAT),
            Override(layers="down_blocks.0.resnets.0.conv1", activation_bits=5),
        )
    )
    by_name = rows(plan)
    assert (by_name["conv_in"].format, by_name["conv_in"].reason) == ("W8A32", "first layer")
    assert by_name["down_blocks.0.resnets.0.conv2"].reason == "override down_blocks.0.*"
    assert by_name["down_blocks.0.resnets.0.conv1"].format == "W32A5"
    assert by_name["down_blocks.1.resnets.0.conv1"].format == "W4A6"
    assert by_name["mid_block.resnets.0.conv1"].format == "W8A8"


def test_an_override_that_matches_nothing_asks_what_was_meant(ddpm):
    with pytest.raises(DmqError, match=r"'conv_inn' matches no layer; did you mean 'conv_in'\?"):
        ddpm.plan(overrides=(Override(layers="conv_inn", weight_bits=4),))
    with pytest.raises(DmqError, match=r"did you mean 'down_blocks.0.\*'\?"):
        ddpm.plan(overrides=(Override(layers="down_block.0.*", weight_bits=4),))


def test_operands_of_attention(sd):
    assert sd.plan().attention == ()
    opened = sd.plan(activations=Activations(attention_bits=6))
    assert (
        len(opened.attention)
        == opened.attention_sites
        == 4 * len({b.site.name for b in opened.attention})
    )
    probs = [bank for bank in opened.attention if bank.site.point == "probs"]
    assert all((bank.zero == 0).all() and (bank.scale * 63 <= 1 + 1e-6).all() for bank in probs)
    assert sd.plan(overrides=(Override(layers="*", activation_bits=8),)).attention == ()
    some = sd.plan(overrides=(Override(layers="*.attn1.probs", activation_bits=8),)).attention
    assert some and {(bank.site.point, int(bank.bits[0])) for bank in some} == {("probs", 8)}


def test_outputs_of_layers_stay_in_float(sd):
    recipe = sd.recipe()
    bits = site_bits(sd.info, recipe, sd.stats)
    assert set(bits[[site.point == "output" for site in sd.stats.sites]]) == {FLOAT}
    for row in sd.plan().layers:
        assert bits[sd.stats.index[row.layer.name, "input"]] == row.activation_bits


def test_a_bank_has_the_grid_of_each_group(ddpm):
    for row in ddpm.plan(SLOT).layers:
        if row.bank is None:
            continue
        s = ddpm.stats.index[row.layer.name, "input"]
        assert row.bank.slot.tolist() == SLOT and row.bank.axis is None
        for k, steps in enumerate(([0, 1], [2, 3, 4], [5])):
            low, high = ddpm.stats.minimum[s, steps].min(), ddpm.stats.maximum[s, steps].max()
            scale, zero = grid(torch.tensor(low), torch.tensor(high), 8, False)
            assert row.bank.scale[k] == scale and row.bank.zero[k] == zero


@pytest.mark.parametrize("granularity", [PerChannel(), PerGroup(size=5)], ids=repr)
def test_channels_of_activations(sd, granularity):
    plan = sd.plan(
        SLOT, activations=Activations(granularity=granularity, range=MinMax(), symmetric=True)
    )
    for row in plan.layers:
        if row.bank is None:
            continue
        s = sd.stats.index[row.layer.name, "input"]
        assert row.bank.axis == (1 if row.layer.kind == "conv" else -1)
        assert row.bank.scale.shape == (3, sd.stats.channel_max[s].shape[1])
        highest = sd.stats.channel_max[s][2:5].max(0)
        if isinstance(granularity, PerGroup):
            runs = np.split(highest, range(5, len(highest), 5))
            highest = np.concatenate([np.full(len(run), run.max()) for run in runs])
        assert np.allclose(row.bank.scale[1], highest / 127)


@pytest.mark.parametrize("kept", [True, False], ids=["protected", "everything"])
@pytest.mark.parametrize(
    ("bits", "granularity"),
    [(3, PerTensor()), (4, PerChannel()), (8, PerChannel()), (5, PerGroup(size=7))],
    ids=repr,
)
def test_bytes_equal_those_counted_from_the_tensors(subject, bits, granularity, kept):
    """Counted from the quantized model: what must be stored of each of its parameters and banks."""
    protection = Protection(first_last=kept, norms_and_biases=kept)
    spec = Weights(bits=bits, granularity=granularity, range=MinMax())
    plan = subject.plan(
        SLOT,
        weights=spec,
        protection=protection,
        activations=Activations(attention_bits=8),
        overrides=(Override(layers="mid_block.*", weight_bits=FLOAT),),
    )
    quantized_model = quantize_model(subject.model, plan, subject.adapter)
    formats = {row.layer.name: row.weights for row in plan.layers}
    counted = 0
    for name, p in quantized_model.named_parameters():
        owner = name.removesuffix(".weight")
        one = Weights(bits=bits, granularity=PerTensor(), range=MinMax())
        if owner in formats:
            counted += (
                quantize_weight(p, formats[owner]).bytes
                if formats[owner].bits < FLOAT
                else 4 * p.numel()
            )
        else:
            counted += quantize_weight(p, one).bytes if p.ndim == 1 and not kept else 4 * p.numel()
    for name, table in quantized_model.named_buffers():
        counted += table.numel() * 4 if name.endswith((".scale", ".zero")) else 0
        counted += (
            table.numel() + len(SLOT) if name.endswith(".scale") else 0
        )  # bits of a slot, slot of a step
    assert plan.bytes == counted
    assert plan.float_bytes == sum(4 * p.numel() for p in subject.model.parameters())


def test_all_in_float_costs_what_the_float_model_costs(ddpm):
    plan = ddpm.plan(weights=Weights(bits=FLOAT), activations=Activations(bits=FLOAT))
    assert plan.bytes == plan.float_bytes
    assert describe_plan(plan).startswith(
        "nothing quantized; float: time_embedding.linear_1 (recipe), "
    )


def test_coverage_names_what_stays_in_float(sd):
    plan = sd.plan()
    n, operands = len(plan.layers), plan.attention_sites
    line = f"{n - 2} of {n} layers W8A8; float: conv_in (first layer), conv_out (last layer), "
    assert describe_plan(plan) == line + f"{operands} attention operands, 1-D parameters"
    table = plan_rows(plan)
    assert (
        len(table) == n
        and sum(row["bytes"] for row in table) == plan.weight_bytes + plan.table_bytes
    )
    more = sd.plan(
        activations=Activations(attention_bits=6),
        protection=Protection(first_last=False, norms_and_biases=False),
        overrides=(Override(layers="conv_in", weight_bits=4),),
    )
    expected = f"{n - 1} of {n} layers W8A8, 1 W4A8, {operands} of {operands} attention operands A6; float: nothing"
    assert describe_plan(more) == expected
    assert len(plan_rows(more)) == n + operands


def test_statistics_of_other_weights_are_refused(ddpm):
    other = replace(ddpm.stats, fingerprint="g")
    with pytest.raises(DmqError, match="Capture again"):
        site_bits(ddpm.info, ddpm.recipe(), other)
    with pytest.raises(DmqError, match="Capture again"):
        make_plan(ddpm.info, ddpm.recipe(), other, ddpm.errors(ddpm.recipe()))


def test_statistics_of_another_number_of_steps_are_refused(ddpm):
    with pytest.raises(
        DmqError, match=r"sampling\.steps is 50, but the statistics have 6 timesteps"
    ):
        ddpm.plan(sampling=Sampling(steps=50))


def test_a_range_that_was_never_seen_is_refused(ddpm):
    errors = ddpm.errors(ddpm.recipe())
    errors.low[:] = np.inf
    with pytest.raises(DmqError, match="no range was seen"):
        make_plan(ddpm.info, ddpm.recipe(), ddpm.stats, errors)
