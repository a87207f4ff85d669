"""Activation step sizes learned by gradients: what moves, what stays, what the plan says of it."""

import dataclasses

import numpy as np
import pytest
import torch

from dmq.describe import describe_plan
from dmq.errors import DmqError
from dmq.numerics.affine import fake_quantize
from dmq.quantizers.bank import ActivationBank, Clock
from dmq.recipe import BlockReconstruction, Progressive, Recipe
from dmq.reconstruction import training
from dmq.reconstruction.block import (
    LearnedBlocks,
    find_left_out,
    find_trained_layers,
    from_arrays,
    join_blocks,
    reconstruct_block,
    to_arrays,
    training_model,
)
from dmq.reconstruction.step_sizes import LearnedScales, StepSizes, banks_of, with_step_sizes
from dmq.results import ActivationQParams, Site
from tests.reconstruction.test_block import SPEC, TIMES, make


STEPS = dataclasses.replace(SPEC, iterations=4, steps=60, step_rate=0.01)
FIRST = "down_blocks.0"


def coarse(subject, slots=1):
    """The plan with 3-bit activations, whose ranges are twice too wide: there is something to
    gain.
    """

    def worse(bank):
        if bank is None:
            return None
        scale = np.repeat(bank.scale * 2 * 255 / 7, slots)
        return dataclasses.replace(
            bank,
            bits=np.full(slots, 3, np.uint8),
            scale=scale.astype(np.float32),
            zero=np.repeat(np.minimum(bank.zero, 7) // 2, slots).astype(np.int32),
            slot=np.minimum(np.arange(len(TIMES)), slots - 1).astype(np.int16),
        )

    rows = tuple(dataclasses.replace(row, bank=worse(row.bank)) for row in subject.plan.layers)
    return dataclasses.replace(subject.plan, layers=rows)


def learn(subject, plan, spec=STEPS, block=FIRST, sizes=None, counts=None):
    """What was learned of one block, and the model that it was learned in."""
    quantized_model = training_model(subject.model, subject.adapter, plan, {}, sizes)
    formats = find_trained_layers(subject.model, subject.adapter, plan, spec)[block]
    apart = find_left_out(subject.model, subject.adapter, plan, spec)
    counts = np.ones(len(TIMES)) if counts is None else counts
    work = reconstruct_block(
        subject.model, quantized_model, block, formats, spec, subject.trajectory, counts, apart
    )
    reports = []
    while True:
        try:
            reports.append(next(work))
        except StopIteration as end:
            return end.value, quantized_model, reports


@pytest.fixture(scope="module")
def outcome():
    subject = make("SD")
    plan = coarse(subject)
    return subject, plan, *learn(subject, plan)


def test_step_sizes_make_the_block_err_less_than_rounding_alone(outcome):
    _, _, learned, _, reports = outcome
    assert learned.stepped[FIRST] < 0.9 * learned.after[FIRST]
    assert reports[-1] == (64, 64) and [done for done, _ in reports] == sorted(
        done for done, _ in reports
    )


def test_only_scales_of_the_block_move_and_not_those_of_its_time_layers(outcome):
    subject, plan, learned, quantized_model, _ = outcome
    before = {f"{row.bank.site.label}": row.bank for row in plan.layers if row.bank}
    time = {p.name for p in subject.temporal.projections}
    inside = {
        label
        for label, bank in before.items()
        if label.startswith(f"{FIRST}.") and bank.site.name not in time
    }
    assert set(learned.sizes) == inside and any(name.startswith(f"{FIRST}.") for name in time)
    for module in quantized_model.modules():
        if isinstance(module, ActivationBank):
            bank, label = before[module.site.label], module.site.label
            moved = not np.array_equal(module.scale.numpy(), bank.scale)
            assert moved == (label in inside), label
            assert module.zeros == bank.zero.tolist()
            assert not module.scale.requires_grad


def test_the_plan_with_them_is_the_model_that_was_trained(outcome):
    subject, plan, learned, quantized_model, _ = outcome
    made = with_step_sizes(plan, learned.sizes)
    assert made.step_sizes == len(learned.sizes) and made.bytes == plan.bytes
    assert f"step sizes of {len(learned.sizes)} activations learned" in describe_plan(made)
    assert "step sizes" not in describe_plan(plan)
    banks = {m.site.label: m for m in quantized_model.modules() if isinstance(m, ActivationBank)}
    for row in made.layers:
        if row.bank:
            assert np.array_equal(row.bank.scale, banks[row.bank.site.label].scale.numpy())
    again = training_model(subject.model, subject.adapter, plan, learned.codes, learned.sizes)
    for call in subject.calls:
        for model in (quantized_model, again):
            model.clock.set(float(call["timestep"].reshape(-1)[0]))
        assert torch.equal(again(**call).sample, quantized_model(**call).sample)


def test_the_gradient_of_a_step_size_is_that_of_lsq():
    """d x_hat / d scale: round(x/s) - x/s within the grid, its lowest and highest whole numbers
    outside of it.
    """
    bank = bank_of(scale=[0.5], zero=[2], bits=3)
    clock = Clock((1.0,), "error", lambda args, kwargs: 1.0)
    clock.set(1.0)
    module = ActivationBank(bank, clock)
    scales = LearnedScales({"x": module})
    scales.install()
    x = torch.tensor([-9.0, -0.6, 0.3, 1.2, 9.0])
    weights = torch.tensor([1.0, 10.0, 100.0, 1000.0, 10000.0])
    (module(x) * weights).sum().backward()
    v = x / 0.5
    wanted = torch.where(v < -2, -2.0, torch.where(v > 5, 5.0, v.round() - v))
    # The parameter is the logarithm: d/dlog s = s d/ds.
    assert torch.allclose(scales.logs[0].grad[0], 0.5 * (wanted * weights).sum(), rtol=1e-5)


def bank_of(scale, zero, bits, slot=(0,)):
    return ActivationQParams(
        site=Site(name="x", point="input"),
        bits=np.full(len(scale), bits, np.uint8),
        scale=np.array(scale, np.float32),
        zero=np.array(zero, np.int32),
        slot=np.array(slot, np.int16),
    )


def test_slots_of_steps_that_are_not_drawn_stay_bit_for_bit():
    subject = make("SD")
    plan = coarse(subject, slots=3)
    learned, _, _ = learn(subject, plan, counts=np.array([1, 0, 1]))
    before = {row.bank.site.label: row.bank for row in plan.layers if row.bank}
    for label, own in learned.sizes.items():
        assert own.scale[1] == before[label].scale[1]
        assert own.scale[0] != before[label].scale[0] and own.scale[2] != before[label].scale[2]


def test_both_sides_of_a_split_are_learned():
    bank = dataclasses.replace(bank_of([[0.5, 0.1]], [[2, 1]], 3), axis=1, parts=(2, 3))
    clock = Clock((1.0,), "error", lambda args, kwargs: 1.0)
    clock.set(1.0)
    module = ActivationBank(bank, clock)
    scales = LearnedScales({"x": module})
    scales.install()
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    module(x).square().sum().backward()
    assert (scales.logs[0].grad != 0).all() and scales.logs[0].shape == (1, 2)
    own = scales.finish()["x"]
    assert own.scale.shape == own.zero.shape == (1, 2) and own.zero.tolist() == [[2, 1]]
    spread = torch.tensor([0.5, 0.5, 0.1, 0.1, 0.1]), torch.tensor([2.0, 2, 1, 1, 1])
    assert torch.equal(module(x), fake_quantize(x, *spread, 3))


def test_other_bits_keep_their_own_grid():
    """Relaxed steps have bits that nothing was learned for."""
    sizes = {
        "x.input": StepSizes(
            scale=np.array([7.0, 7.0, 9.0], np.float32),
            zero=np.array([3, 3, 4], np.int32),
            bits=np.array([3, 3, 3], np.uint8),
        )
    }
    bank = dataclasses.replace(
        bank_of([1.0, 2.0, 3.0], [1, 1, 1], 3, slot=(0, 1, 2)), bits=np.array([3, 10, 3], np.uint8)
    )
    plan = dataclasses.replace(make("SD").plan, layers=(), attention=(bank,))
    (made,) = with_step_sizes(plan, sizes).attention
    assert made.scale.tolist() == [7.0, 2.0, 9.0] and made.zero.tolist() == [3, 1, 4]
    assert made.bits.tolist() == [3, 10, 3]


def test_files_keep_them(outcome):
    _, _, learned, _, _ = outcome
    again = from_arrays(*to_arrays(join_blocks([learned])))
    assert isinstance(again, LearnedBlocks) and again.stepped == learned.stepped
    for label, own in learned.sizes.items():
        kept = again.sizes[label]
        assert all(
            np.array_equal(getattr(kept, p), getattr(own, p)) for p in ("scale", "zero", "bits")
        )


def test_training_that_breaks_keeps_the_last_good_state(monkeypatch):
    subject = make("SD")
    plan, whole = coarse(subject), training.distance
    calls = []

    def breaks(made, wanted, power=2):
        calls.append(power)
        return whole(made, wanted, power) * (float("nan") if calls.count(2.4) == 28 else 1.0)

    monkeypatch.setattr(training, "distance", breaks)
    learned, _, _ = learn(subject, plan)
    assert learned.note == f"{FIRST}: step sizes stopped at iteration 28 of 60, the loss was nan."
    assert all(np.isfinite(own.scale).all() for own in learned.sizes.values())
    assert learned.stepped[FIRST] < learned.after[FIRST]
    shorter = []
    monkeypatch.setattr(training, "distance", lambda *given: shorter.append(1) or whole(*given))
    monkeypatch.setattr(
        training.StepTraining, "finished", lambda self: self.scales.finish(self.at_25)
    )
    monkeypatch.setattr(training.StepTraining, "update", noting(training.StepTraining.update))
    at_25, _, _ = learn(subject, plan)
    for label, own in learned.sizes.items():
        assert np.array_equal(own.scale, at_25.sizes[label].scale)


def noting(update):
    def noted(self):
        update(self)
        if len(self.losses) == 25:
            self.at_25 = self.state()

    return noted


def test_banks_of_other_blocks_are_left_alone():
    subject = make("SD")
    quantized_model = training_model(subject.model, subject.adapter, subject.plan, {})
    for block in ("down_blocks.0", "mid_block"):
        found = banks_of(quantized_model, block, frozenset())
        assert found and all(label.startswith(f"{block}.") for label in found)
    name = next(iter(banks_of(quantized_model, FIRST, frozenset()).values())).site.name
    assert f"{name}.input" not in banks_of(quantized_model, FIRST, frozenset([name]))


def test_a_recipe_cannot_ask_for_step_sizes_and_progressive_ranges():
    with pytest.raises(DmqError, match="would learn anew the step sizes that progressive sets"):
        Recipe(reconstruction=BlockReconstruction(steps=5), progressive=Progressive())
