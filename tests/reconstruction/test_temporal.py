"""TIAR on tiny models of several families: what is trained, on which grid, and what happens when
it fails.
"""

from functools import cache
from types import SimpleNamespace

import pytest
import torch

from dmq.models.borrow import borrow, replace
from dmq.models.temporal import temporal_features
from dmq.models.tiny import tiny_call, tiny_denoiser
from dmq.quantizers.layers import FakeQuantLinear
from dmq.quantizers.weights import quantize_weight
from dmq.recipe import MinMax, PerGroup, Tiar, Weights
from dmq.reconstruction import temporal
from dmq.reconstruction.adaround import Rounding, SoftLinear
from dmq.reconstruction.temporal import learn_rounding
from tests.models.test_temporal import adapter_of


W3 = Weights(bits=3, range=MinMax())


@cache
def make(family):
    model = tiny_denoiser(family)
    adapter = adapter_of(model)
    block = adapter.temporal(model)
    calls = [tiny_call(model, t, rows=2, seed=t) for t in (901, 501, 101)]
    given = [adapter.conditioning((), call) for call in calls]
    return SimpleNamespace(
        model=model,
        adapter=adapter,
        block=block,
        formats=dict.fromkeys(block.layers, W3),
        t=torch.cat([call["timestep"] for call in calls]),
        given={name: torch.cat([g[name] for g in given]) for name in block.arguments},
        before={name: x.clone() for name, x in model.state_dict().items()},
    )


@pytest.fixture(params=["SD", "Hunyuan-DiT", "SDXL"])
def subject(request):
    return make(request.param)


@cache
def learned_once(family):
    return learn(make(family))


@pytest.fixture
def outcome(request, subject):
    return learned_once(request.node.callspec.params["subject"])


def learn(subject, **changes):
    spec = Tiar(**{"iterations": 75, "rate": 0.03} | changes)
    work = learn_rounding(
        subject.model,
        subject.adapter,
        subject.block,
        subject.formats,
        spec,
        subject.t,
        subject.given,
    )
    seen = []
    while True:
        try:
            seen.append(next(work))
        except StopIteration as end:
            return seen, end.value


@torch.no_grad()
def error(subject, codes):
    """The squared error of the features of a copy with these weights."""
    quantized_model = borrow(subject.model)
    for name, code in codes.items():
        layer = subject.model.get_submodule(name)
        weight = torch.nn.Parameter(code.dequantize(), requires_grad=False)
        replace(
            quantized_model, name, FakeQuantLinear(layer, weight, layer.bias, torch.nn.Identity())
        )
    ask = subject.adapter, subject.block, subject.t, subject.given
    pairs = zip(
        temporal_features(quantized_model, *ask),
        temporal_features(subject.model, *ask),
        strict=True,
    )
    return float(sum((a - b).square().sum(1).mean() for a, b in pairs))


def nearest(subject):
    weights = {name: subject.model.get_submodule(name).weight for name in subject.formats}
    return {name: quantize_weight(weight, W3) for name, weight in weights.items()}


def test_learned_rounding_errs_less_than_nearest(subject, outcome):
    """Hard codes against hard codes, on all rows."""
    seen, learned = outcome
    assert error(subject, learned.codes) < 0.85 * error(subject, nearest(subject))
    assert [done for done, _ in seen] == [25, 50, 75] and len(learned.losses) == 75
    assert learned.note == ""


def test_scale_and_zero_are_those_of_nearest_rounding_and_codes_are_next_to_its(subject, outcome):
    _, learned = outcome
    changed = 0
    for name, plain in nearest(subject).items():
        ours = learned.codes[name]
        assert torch.equal(ours.scale, plain.scale) and torch.equal(ours.zero, plain.zero)
        assert ours.codes.dtype == plain.codes.dtype and ours.codes.max() <= 7
        difference = (ours.codes.int() - plain.codes.int()).abs()
        assert difference.max() <= 1
        changed += int(difference.sum())
    assert changed > 0


def test_the_model_is_untouched_and_all_its_layers_were_trained(subject, outcome):
    _, learned = outcome
    assert all(
        torch.equal(x, subject.before[name]) for name, x in subject.model.state_dict().items()
    )
    plain = nearest(subject)
    same = [
        name for name, ours in learned.codes.items() if torch.equal(ours.codes, plain[name].codes)
    ]
    assert same == []


@pytest.mark.parametrize("subject", ["SD"], indirect=True)
def test_before_training_the_soft_weights_are_the_float_ones(subject):
    name = subject.block.layers[1]
    layer = subject.model.get_submodule(name)
    for spec in (
        Weights(bits=8, range=MinMax()),
        Weights(bits=4, range=MinMax(), granularity=PerGroup(size=7)),
    ):
        rounding = Rounding(layer.weight, spec)
        soft = SoftLinear(layer.bias, rounding)
        low, high = ((code - rounding.zero) * rounding.scale for code in (0, 2**spec.bits - 1))
        clipped = (
            layer.weight.reshape(rounding.floor.shape).clamp(low, high).reshape(layer.weight.shape)
        )
        assert torch.allclose(soft.weight, clipped, atol=1e-5)
        assert torch.equal(rounding.hardened().codes, rounding.nearest.codes)


@pytest.mark.parametrize("subject", ["SD"], indirect=True)
def test_few_rows_at_a_time_and_the_seed(subject):
    _, one = learn(subject, batch=2, iterations=20)
    _, again = learn(subject, batch=2, iterations=20)
    _, other = learn(subject, batch=2, iterations=20, seed=1)
    names = list(one.codes)
    assert all(torch.equal(one.codes[n].codes, again.codes[n].codes) for n in names)
    assert any(not torch.equal(one.codes[n].codes, other.codes[n].codes) for n in names)


@pytest.mark.parametrize("subject", ["SD"], indirect=True)
def test_training_that_breaks_keeps_the_last_good_state(subject, monkeypatch):
    """The penalty is no number from iteration 60 on: what was there after 50 must come back."""
    states, keep = [], temporal.state_of
    monkeypatch.setattr(
        temporal, "state_of", lambda roundings: states.append(keep(roundings)) or states[-1]
    )
    monkeypatch.setattr(temporal, "beta_at", lambda progress: None if progress < 60 / 75 else 2.0)
    monkeypatch.setattr(
        temporal, "measure_indecision", lambda roundings, beta: torch.tensor(float("nan"))
    )
    seen, learned = learn(subject)
    assert (
        learned.note == "stopped at iteration 61 of 75: the loss was nan."
        and len(learned.losses) == 61
    )
    assert [done for done, _ in seen] == [25, 50] and len(states) == 3
    for name, v in states[-1].items():
        rounding = Rounding(subject.model.get_submodule(name).weight, W3)
        rounding.v.data = v
        assert torch.equal(learned.codes[name].codes, rounding.hardened().codes)


@pytest.mark.parametrize("subject", ["SD"], indirect=True)
def test_it_can_be_closed_at_any_time_and_leaves_the_threads_alone(subject):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        work = learn_rounding(
            subject.model,
            subject.adapter,
            subject.block,
            subject.formats,
            Tiar(iterations=500),
            subject.t,
            {},
        )
        assert next(work) == (25, 500) and torch.get_num_threads() == 2
        work.close()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
