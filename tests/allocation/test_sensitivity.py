"""Costs of single weights against plain repetitions, exact derivatives and direct products, on
tiny real models.
"""

import copy
import dataclasses
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, spearmanr

from dmq.allocation.changes import Changes, code_bytes, sweeps
from dmq.allocation.sensitivity import (
    agreement,
    exchange_weights,
    local_changes,
    new_weight,
    noise_change,
    probe_changes,
    steps_between,
    summary,
    watch,
    weight_error,
)
from dmq.capture.replay import repeat
from dmq.capture.trajectories import record_trajectory
from dmq.errors import DmqError
from dmq.models import recompute
from dmq.models.borrow import borrow
from dmq.models.loading import describe
from dmq.models.tiny import tiny_ddpm, tiny_sd
from dmq.models.tiny_pipelines import tiny_pipeline
from dmq.quantizers.weights import quantize_weight
from dmq.recipe import KMeans, LowRank, MinMax, Sampling, Uaq, Weights, parse_format
from dmq.results import Layer, SensitivityTable


pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # in diffusers

STEPS = 5
SPEC = Weights(bits=3, range=MinMax())
KINDS = {"sd": tiny_sd, "ddpm": tiny_ddpm, "dit": lambda: tiny_pipeline("DiT")}


@cache
def recorded(kind):
    """A tiny model and the calls of three images."""
    loaded = describe(f"tiny-{kind}", KINDS[kind]())
    prompts = ["0", "1", "2"] if kind == "dit" else ["a", "b", "c"]
    trajectory, _ = record_trajectory(
        loaded, prompts=prompts, seeds=[0, 1, 2], sampling=Sampling(steps=STEPS, guidance=2.0)
    )
    return loaded, trajectory


@pytest.fixture(params=KINDS)
def subject(request):
    return recorded(request.param)


def layers_of(loaded):
    """The first, the last, and three layers between: linear ones and convolutions, some of the
    time embedding.
    """
    names = [layer.name for layer in loaded.info.layers]
    return [names[0], *names[len(names) // 4 : -1 : len(names) // 4][:3], names[-1]]


def plain_answers(loaded, trajectory, i, model=None):
    """What the model answers at step i, called as diffusers calls it: all rows, arguments as
    recorded.
    """
    (n,) = np.flatnonzero(trajectory.step == i)
    given = {
        name: torch.from_numpy(trajectory.conditioning[key])
        for name, key in trajectory.arguments[n].items()
    }
    x, t = (
        torch.from_numpy(trajectory.inputs[n]),
        torch.tensor([trajectory.timesteps[i]] * len(trajectory.inputs[n])),
    )
    with torch.no_grad():
        return (model or loaded.denoiser)(x, t, **given)[0].double()


def deltas_of(loaded, names, *specs):
    weights = {name: loaded.denoiser.get_submodule(name).weight for name in names}
    return {
        name: torch.stack([quantize_weight(w, spec).dequantize() - w.detach() for spec in specs])
        for name, w in weights.items()
    }


# --- what is looked at ----------------------------------------------------------------------------


def test_steps_are_spread_evenly_and_never_more_than_there_are():
    for steps in range(1, 30):
        for count in range(1, 35):
            found = steps_between(steps, count)
            assert len(found) == min(count, steps) and found == sorted(set(found))
            assert 0 <= found[0] and found[-1] < steps
            gaps = np.diff([-1 - found[0], *found, 2 * steps - 1 - found[-1]])
            assert gaps.max() - gaps.min() <= 2


def test_what_is_watched_are_the_first_images_with_both_halves(subject):
    loaded, trajectory = subject
    watched = watch(loaded.denoiser, trajectory, 2, 2)
    assert watched.timesteps == tuple(trajectory.timesteps[i] for i in (1, 3))
    for at, i in enumerate((1, 3)):
        answers = plain_answers(loaded, trajectory, i).square().flatten(1).sum(1).numpy()
        guided = len(answers) == 6
        expected = answers[:2] + answers[3:5] if guided else answers[:2]
        assert np.allclose(watched.power[at], expected, rtol=1e-5)


def test_too_few_images_and_numbers_that_are_none_are_told():
    loaded, trajectory = recorded("sd")
    with pytest.raises(DmqError, match="only 3 images were recorded, 4 are to be looked at"):
        watch(loaded.denoiser, trajectory, 2, 4)
    broken = borrow(loaded.denoiser)
    name = loaded.info.layers[3].name
    weight = broken.get_submodule(name).weight.detach().clone()
    weight[0] = float("nan")
    broken.get_submodule(name).weight = torch.nn.Parameter(weight, requires_grad=False)
    with pytest.raises(DmqError, match=f"^{name}.weight: not all of it are finite"):
        watch(broken, trajectory, 2, 2)


# --- measured -------------------------------------------------------------------------------------


def test_the_noise_error_is_that_of_a_copy_with_the_other_weight(subject):
    loaded, trajectory = subject
    watched = watch(loaded.denoiser, trajectory, 2, 3)
    for name in layers_of(loaded):
        weight = loaded.denoiser.get_submodule(name).weight
        made = new_weight(weight, SPEC)
        changed = copy.deepcopy(loaded.denoiser)
        with torch.no_grad():
            changed.get_submodule(name).weight.copy_(made)
        found = noise_change(watched, {name: made})
        for at, i in enumerate((1, 3)):
            right = plain_answers(loaded, trajectory, i)
            wrong = (
                (plain_answers(loaded, trajectory, i, changed) - right).square().flatten(1).sum(1)
            )
            by_image = wrong.reshape(-1, 3).sum(0).numpy()
            assert np.allclose(
                found[at], by_image / (right.square().sum().item() / 3), rtol=1e-3, atol=1e-10
            ), name


def test_measuring_leaves_the_model_as_it_was():
    loaded, trajectory = recorded("sd")
    before = {name: x.clone() for name, x in loaded.denoiser.state_dict().items()}
    watched = watch(loaded.denoiser, trajectory, 1, 1)
    own = {name: id(p) for name, p in watched.model.named_parameters()}
    name = layers_of(loaded)[2]
    noise_change(watched, {name: torch.zeros_like(loaded.denoiser.get_submodule(name).weight)})
    with pytest.raises(KeyboardInterrupt), exchange_weights(watched.model, {name: torch.zeros(1)}):
        raise KeyboardInterrupt
    probe_changes(watched, deltas_of(loaded, [name], SPEC), 1, 0)
    local_changes(watched, deltas_of(loaded, [name], SPEC))
    assert {name: id(p) for name, p in watched.model.named_parameters()} == own
    assert not any(
        p.requires_grad for p in (*watched.model.parameters(), *loaded.denoiser.parameters())
    )
    assert not any(module._forward_hooks for module in watched.model.modules())
    assert all(torch.equal(x, before[name]) for name, x in loaded.denoiser.state_dict().items())


def test_a_weight_that_no_grid_can_harm_costs_nothing_in_any_way():
    loaded, trajectory = recorded("sd")
    model, name = borrow(loaded.denoiser), layers_of(loaded)[1]
    zero = torch.zeros_like(model.get_submodule(name).weight)
    model.get_submodule(name).weight = torch.nn.Parameter(zero, requires_grad=False)
    model.get_submodule(name).bias = None  # so that its output has no power either
    made = new_weight(zero, SPEC)
    watched, delta = watch(model, trajectory, 2, 2), {name: (made - zero)[None]}
    assert weight_error(zero, made) == 0.0
    assert not noise_change(watched, {name: made}).any()
    assert not probe_changes(watched, delta, 2, 0).any()
    assert not local_changes(watched, delta).any()


def test_an_answer_that_is_not_finite_costs_infinitely_much():
    loaded, trajectory = recorded("ddpm")
    watched, name = watch(loaded.denoiser, trajectory, 2, 2), layers_of(loaded)[-1]
    huge = torch.full_like(loaded.denoiser.get_submodule(name).weight, 1e38)
    values = noise_change(watched, {name: huge})
    assert np.isinf(values).all()
    assert np.isinf(summary(values)[0])


# --- estimated ------------------------------------------------------------------------------------


def exact_first_order(loaded, trajectory, i, name, delta):
    """|J dW|^2 of the first two images at step i, by central differences in double precision."""
    (n,) = np.flatnonzero(trajectory.step == i)
    model = copy.deepcopy(loaded.denoiser).double()
    given = {
        key: torch.from_numpy(trajectory.conditioning[k])
        for key, k in trajectory.arguments[n].items()
    }
    given = {key: x.double() if x.is_floating_point() else x for key, x in given.items()}
    x, t = (
        torch.from_numpy(trajectory.inputs[n]).double(),
        [trajectory.timesteps[i]] * len(trajectory.inputs[n]),
    )
    layer, ends = model.get_submodule(name), []
    with torch.no_grad():
        weight = layer.weight.clone()
        for h in (1e-3, -1e-3):
            layer.weight.copy_(weight + h * delta.double())
            ends.append(model(x, torch.tensor(t).double(), **given)[0])
    moved = ((ends[0] - ends[1]) / 2e-3).square().flatten(1).sum(1)
    return moved.reshape(-1, 3)[:, :2].sum().item()


def test_probes_estimate_the_exact_first_order_change(subject):
    loaded, trajectory = subject
    names, probes = layers_of(loaded)[1:], 120
    watched = watch(loaded.denoiser, trajectory, 2, 2)
    deltas = deltas_of(loaded, names, SPEC, dataclasses.replace(SPEC, bits=5))
    found = probe_changes(watched, deltas, probes, seed=0)
    assert found.shape == (len(names), 2, 2, probes)
    exact = np.array(
        [
            [
                [exact_first_order(loaded, trajectory, i, name, deltas[name][c]) for i in (1, 3)]
                for c in range(2)
            ]
            for name in names
        ]
    ) / watched.power.sum(1)
    ratio = found.mean(-1) / exact
    assert np.abs(ratio - 1).max() < 5 * np.sqrt(2 / probes)
    assert abs(ratio.mean() - 1) < 0.2
    # (g . dW)^2 is chi^2 with one degree of freedom: its variance is twice its squared mean.
    assert 1.2 < (found.var(-1) / exact**2).mean() < 3.2


def test_the_estimate_of_small_changes_is_what_is_measured(subject):
    loaded, trajectory = subject
    names = layers_of(loaded)[1:]
    watched = watch(loaded.denoiser, trajectory, 2, 2)
    small = {name: delta / 20 for name, delta in deltas_of(loaded, names, SPEC).items()}
    estimated = probe_changes(watched, small, 120, seed=1).mean((-1, -2))[:, 0]
    measured = []
    for name in names:
        weight = loaded.denoiser.get_submodule(name).weight.detach()
        measured.append(noise_change(watched, {name: weight + small[name][0]}).mean())
    assert np.abs(estimated / measured - 1).max() < 0.6
    assert abs((estimated / measured).mean() - 1) < 0.2


def test_probes_are_the_same_however_layers_are_grouped(subject):
    loaded, trajectory = subject
    names = layers_of(loaded)
    watched = watch(loaded.denoiser, trajectory, 2, 2)
    together = probe_changes(watched, deltas_of(loaded, names, SPEC), 3, seed=5)
    for n, name in enumerate(names):
        alone = probe_changes(watched, deltas_of(loaded, [name], SPEC), 3, seed=5)
        assert np.allclose(alone[0], together[n], rtol=1e-3, atol=1e-12)
    assert not np.allclose(
        together, probe_changes(watched, deltas_of(loaded, names, SPEC), 3, seed=6)
    )


def plain_probe_changes(watched, deltas, probes, seed):
    """All gradients at once, by autograd's own function: the plain way."""
    generator, names = torch.Generator().manual_seed(seed), list(deltas)
    weights = [watched.model.get_submodule(name).weight for name in names]
    dots = np.zeros((len(names), len(deltas[names[0]]), len(watched.timesteps), probes))
    for weight in weights:
        weight.requires_grad_(True)
    for look in watched.looks:
        answer = repeat(watched.model, watched.trajectory, look.call, look.rows)
        for k in range(probes):
            v = torch.randn(answer.shape, generator=generator)
            slopes = torch.autograd.grad(
                (v * answer).sum(), weights, retain_graph=True, allow_unused=True
            )
            for n, (name, slope) in enumerate(zip(names, slopes, strict=True)):
                dots[n, :, look.step, k] += (
                    deltas[name].flatten(1).double() @ slope.flatten().double()
                ).numpy()
    for weight in weights:
        weight.requires_grad_(False)
    return dots**2 / watched.power.sum(1)[:, None]


class Lonely(dict):
    """Changes that may be asked for only while no weight has a gradient: each is gone before the
    next one comes.
    """

    def __init__(self, model, deltas):
        super().__init__(deltas)
        self.model, self.asked = model, 0

    def __getitem__(self, name):
        self.asked += 1
        assert all(p.grad is None for p in self.model.parameters())
        return super().__getitem__(name)


def test_gradients_layer_by_layer_give_what_all_of_them_at_once_do(subject):
    loaded, trajectory = subject
    watched = watch(loaded.denoiser, trajectory, 3, 2)
    names = [layer.name for layer in loaded.info.layers if layer.macs]
    deltas = Lonely(
        watched.model, deltas_of(loaded, names, SPEC, dataclasses.replace(SPEC, bits=5))
    )
    found = probe_changes(watched, deltas, 3, seed=4)
    assert deltas.asked > len(names) * 9
    np.testing.assert_allclose(
        found, plain_probe_changes(watched, deltas, 3, seed=4), rtol=1e-3, atol=1e-9
    )
    assert (
        np.abs(found / plain_probe_changes(watched, deltas, 3, seed=4) - 1)[
            found > found.mean()
        ].max()
        < 1e-4
    )
    for k in range(3):  # a step by itself has the same directions
        np.testing.assert_array_equal(probe_changes(watched, deltas, 3, 4, [k]), found[:, :, [k]])


def test_gradients_of_a_model_that_forgets_its_activations_are_the_same(subject, monkeypatch):
    loaded, trajectory = subject
    names = layers_of(loaded)
    blocks = loaded.adapter.blocks(loaded.denoiser)
    monkeypatch.setattr(recompute, "free_memory", lambda device: 10**12)
    plain = watch(loaded.denoiser, trajectory, 2, 2, blocks)
    monkeypatch.setattr(recompute, "free_memory", lambda device: 10**4)
    short = watch(loaded.denoiser, trajectory, 2, 2, blocks)
    assert plain.forgotten == () and len(short.forgotten) >= len(blocks)
    found = [
        probe_changes(watched, deltas_of(loaded, names, SPEC), 2, seed=0)
        for watched in (plain, short)
    ]
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_a_weight_of_two_layers_counts_in_both():
    loaded, trajectory = recorded("sd")
    model = borrow(loaded.denoiser)
    first, second = (f"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_{x}" for x in "qk")
    model.get_submodule(second).weight = model.get_submodule(first).weight
    watched = watch(model, trajectory, 2, 2)
    deltas = deltas_of(loaded, [first], SPEC)
    both = probe_changes(watched, {first: deltas[first], second: 2 * deltas[first]}, 2, 0)
    np.testing.assert_allclose(both[1], 4 * both[0], rtol=1e-4)
    np.testing.assert_allclose(both[0], plain_probe_changes(watched, deltas, 2, 0)[0], rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_ranks_layers_as_single_precision_does(subject, dtype):
    loaded, trajectory = subject
    names = [layer.name for layer in loaded.info.layers if layer.macs]
    specs, found = (SPEC, dataclasses.replace(SPEC, bits=4)), []
    for model in (loaded.denoiser, borrow(loaded.denoiser).to(dtype)):
        watched = watch(model, trajectory, 2, 2)
        codes = {
            name: [quantize_weight(model.get_submodule(name).weight, spec) for spec in specs]
            for name in names
        }
        deltas = Changes(model, codes)
        costs = [
            summary(probe_changes(watched, deltas, 4, 0))[0],
            summary(local_changes(watched, deltas))[0],
        ]
        made = new_weight(model.get_submodule(names[-1]).weight, SPEC)
        assert made.dtype is model.get_submodule(names[-1]).weight.dtype
        found.append([*costs, noise_change(watched, {names[-1]: made}).mean(keepdims=True)])
    for right, half in zip(*found, strict=True):
        assert np.isfinite(half).all() and np.allclose(
            half, right, rtol=0.5, atol=0.05 * right.max()
        )
        assert right.size < 9 or spearmanr(right.ravel(), half.ravel()).statistic > 0.95


def test_an_estimate_that_is_not_finite_is_infinite():
    loaded, trajectory = recorded("ddpm")
    watched, name = watch(loaded.denoiser, trajectory, 1, 1), layers_of(loaded)[2]
    delta = torch.full((1, *loaded.denoiser.get_submodule(name).weight.shape), torch.inf)
    assert np.isinf(probe_changes(watched, {name: delta}, 1, 0)).all()


# --- what choices change --------------------------------------------------------------------------


def test_changes_are_those_of_the_codes_and_held_as_far_as_there_is_room(subject):
    loaded, _ = subject
    names, specs = (
        layers_of(loaded),
        (SPEC, Weights(bits=4, format=KMeans()), Weights(bits=2, format=LowRank())),
    )
    weights = {name: loaded.denoiser.get_submodule(name).weight for name in names}
    codes = {name: [quantize_weight(w, spec) for spec in specs] for name, w in weights.items()}
    plain = deltas_of(loaded, names, *specs)
    size = 4 * 3 * weights[names[1]].numel()
    for room, held in ((0, []), (size, [names[1]]), (10**9, sorted(names))):
        found = Changes(loaded.denoiser, codes, room)
        assert list(found) == names and len(found) == len(names)
        for name in (names[1], *names):
            assert torch.equal(found[name], plain[name])
        assert sorted(found.made) == held or (
            room == size and sum(x.nbytes for x in found.made.values()) <= size
        )
    assert code_bytes(1000, [4, 8, 9]) > 1000 + 1000 + 4000


def test_layers_are_taken_in_one_sweep_if_they_fit_and_in_few_if_not():
    layers = recorded("sd")[0].info.layers
    assert sweeps(layers, [4, 3], 10**9) == [tuple(layer.name for layer in layers)]
    most = code_bytes(max(layer.num_weights for layer in layers), [4, 3])
    for room in (most, 2 * most, 5 * most):
        runs = sweeps(layers, [4, 3], room)
        assert [name for names in runs for name in names] == [layer.name for layer in layers]
        sizes = [
            sum(code_bytes(layer.num_weights, [4, 3]) for layer in layers if layer.name in names)
            for names in runs
        ]
        assert max(sizes) <= room and len(runs) <= 2 * sum(sizes) / room + 1
    assert sweeps(layers, [4, 3], 1) == [(layer.name,) for layer in layers]


# --- the layer alone ------------------------------------------------------------------------------


def test_the_local_error_is_that_of_the_layers_own_output(subject):
    loaded, trajectory = subject
    names = layers_of(loaded)
    watched = watch(loaded.denoiser, trajectory, STEPS, 3)
    specs = SPEC, dataclasses.replace(SPEC, bits=6)
    found = local_changes(watched, deltas_of(loaded, names, *specs))
    assert found.shape == (len(names), 2, STEPS, 3)
    seen = {}
    hooks = [
        loaded.denoiser.get_submodule(name).register_forward_hook(
            lambda m, args, out, name=name: seen.update({name: args[0]})
        )
        for name in names
    ]
    plain_answers(loaded, trajectory, 2)
    for hook in hooks:
        hook.remove()
    for n, name in enumerate(names):
        layer = loaded.denoiser.get_submodule(name)
        right = layer(seen[name]).double()
        for c, spec in enumerate(specs):
            changed = copy.deepcopy(layer)
            with torch.no_grad():
                changed.weight.copy_(quantize_weight(layer.weight, spec).dequantize())
                wrong = (changed(seen[name]).double() - right).square().sum() / right.square().sum()
            assert np.isclose(found[n, c, 2].mean(), wrong.item(), rtol=1e-2), name
    assert (found[:, 1].mean((-1, -2)) < found[:, 0].mean((-1, -2))).all()


# --- what it comes to -----------------------------------------------------------------------------


def test_the_spread_is_the_standard_error_over_samples():
    values = np.random.default_rng(0).random((3, 2, 4, 6))
    cost, spread, per_step = summary(values)
    assert np.allclose(cost, values.mean((2, 3))) and np.allclose(per_step, values.mean(3))
    assert np.isclose(
        spread[1, 1], np.std([values[1, 1, :, s].mean() for s in range(6)], ddof=1) / np.sqrt(6)
    )
    assert np.isnan(summary(values[..., :1])[1]).all()


def table(cost, layers="abcd", choices=("UAQ-4", "UAQ-2")):
    rows = tuple(
        Layer(name=n, kind="linear", role="", block="", shape=(2, 2), bias=False) for n in layers
    )
    cost = np.asarray(cost, np.float64)
    return SensitivityTable(
        title=f"of {layers}",
        kind="measured",
        unit="",
        model="m",
        fingerprint="0",
        layers=rows,
        choices=tuple(map(parse_format, choices)),
        bytes=np.ones(cost.shape, np.int64),
        cost=cost,
        spread=cost,
    )


def test_agreement_is_over_the_cells_that_both_tables_know():
    rng = np.random.default_rng(0)
    x, y = rng.random((4, 2)), rng.random((4, 3))
    y[0, 0] = np.nan
    a, b = table(x), table(y, "dcbe", ("UAQ-2", "KMC-4", "UAQ-4"))
    pairs = [(x[n, 1 - c], y["dcbe".index("abcd"[n]), 2 * c]) for n in (1, 2, 3) for c in (0, 1)]
    p, q = np.array([pair for pair in pairs if np.isfinite(pair[1])]).T
    found = agreement(a, b)
    assert found.cells == len(p) == 5
    assert np.isclose(found.spearman, spearmanr(p, q).statistic)
    assert np.isclose(found.kendall, kendalltau(p, q).statistic)
    assert agreement(a, a)[:2] == pytest.approx((1, 1)) and agreement(a, table(-x))[
        :2
    ] == pytest.approx((-1, -1))


def test_agreement_of_what_cannot_be_ranked():
    assert np.isnan(
        agreement(table(np.ones((4, 2))), table(np.random.default_rng(0).random((4, 2)))).spearman
    )
    with pytest.raises(
        DmqError, match="'of abcd' and 'of wxyz' have 0 layers and choices in common"
    ):
        agreement(table(np.ones((4, 2))), table(np.ones((4, 2)), "wxyz"))


def test_learned_codes_take_the_place_of_the_nearest_ones():
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    codes = quantize_weight(weight, Weights(bits=2, format=Uaq()))
    assert torch.equal(new_weight(weight, SPEC, 0, codes), codes.dequantize())
    assert torch.equal(new_weight(weight, SPEC), quantize_weight(weight, SPEC).dequantize())
    assert torch.equal(new_weight(weight, SPEC, 2), quantize_weight(weight, SPEC, 2).dequantize())
