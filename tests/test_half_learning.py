"""Learning through models in half precision on the CPU: what is learned is float32, and about
what float32 gives.
"""

import dataclasses

import numpy as np
import pytest
import torch

from dmq.calibration import search_state
from dmq.calibration.active import _Search, search_groups
from dmq.calibration.progressive import calibrate_progressively
from dmq.capture.activations import capture_activations
from dmq.capture.moments import second_moments, spread_calls
from dmq.capture.trajectories import record_trajectory
from dmq.models import recompute
from dmq.models.loading import describe
from dmq.models.tiny import tiny_sd
from dmq.numerics.backward import backward
from dmq.quantizers.plan import make_plan, site_bits
from dmq.recipe import (
    Activations,
    BlockReconstruction,
    Calibration,
    Gptq,
    LearnedGroups,
    LowRank,
    MinMax,
    PerStep,
    Progressive,
    Recipe,
    Sampling,
    SharedRange,
    Tiar,
    Weights,
)
from dmq.reconstruction import temporal
from dmq.reconstruction.block import find_trained_layers, reconstruct_block, training_model
from dmq.reconstruction.from_inputs import channel_inputs, learn_weight
from dmq.reconstruction.training import RoundingTraining, StepTraining
from dmq.trajectory.errors import ErrorTable
from dmq.trajectory.grouping import group_timesteps


STEPS = 3
HALF = [torch.bfloat16, torch.float16]


def finish(work):
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def _cast(pipe, dtype):
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            torch.nn.Module.to(
                part, dtype
            )  # diffusers' own warns of parts to be kept in float32, none here
    return pipe


class Subject:
    """A tiny model in some precision with its statistics, recorded calls and a plan for W4A6."""

    def __init__(self, dtype):
        sampling = Sampling(steps=STEPS, guidance=2.0)
        calibration = Calibration(samples=2, batch=2, prompts=("cat",))
        self.loaded = describe("tiny", _cast(tiny_sd(), dtype))
        # Statistics in half precision are tested with capture; here all models start from the same.
        seen = finish(capture_activations(describe("tiny", tiny_sd()), sampling, calibration)).stats
        self.stats = dataclasses.replace(seen, fingerprint=self.loaded.info.fingerprint)
        self.trajectory, _ = record_trajectory(
            self.loaded, prompts=["cat"] * 2, seeds=[0, 1], sampling=sampling
        )
        self.recipe = Recipe(
            model="tiny",
            sampling=sampling,
            calibration=calibration,
            weights=Weights(bits=4, range=MinMax()),
            activations=Activations(bits=6, attention_bits=6),
        )
        self.model, self.adapter = self.loaded.denoiser, self.loaded.adapter

    def plan(self, grouping):
        recipe = dataclasses.replace(self.recipe, grouping=grouping)
        table = ErrorTable(
            self.stats, recipe.activations, site_bits(self.loaded.info, recipe, self.stats)
        )
        errors = table.errors(group_timesteps(grouping, table))
        return recipe, make_plan(self.loaded.info, recipe, self.stats, errors), errors


@pytest.fixture(scope="module")
def plain():
    return Subject(torch.float32)


@pytest.fixture(scope="module", params=HALF, ids=str)
def half(request):
    return Subject(request.param)


def searched(subject, **changes):
    spec = LearnedGroups(count=2, trajectories=2, **{"iterations": 6, "refits": 1} | changes)
    return finish(
        search_groups(
            subject.loaded, subject.recipe, spec, subject.stats, trajectory=subject.trajectory
        )
    )


def test_groups_are_learned(half, plain):
    found, right = searched(half), searched(plain)
    assert not found.note and np.isfinite(found.refitted).all() and found.low.dtype == np.float32
    assert np.allclose(np.log(found.refitted.mean()), np.log(right.refitted.mean()), atol=0.3)


def gradients_of(subject):
    """What an iteration of the search finds for the ranges, without taking the step."""
    search = _Search(
        subject.loaded, subject.recipe, LearnedGroups(count=2, trajectories=2), subject.stats
    )
    search.trajectory = subject.trajectory
    search.divide()
    learned = search.candidates
    optimiser = torch.optim.SGD([*learned.rows, learned.shift, learned.stretch], lr=0.0)
    search._iterate(1, optimiser, learned.state(), 1.0)
    assert not search.note
    return torch.cat(
        [learned.shift.grad.flatten(), learned.rows[1].grad.flatten()]
    ), search.forgotten


def test_gradients_of_ranges_survive_half_precision(half, plain):
    found, right = gradients_of(half)[0], gradients_of(plain)[0]
    assert found.dtype is torch.float32 and found.isfinite().all()
    assert torch.nn.functional.cosine_similarity(found, right, dim=0) > 0.8
    assert 0.5 < found.norm() / right.norm() < 2


def test_groups_are_learned_alike_where_memory_is_short(plain, monkeypatch):
    right, forgotten = gradients_of(plain)
    assert forgotten == ()
    monkeypatch.setattr(recompute, "free_memory", lambda device: 10**4)
    found, forgotten = gradients_of(plain)
    assert len(forgotten) >= len(plain.adapter.blocks(plain.model))
    torch.testing.assert_close(found, right)
    assert search_state.forget_and_recompute is recompute.forget_and_recompute


def learn_time(subject, iterations=40):
    block = subject.loaded.info.temporal
    formats = dict.fromkeys(block.layers, Weights(bits=3, range=MinMax()))
    t = torch.tensor(subject.trajectory.timesteps)
    work = temporal.learn_rounding(
        subject.model,
        subject.adapter,
        block,
        formats,
        Tiar(iterations=iterations, rate=0.03),
        t,
        {},
    )
    return finish(work)


def test_the_time_embedding_is_learned(half, plain):
    found, right = learn_time(half), learn_time(plain)
    assert not found.note and found.losses[-5:].mean() < 0.8 * found.losses[0]
    assert np.allclose(found.losses[0], right.losses[0], rtol=0.3)
    same = [
        (found.codes[name].codes == right.codes[name].codes).float().mean() for name in right.codes
    ]
    assert np.mean(same) > 0.8


def learn_block(subject, monkeypatch=None):
    _, plan, _ = subject.plan(SharedRange())
    spec = BlockReconstruction(iterations=30, steps=10, rate=0.03, batch=2, images=2)
    name, formats = next(
        iter(find_trained_layers(subject.model, subject.adapter, plan, spec).items())
    )
    quantized_model = training_model(subject.model, subject.adapter, plan, {})
    return finish(
        reconstruct_block(
            subject.model, quantized_model, name, formats, spec, subject.trajectory, np.ones(STEPS)
        )
    ), name


def test_blocks_and_their_step_sizes_are_learned(half, plain):
    (found, name), (right, _) = learn_block(half), learn_block(plain)
    assert not found.note and found.after[name] < found.before[name]
    assert np.allclose(found.before[name], right.before[name], rtol=0.3)
    assert found.stepped[name] < 1.2 * found.after[name]
    assert all(size.scale.dtype == np.float32 for size in found.sizes.values())


def test_blocks_are_learned_alike_where_memory_is_short(plain, monkeypatch):
    right, name = learn_block(plain)
    monkeypatch.setattr(recompute, "free_memory", lambda device: 10**4)
    short = []
    for kind in (RoundingTraining, StepTraining):
        own = kind._forgotten
        noted = lambda self, batch, own=own: short.append(own(self, batch)) or short[-1]  # noqa: E731
        monkeypatch.setattr(kind, "_forgotten", noted)
    found, _ = learn_block(plain)
    assert len(short) == 40 and all(names and name not in names for names in short)
    np.testing.assert_allclose(found.losses[name], right.losses[name], rtol=1e-4)
    assert all(
        torch.equal(found.codes[layer].codes, right.codes[layer].codes) for layer in right.codes
    )


@pytest.mark.parametrize("form", [Gptq(), LowRank(rank=2)], ids=["GPTQ", "low rank"])
def test_weights_are_learned_from_their_inputs(half, plain, form):
    found = []
    for subject in (half, plain):
        layer = next(x for x in subject.loaded.info.layers if x.role == "feedforward")
        calls = spread_calls(subject.trajectory, STEPS, 2, 2)
        moments = finish(second_moments(subject.model, subject.trajectory, calls, [layer.name]))[
            layer.name
        ]
        assert all(part.dtype is torch.float32 for part in moments.parts)
        weight, maxima = (
            subject.model.get_submodule(layer.name).weight,
            channel_inputs(subject.stats, layer.name),
        )
        spec = Weights(bits=3, format=form)
        found.append(
            learn_weight(weight, spec, 0, moments, maxima, Activations(bits=6, dynamic="token"))
        )
    assert found[0].after <= found[0].before
    assert np.allclose(found[0].after, found[1].after, rtol=0.2)


def test_ranges_follow_the_quantized_trajectory(half, plain):
    made = []
    for subject in (half, plain):
        recipe, plan, errors = subject.plan(PerStep())
        recipe = dataclasses.replace(recipe, progressive=Progressive())
        made.append(
            finish(calibrate_progressively(subject.loaded, recipe, plan, (subject.stats, errors)))
        )
    found, right = made
    assert (
        np.isfinite(found.low).all()
        and np.isfinite(found.high).all()
        and found.calls == right.calls
    )
    width = right.high - right.low
    assert np.median(np.abs(found.high - right.high) / np.maximum(width, 1e-6)) < 0.1


def test_a_loss_is_scaled_on_its_way_back_through_float16():
    x = torch.linspace(1, 2, 2**16, dtype=torch.float16).requires_grad_(True)
    weight = torch.nn.Parameter(torch.tensor(1.0))

    # a mean over many small numbers, each of whose gradients is below what float16 holds
    def loss():
        return ((x * weight.half()).float() * 1e-3).mean()

    lost = torch.autograd.grad(loss(), weight)[0]
    backward(loss(), [weight], torch.float16)
    assert lost == 0 and torch.isclose(weight.grad, torch.tensor(1.5e-3), rtol=1e-2)
    backward(
        loss() * 2e6, [weight], torch.float16
    )  # too large for the first scale: done with the next
    assert torch.isclose(weight.grad, torch.tensor(3e3), rtol=1e-2)
    backward(loss(), [weight], torch.float32)
    assert weight.grad == lost
