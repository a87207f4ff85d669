"""Layers that read a shortcut beside what comes from below: each side with scales of its own
(Q-Diffusion).
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dmq.describe import describe_plan
from dmq.models.dit import DiTAdapter
from dmq.models.tiny import tiny_denoiser
from dmq.numerics.affine import fake_quantize, grid
from dmq.quantizers.apply import quantize_model
from dmq.quantizers.codes import code_arrays, codes_from
from dmq.quantizers.plan import split_ranges
from dmq.quantizers.weights import quantize_weight, weight_bytes
from dmq.recipe import (
    FLOAT,
    Activations,
    MinMax,
    MseSearch,
    Override,
    PerChannel,
    PerGroup,
    PerTensor,
    Weights,
)
from dmq.reconstruction.adaround import Rounding


SLOT = [0, 0, 1, 1, 1, 2]
GRANULARITIES = [PerTensor(), PerChannel(), PerGroup(size=7), PerGroup(size=1024)]
LAYERS = [
    "up_blocks.0.resnets.0.conv1",
    "up_blocks.0.resnets.1.conv_shortcut",
    "up_blocks.1.resnets.1.conv1",
]


def rows(plan):
    return {row.layer.name: row for row in plan.layers}


def sides(subject, name):
    border = subject.info.splits[name]
    return slice(0, border), slice(border, None)


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=repr)
@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_a_split_layer_is_the_sum_of_two_separately_quantized_ones(subject, name, granularity):
    """W X ~ Q(W1) Q(X1) + Q(W2) Q(X2), each Q with a grid of its own (neighbours, test 5)."""
    spec = Weights(bits=4, granularity=granularity, range=MinMax())
    quantized_model = quantize_model(
        subject.model, subject.plan(SLOT, weights=spec, split_shortcuts=True), subject.adapter
    )
    layer, s = subject.model.get_submodule(name), subject.stats.index[name, "input"]
    x = 3 * torch.randn(2, layer.in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    for t, steps in ((901.0, [0, 1]), (301.0, [2, 3, 4]), (1.0, [5])):
        wanted = layer.bias[:, None, None].clone()
        for side in sides(subject, name):
            low = torch.tensor(subject.stats.channel_min[s][steps, side].min())
            high = torch.tensor(subject.stats.channel_max[s][steps, side].max())
            scale, zero = grid(low, high, 8, symmetric=False)
            weight = quantize_weight(layer.weight[:, side], spec).dequantize()
            inputs = fake_quantize(x[:, side].contiguous(), scale, zero, 8)
            wanted = wanted + F.conv2d(inputs, weight, padding=layer.padding)
        quantized_model.clock.set(t)
        assert torch.allclose(quantized_model.get_submodule(name)(x), wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_without_rounding_it_is_the_float_layer(ddpm):
    quantized_model = quantize_model(
        ddpm.model,
        ddpm.plan(weights=Weights(bits=16), activations=Activations(bits=16), split_shortcuts=True),
        ddpm.adapter,
    )
    for name in LAYERS:
        layer = ddpm.model.get_submodule(name)
        x = torch.rand(
            2, layer.in_channels, 4, 4, generator=torch.Generator().manual_seed(0)
        )  # within its range
        x *= torch.tensor(ddpm.stats.channel_max[ddpm.stats.index[name, "input"]][0])[:, None, None]
        quantized_model.clock.set(901.0)
        assert torch.allclose(quantized_model.get_submodule(name)(x), layer(x), atol=1e-3)


def test_only_where_asked_and_where_a_shortcut_is_known(subject):
    assert all(
        row.split == 0 and (row.bank is None or row.bank.parts == ())
        for row in subject.plan().layers
    )
    plan = subject.plan(split_shortcuts=True)
    assert {row.layer.name: row.split for row in plan.layers if row.split} == subject.info.splits
    assert f"; shortcut split in {len(subject.info.splits)} layers" in describe_plan(plan)
    for name, row in rows(plan).items():
        if row.bank:
            own = (
                (subject.info.splits[name], row.layer.shape[1] - subject.info.splits[name])
                if row.split
                else ()
            )
            assert row.bank.parts == own and row.bank.axis == (1 if own else None)
    model = tiny_denoiser("DiT")
    nothing = replace(subject, info=replace(subject.info, splits=DiTAdapter().splits(model)))
    assert "shortcut" not in describe_plan(nothing.plan(split_shortcuts=True))
    assert nothing.plan(split_shortcuts=True).bytes == subject.plan().bytes


def test_parts_in_float_are_not_split(ddpm):
    first, second, third = LAYERS
    plan = rows(
        ddpm.plan(
            split_shortcuts=True,
            overrides=(
                Override(layers=first, weight_bits=FLOAT),
                Override(layers=second, activation_bits=FLOAT),
                Override(layers=third, weight_bits=FLOAT, activation_bits=FLOAT),
            ),
        )
    )
    assert (
        plan[first].split
        and plan[first].bank.parts
        and plan[first].weight_bytes == 4 * plan[first].layer.num_weights
    )
    assert plan[second].split and plan[second].bank is None
    assert plan[third].split == 0


def test_channels_with_scales_of_their_own_need_no_split(ddpm):
    spec = Activations(granularity=PerChannel(), range=MinMax())
    whole, split = (
        rows(ddpm.plan(SLOT, activations=spec, split_shortcuts=yes)) for yes in (False, True)
    )
    for name in LAYERS:
        assert split[name].split and split[name].bank.parts == ()
        assert np.array_equal(split[name].bank.scale, whole[name].bank.scale)


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=repr)
@pytest.mark.parametrize("symmetric", [False, True])
def test_bytes_are_those_of_what_is_stored(subject, granularity, symmetric):
    spec = Weights(bits=3, granularity=granularity, symmetric=symmetric, range=MinMax())
    plan = subject.plan(SLOT, weights=spec, split_shortcuts=True)
    for row in (row for row in plan.layers if row.split):
        made = quantize_weight(subject.model.get_submodule(row.layer.name).weight, spec, row.split)
        zeros = 0 if symmetric else made.zero.numel()  # of 3 bits each, a byte
        assert (
            row.weight_bytes
            == made.bytes
            == -(-3 * made.codes.numel() // 8) + 4 * made.scale.numel() + zeros
        )
        assert weight_bytes(row.layer.shape, spec, row.split) == made.bytes
        assert row.bank.scale.shape == row.bank.zero.shape == (3, 2)
        assert row.bank.bytes == 3 * (1 + 2 * 4 + 2 * 4) + len(SLOT)
    quantized_model = quantize_model(subject.model, plan, subject.adapter)
    tables = {
        n: b
        for n, b in quantized_model.named_buffers()
        if n.endswith((".input.scale", ".input.zero"))
    }
    assert (
        sum(b.nbytes for b in tables.values())
        + sum(len(b) + len(SLOT) for n, b in tables.items() if n.endswith(".scale"))
        == plan.table_bytes
    )


def test_each_side_clips_what_the_whole_clips_and_is_nowhere_coarser(sd):
    """On values whose extremes by channel are known: two grids against the one that a search
    would give.
    """
    generator = np.random.default_rng(0)
    name = LAYERS[0]
    s, border = sd.stats.index[name, "input"], sd.info.splits[name]
    channels = sd.stats.channel_min[s].shape[1]
    width = np.where(np.arange(channels) < border, 1.0, 0.1)[:, None]
    x = (width * generator.standard_normal((channels, 4000))).astype(np.float32)
    low, high = list(sd.stats.channel_min), list(sd.stats.channel_max)
    low[s], high[s] = (np.tile(end, (sd.stats.steps, 1)) for end in (x.min(1), x.max(1)))
    stats = replace(sd.stats, channel_min=tuple(low), channel_max=tuple(high))
    whole = np.array([-2.0], np.float32), np.array([2.5], np.float32)  # what is left of -4..4
    ends = split_ranges(s, stats, np.zeros(stats.steps, int), border, *whole)
    assert ends[0].shape == ends[1].shape == (1, 2)
    assert (ends[0][0, 0], ends[1][0, 0]) == (-2.0, 2.5)
    assert (ends[0][0, 1], ends[1][0, 1]) == (x[border:].min(), x[border:].max())
    values = torch.from_numpy(x)

    def error(part, lowest, highest):
        scale, zero = grid(torch.tensor(lowest), torch.tensor(highest), 6, symmetric=False)
        return float((fake_quantize(part, scale, zero, 6) - part).square().sum())

    shared = error(values, *map(float, (whole[0][0], whole[1][0])))
    apart = [
        error(values[side], float(ends[0][0, k]), float(ends[1][0, k]))
        for k, side in enumerate((slice(0, border), slice(border, None)))
    ]
    small = error(values[border:], float(whole[0][0]), float(whole[1][0]))
    assert sum(apart) < shared and apart[1] < small / 20


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=repr)
def test_two_sides_are_two_weights(granularity):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 8, 3, 3, generator=generator)
    weight[:, 3:] *= 0.1
    for chosen in (MinMax(), MseSearch(candidates=16)):
        spec = Weights(bits=4, granularity=granularity, range=chosen)
        made = quantize_weight(weight, spec, 3)
        alone = [
            quantize_weight(side.contiguous(), spec).dequantize()
            for side in (weight[:, :3], weight[:, 3:])
        ]
        assert torch.equal(made.dequantize(), torch.cat(alone, 1))
        whole = quantize_weight(weight, spec).dequantize()
        if isinstance(granularity, PerTensor):
            assert (made.dequantize() - weight)[:, 3:].square().sum() < (whole - weight)[
                :, 3:
            ].square().sum() / 10


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=repr)
def test_learned_rounding_starts_at_the_weight_and_ends_on_the_grids_of_the_sides(granularity):
    weight = torch.randn(5, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    rounding = Rounding(weight, Weights(bits=4, granularity=granularity, range=MinMax()), 3)
    scale, _ = rounding.nearest.spread()
    assert (
        (rounding() - weight).reshape(scale.shape[0] if scale.shape[0] > 1 else 5, -1).abs()
        <= scale
    ).all()
    assert (rounding() - weight).abs().median() < 1e-5
    with torch.no_grad():
        rounding.v.neg_()
    learned = rounding.hardened()
    assert ((learned.codes.int() - rounding.nearest.codes.int()).abs() <= 1).all()
    assert not torch.equal(learned.codes, rounding.nearest.codes)
    arrays, plain = code_arrays({"layer": learned})
    again = codes_from(arrays, plain)["layer"]
    assert again.split == 3 * 9 and torch.equal(again.dequantize(), learned.dequantize())
