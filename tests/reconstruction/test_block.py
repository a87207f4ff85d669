"""Block reconstruction on tiny models of several families: what is trained, against what, and
what must stay.
"""

import dataclasses
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dmq.calibration.selection import step_counts
from dmq.errors import DmqError
from dmq.models.adapter import LAYERS
from dmq.models.borrow import borrow
from dmq.models.layer_counts import fingerprint
from dmq.models.tiny import tiny_call, tiny_denoiser
from dmq.numerics.affine import grid
from dmq.quantizers.weights import quantize_weight, weight_bytes
from dmq.recipe import FLOAT, AllSteps, BlockReconstruction, MinMax, UniformSteps, Weights
from dmq.reconstruction import block as blocks
from dmq.reconstruction import recorded_inputs
from dmq.reconstruction import training as module
from dmq.reconstruction.block import (
    find_trained_layers,
    from_arrays,
    join_blocks,
    reconstruct_block,
    to_arrays,
    training_model,
)
from dmq.results import ActivationQParams, Plan, PlannedLayer, Site, Trajectory
from tests.models.test_temporal import adapter_of


W3 = Weights(bits=3, range=MinMax())
SPEC = BlockReconstruction(iterations=30, rate=0.03, batch=4, images=2)
TIMES = (901, 501, 101)


@cache
def make(family):
    """A model, a W3A8 plan for all but its first and last layers, and two recorded images;
    never changed.
    """
    model = tiny_denoiser(family)
    adapter = adapter_of(model)
    calls = [tiny_call(model, t, rows=4, seed=t) for t in TIMES]
    seen = {}
    leaves = {n: m for n, m in model.named_modules() if isinstance(m, LAYERS)}
    for name, layer in leaves.items():
        layer.register_forward_pre_hook(
            lambda m, args, name=name: seen.setdefault(name, []).append(args[0])
        )
    with torch.no_grad():
        outputs = [model(**call).sample for call in calls]
    for layer in leaves.values():
        layer._forward_pre_hooks.clear()
    rows = []
    for layer in adapter.layers(model):
        ends = [
            torch.stack(list(end))
            for end in zip(*(x.aminmax() for x in seen[layer.name]), strict=True)
        ]
        rows.append(
            planned(
                layer,
                ends[0].min(),
                ends[1].max(),
                W3 if layer.role not in ("first", "last") else None,
            )
        )
    plan = Plan(
        model=family,
        fingerprint=fingerprint(model),
        timesteps=TIMES,
        unknown_timestep="error",
        layers=tuple(rows),
        attention=(),
        attention_sites=0,
        vector_bits=FLOAT,
        vector_bytes=0,
        float_bytes=0,
    )
    return SimpleNamespace(
        model=model,
        adapter=adapter,
        plan=plan,
        trajectory=trajectory(adapter, calls, outputs),
        calls=calls,
        before={name: x.clone() for name, x in model.state_dict().items()},
        temporal=adapter.temporal(model),
    )


def planned(layer, low, high, weights):
    scale, zero = grid(low[None], high[None], 8, symmetric=False)
    bank = ActivationQParams(
        site=Site(name=layer.name, point="input"),
        bits=np.array([8], np.uint8),
        scale=scale.numpy(),
        zero=zero.numpy().astype(np.int32),
        slot=np.zeros(len(TIMES), np.int16),
    )
    spec = weights or Weights(bits=FLOAT)
    return PlannedLayer(
        layer=layer,
        weights=spec,
        activation_bits=8 if weights else FLOAT,
        reason="" if weights else "first or last",
        weight_bytes=weight_bytes(layer.shape, spec),
        bias_bytes=0,
        bank=bank if weights else None,
    )


def trajectory(adapter, calls, outputs):
    given = [adapter.conditioning((), call) for call in calls]
    return Trajectory(
        timesteps=TIMES,
        step=np.arange(len(TIMES), dtype=np.int32),
        inputs=tuple(adapter.sample_of((), call).numpy() for call in calls),
        outputs=tuple(x.numpy() for x in outputs),
        half=(np.array([0, 0, 1, 1], np.int8),) * len(calls),
        conditioning={
            f"{n}/{name}": x.numpy() for n, one in enumerate(given) for name, x in one.items()
        },
        arguments=tuple({name: f"{n}/{name}" for name in one} for n, one in enumerate(given)),
    )


@pytest.fixture(params=["SD", "DiT", "SD3"])
def subject(request):
    return make(request.param)


def learn(subject, spec=SPEC, stop_before=None, codes=None, steps=None):
    """All blocks one after another; (what was found by block, the model, reports)."""
    counts = step_counts(steps or AllSteps(), len(TIMES), None)
    quantized_model = training_model(subject.model, subject.adapter, subject.plan, codes or {})
    found, reports = {}, []
    for block, formats in find_trained_layers(
        subject.model, subject.adapter, subject.plan, spec
    ).items():
        if block == stop_before:
            break
        if codes and set(formats) <= set(codes):
            continue
        work = reconstruct_block(
            subject.model, quantized_model, block, formats, spec, subject.trajectory, counts
        )
        while True:
            try:
                reports.append((block, next(work)))
            except StopIteration as end:
                found[block] = end.value
                break
    return found, quantized_model, reports


@cache
def learned_once(family):
    return learn(make(family))


@pytest.fixture
def outcome(request, subject):
    return learned_once(request.node.callspec.params["subject"])


@torch.no_grad()
def block_answers(model, block, calls):
    """What a block answers in whole calls of a model, skips included: nothing of the
    reconstruction is used.
    """
    seen = []
    hook = model.get_submodule(block).register_forward_hook(lambda m, args, out: seen.append(out))
    for call in calls:
        model(**call)
    hook.remove()
    return [x for out in seen for x in flat(out)]


def flat(out):
    return [out] if torch.is_tensor(out) else [x for inner in out or () for x in flat(inner)]


def nearest(subject, block):
    formats = find_trained_layers(subject.model, subject.adapter, subject.plan, SPEC)[block]
    return {
        name: quantize_weight(subject.model.get_submodule(name).weight, w)
        for name, w in formats.items()
    }


def error(made, wanted):
    return float(sum((a - b).square().sum() for a, b in zip(made, wanted, strict=True)))


def test_every_block_errs_less_than_with_nearest_rounding(subject, outcome):
    """Whole calls with hard codes: blocks before it learned, the block itself nearest against
    learned.
    """
    found, _, _ = outcome
    floats = borrow(subject.model)
    codes = {}
    for block, learned in found.items():
        pair = []
        for own in ({}, learned.codes):
            quantized_model = training_model(
                subject.model, subject.adapter, subject.plan, codes | own
            )
            pair.append(
                error(*(block_answers(m, block, subject.calls) for m in (quantized_model, floats)))
            )
        assert pair[1] < 0.95 * pair[0], block
        assert learned.after[block] < learned.before[block]
        codes |= learned.codes
    assert list(found) == list(subject.adapter.blocks(subject.model))


def test_reported_errors_are_those_of_whole_calls(subject, outcome):
    """The first block, whose inputs no rounding of other blocks changes; all rows of all calls
    are measured.
    """
    found, _, _ = outcome
    block = next(iter(found))
    quantized_model = training_model(
        subject.model, subject.adapter, subject.plan, found[block].codes
    )
    made, wanted = (
        block_answers(m, block, subject.calls) for m in (quantized_model, borrow(subject.model))
    )
    pairs = {
        id(b): (a, b) for a, b in zip(made, wanted, strict=True)
    }.values()  # skips repeat an answer
    power = sum(float(b.square().sum()) for _, b in pairs)
    wrong = sum(float((a - b).square().sum()) for a, b in pairs)
    assert found[block].after[block] == pytest.approx(wrong / power, rel=1e-3)


def test_codes_are_whole_numbers_next_to_the_nearest_on_the_same_grid(subject, outcome):
    found, _, _ = outcome
    for block, learned in found.items():
        plain = nearest(subject, block)
        assert set(learned.codes) == set(plain)
        for name, ours in learned.codes.items():
            assert torch.equal(ours.scale, plain[name].scale) and torch.equal(
                ours.zero, plain[name].zero
            )
            assert ours.codes.dtype == torch.uint8 and ours.codes.max() <= 7
            assert (ours.codes.int() - plain[name].codes.int()).abs().max() <= 1
        assert any(
            not torch.equal(learned.codes[name].codes, plain[name].codes) for name in plain
        ), block


def test_what_is_not_learned_stays_bit_for_bit(subject, outcome):
    """Time embedding, first and last layer, all banks, and the float model (tfm, test 9)."""
    found, quantized_model, _ = outcome
    fresh = training_model(subject.model, subject.adapter, subject.plan, {}).state_dict()
    learned = {name for one in found.values() for name in one.codes}
    assert not learned & set(subject.temporal.layers)
    assert quantized_model.state_dict().keys() == fresh.keys()
    different = {
        n.removesuffix(".weight")
        for n, x in quantized_model.state_dict().items()
        if not torch.equal(x, fresh[n])
    }
    assert different and different <= learned
    assert all(
        torch.equal(x, subject.before[name]) for name, x in subject.model.state_dict().items()
    )
    assert all(p.grad is None for p in subject.model.parameters())


def test_the_learned_codes_are_in_place(subject, outcome):
    found, quantized_model, _ = outcome
    for name, code in join_blocks(list(found.values())).codes.items():
        assert torch.equal(quantized_model.get_submodule(name).weight, code.dequantize())


@pytest.mark.parametrize("subject", ["SD"], indirect=True)
def test_going_on_behind_finished_blocks_gives_the_same(subject, outcome):
    whole, _, _ = outcome
    first, _, _ = learn(subject, stop_before="mid_block")
    assert list(first) == ["down_blocks.0", "down_blocks.1"]
    arrays, plain = to_arrays(join_blocks(list(first.values())))
    kept = from_arrays(arrays, plain)
    with pytest.raises(DmqError, match="do not tell changed: another version"):
        from_arrays(arrays, {name: plain[name] for name in plain if name != "changed"})
    rest, _, _ = learn(subject, codes=kept.codes)
    assert [*first, *rest] == list(whole)
    for block, learned in (first | rest).items():
        assert learned.after == whole[block].after
        assert all(
            torch.equal(code.codes, whole[block].codes[n].codes)
            for n, code in learned.codes.items()
        )


@pytest.mark.parametrize("subject", ["SD"], indirect=True)
def test_data_that_does_not_fit_is_taken_in_parts(subject, monkeypatch):
    """Each part has all the iterations that draw from it, and only its own batches are held."""
    monkeypatch.setattr(blocks, "MAX_HELD_BYTES", 1)
    spec = dataclasses.replace(SPEC, batch=2)
    found, _, reports = learn(subject, spec, stop_before="down_blocks.1")
    learned = found["down_blocks.0"]
    assert len(learned.losses["down_blocks.0"]) == SPEC.iterations and reports[-1][1][0] == 30
    assert learned.after["down_blocks.0"] < learned.before["down_blocks.0"]
    assert (
        len({done for _, (done, _) in reports}) > 3
    )  # more batches are fetched between iterations


@pytest.mark.parametrize("subject", ["SD"], indirect=True)
def test_only_the_chosen_steps_are_used(subject, monkeypatch):
    calls, whole = [], recorded_inputs.repeat
    monkeypatch.setattr(
        recorded_inputs, "repeat", lambda *given: calls.append(given[2]) or whole(*given)
    )
    learn(subject, stop_before="down_blocks.1", steps=UniformSteps(count=1))
    assert set(calls) == {1}


@pytest.mark.parametrize("subject", ["SD"], indirect=True)
def test_the_time_layers_of_blocks_only_if_asked(subject):
    spec = dataclasses.replace(SPEC, time=True)
    both = (
        find_trained_layers(subject.model, subject.adapter, subject.plan, s) for s in (SPEC, spec)
    )
    without, included = ({name for formats in found.values() for name in formats} for found in both)
    assert included - without == {p.name for p in subject.temporal.projections}


@pytest.mark.parametrize("subject", ["SD"], indirect=True)
def test_training_that_breaks_keeps_the_last_good_state(subject, monkeypatch):
    states, keep = [], module.state_of
    monkeypatch.setattr(
        module, "state_of", lambda roundings: states.append(keep(roundings)) or states[-1]
    )
    monkeypatch.setattr(module, "beta_at", lambda progress: None if progress < 27 / 30 else 2.0)
    monkeypatch.setattr(
        module, "measure_indecision", lambda roundings, beta: torch.tensor(float("nan"))
    )
    found, _, reports = learn(subject, stop_before="down_blocks.1")
    learned = found["down_blocks.0"]
    assert learned.note == "down_blocks.0: stopped at iteration 28 of 30, the loss was nan."
    assert [done for _, (done, _) in reports if done][-1] == 25 and len(states) == 2
    for name, v in states[-1].items():
        rounding = module.Rounding(subject.model.get_submodule(name).weight, W3)
        rounding.v.data = v
        assert torch.equal(learned.codes[name].codes, rounding.hardened().codes)


@pytest.mark.parametrize("subject", ["SD"], indirect=True)
def test_it_can_be_closed_at_any_time_and_leaves_the_threads_alone(subject):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        quantized_model = training_model(subject.model, subject.adapter, subject.plan, {})
        formats = find_trained_layers(subject.model, subject.adapter, subject.plan, SPEC)[
            "mid_block"
        ]
        counts = np.ones(len(TIMES))
        work = reconstruct_block(
            subject.model, quantized_model, "mid_block", formats, SPEC, subject.trajectory, counts
        )
        while next(work) != (25, 30):
            assert torch.get_num_threads() == 2
        work.close()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert all(
        torch.equal(x, subject.before[name]) for name, x in subject.model.state_dict().items()
    )
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in subject.model.modules())
