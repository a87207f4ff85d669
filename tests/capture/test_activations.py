import dataclasses
import threading

import numpy as np
import pytest
import torch
from diffusers import HeunDiscreteScheduler
from torch import nn

from dmq.capture import activations
from dmq.capture.activations import calibration_images, capture_activations, merge, sites_of
from dmq.capture.watching import watch_modules
from dmq.errors import DmqError
from dmq.models.borrow import borrow
from dmq.models.loading import describe, sample, with_denoiser
from dmq.models.tiny import tiny_ddpm, tiny_sd
from dmq.recipe import Calibration, Sampling
from dmq.results import Site
from tests.capture.helpers import finish, loaded


SAMPLING = Sampling(steps=3, guidance=3.0)
PROMPTS = ("cat", "a dog", "fish")


def captured(kind="sd", samples=4, seed=0, subset=0, batch=2, sampling=SAMPLING, **options):
    calibration = Calibration(samples=samples, seed=seed, batch=batch, prompts=PROMPTS[:1])
    return finish(
        capture_activations(loaded(kind), sampling, calibration, subset=subset, **options)
    )


def naive(kind, samples, batch):
    """Every tensor of every site at every step, kept: the oracle that memory forbids."""
    model = loaded(kind)
    denoiser = borrow(model.denoiser)
    kept, now = {}, []
    denoiser.register_forward_pre_hook(
        lambda m, args, kwargs: now.append(float(args[1])), with_kwargs=True
    )

    def see(site, x):
        x = x if isinstance(x, torch.Tensor) else x.whole()
        kept.setdefault((site, now[-1]), []).append(x.clone())

    with watch_modules(denoiser, sites_of(model, denoiser, True), see):
        for n in range(0, samples, batch):
            seeds = range(n, n + batch)
            prompts = PROMPTS[:1] * batch
            sample(
                with_denoiser(model, denoiser),
                model,
                prompts=prompts,
                seeds=seeds,
                sampling=SAMPLING,
            )
    return kept


@pytest.mark.parametrize("kind", ["sd", "ddpm"])
def test_statistics_are_those_of_all_activations_kept(kind):
    _, (stats, _) = captured(kind)
    kept = naive(kind, 4, 2)
    assert {(site, t) for site, t in kept} == {
        (site, t) for site in stats.sites for t in stats.timesteps
    }
    for s, site in enumerate(stats.sites):
        for i, t in enumerate(stats.timesteps):
            tensors = kept[site, t]
            x = torch.cat([x.reshape(-1) for x in tensors]).double().numpy()
            assert stats.elements[s, i] == x.size == stats.counts[s][i].sum()
            assert (stats.minimum[s, i], stats.maximum[s, i]) == (x.min(), x.max())
            assert stats.counts[s][i].tolist() == np.histogram(x, stats.edges(s))[0].tolist()
            powers = [(x**k).sum() for k in (1, 2, 3, 4)]
            magnitude = [(np.abs(x) ** k).sum() for k in (1, 2, 3, 4)]
            np.testing.assert_allclose(
                stats.power_sums[s, i] / magnitude, np.divide(powers, magnitude), atol=1e-5
            )
            axis = -1 if site.kind == "linear" else 1
            by_channel = torch.cat([x.movedim(axis, 0).flatten(1) for x in tensors], 1)
            assert np.array_equal(stats.channel_min[s][i], by_channel.amin(1).numpy())
            assert np.array_equal(stats.channel_max[s][i], by_channel.amax(1).numpy())


def test_bins_are_as_narrow_as_the_range_allows():
    _, (stats, _) = captured()
    largest = np.maximum(-stats.minimum, stats.maximum).max(1)
    width = 2.0 ** stats.exponent.astype(float)
    assert (largest < 512 * width).all()
    assert (largest >= 256 * width).all()


@pytest.mark.parametrize("subset", [0, 40])
@pytest.mark.parametrize("kind", ["sd", "ddpm"])
def test_two_captures_merge_into_the_one_of_all_images(kind, subset):
    _, (a, _) = captured(kind, seed=0, subset=subset)
    _, (b, _) = captured(kind, seed=4, subset=subset)
    _, (both, _) = captured(kind, samples=8, subset=subset)
    merged = merge(a, b)
    assert merged.samples == both.samples == 8
    for name in ("exponent", "first", "elements", "minimum", "maximum"):
        assert np.array_equal(getattr(merged, name), getattr(both, name)), name
    for name in ("counts", "channel_min", "channel_max"):
        assert all(map(np.array_equal, getattr(merged, name), getattr(both, name))), name
    scale = np.abs(both.power_sums).max() * 1e-12
    np.testing.assert_allclose(merged.power_sums, both.power_sums, rtol=1e-9, atol=scale)


def test_captures_with_other_settings_do_not_merge():
    _, (a, _) = captured(subset=40)
    with pytest.raises(DmqError, match="differ in subset"):
        merge(a, dataclasses.replace(a, subset=41))
    with pytest.raises(DmqError, match="differ in fingerprint"):
        merge(a, dataclasses.replace(a, fingerprint="other"))


def test_a_subset_thins_histograms_and_moments_of_outputs_and_probabilities_only():
    _, (all_of_it, _) = captured(subset=0)
    _, (stats, _) = captured(subset=40)
    rows = 2 * 4  # guidance
    for s, site in enumerate(stats.sites):
        assert (stats.counts[s].sum(1) <= 40 * rows * (1 if site.kind != "linear" else 64)).all()
    assert sum(c.sum() for c in stats.counts) < sum(c.sum() for c in all_of_it.counts) / 4
    probs = np.array([site.point == "probs" for site in stats.sites])
    for name in ("minimum", "maximum"):
        assert np.array_equal(getattr(stats, name)[~probs], getattr(all_of_it, name)[~probs])
        np.testing.assert_allclose(
            getattr(stats, name)[probs], getattr(all_of_it, name)[probs], rtol=1e-5
        )
    inputs = np.array([site.point not in ("output", "probs") for site in stats.sites])
    scale = all_of_it.power_sums[inputs, :, 1::2].max() * 1e-6
    np.testing.assert_allclose(
        stats.power_sums[inputs], all_of_it.power_sums[inputs], rtol=1e-5, atol=scale
    )
    outputs = ~inputs
    assert np.array_equal(
        stats.elements[outputs], [stats.counts[s].sum(1) for s in np.flatnonzero(outputs)]
    )


def test_capturing_again_gives_the_same():
    (_, (a, _)), (_, (b, _)) = captured(subset=40), captured(subset=40)
    assert all(map(np.array_equal, a.counts, b.counts))
    assert np.array_equal(a.power_sums, b.power_sums)


def test_the_float_model_stays_as_it_was():
    model = loaded("sd")
    call = (torch.ones(1, 4, 8, 8), 3, torch.ones(1, 2, 16))
    before = model.denoiser(*call).sample
    captured(subset=40)
    assert torch.equal(model.denoiser(*call).sample, before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.denoiser.modules())


def test_progress_counts_the_steps_of_all_batches():
    seen, _ = captured(subset=40)
    assert seen == [(n, 6) for n in range(1, 7)]


def test_closing_ends_the_run():
    generator = capture_activations(
        loaded("ddpm"), Sampling(steps=200), Calibration(samples=2), subset=40
    )
    next(generator)
    threads = threading.active_count()
    generator.close()
    assert threading.active_count() == threads - 1


@pytest.mark.filterwarnings("ignore:__array__")  # diffusers and NumPy 2
def test_a_sampler_that_calls_twice_at_a_timestep_gives_one_step():
    pipe = tiny_sd()
    pipe.scheduler = HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    model = describe("heun", pipe)
    calibration = Calibration(samples=1, prompts=("cat",))
    _, (stats, _) = finish(capture_activations(model, SAMPLING, calibration, subset=0))
    assert stats.steps == 3
    first = stats.index["conv_in", "input"]
    assert stats.elements[first].tolist() == [2 * 256, 4 * 256, 4 * 256]


def test_sites_come_in_the_order_they_run():
    _, (stats, _) = captured(subset=40)
    at = stats.index
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    order = [
        (f"{name}.to_q", "output"),
        (name, "q"),
        (name, "probs"),
        (f"{name}.to_out.0", "input"),
    ]
    assert sorted(order, key=at.get) == order
    assert stats.sites[at[name, "probs"]].block == "down_blocks.0"
    without = captured(subset=40, attention=False)[1].stats
    assert {site.kind for site in without.sites} == {"linear", "conv"}


def test_activations_that_are_not_finite_are_an_error_that_says_where():
    pipe = tiny_ddpm()
    pipe.unet.conv_in.bias[0] = torch.nan
    calibration = Calibration(samples=1)
    with pytest.raises(DmqError, match=r"conv_in\.output: not finite at step 1 \(t = \d+\)"):
        finish(capture_activations(describe("broken", pipe), SAMPLING, calibration))


def test_a_cache_enabled_after_loading_is_refused():
    from diffusers import PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast

    pipe = tiny_sd()
    model = describe("cached", pipe)
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_block_identifiers=("down_blocks",),
        current_timestep_callback=lambda: 500,
    )
    apply_pyramid_attention_broadcast(pipe.unet, config)
    with pytest.raises(DmqError, match="skips steps"):
        next(capture_activations(model, SAMPLING, Calibration(samples=1)))


def test_prompts_go_round_and_seeds_count_up():
    calibration = Calibration(samples=3, seed=5, prompts=("a", "b"))
    assert calibration_images(loaded("sd"), calibration) == [("a", 5), ("b", 6), ("a", 7)]
    assert calibration_images(loaded("ddpm"), calibration) == [("", 5), ("", 6), ("", 7)]


def test_watching_leaves_no_hook_behind():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    site = Site(name="0", point="input")
    seen = []
    with (
        pytest.raises(ZeroDivisionError),
        watch_modules(model, [site], lambda site, x: seen.append((site.name, x.shape))),
    ):
        model(torch.zeros(3, 2))
        raise ZeroDivisionError
    assert seen == [("0", (3, 2))]
    assert not model[0]._forward_pre_hooks


@pytest.mark.parametrize("kind", ["sd", "ddpm"])
def test_batches_side_by_side_give_what_they_give_in_turn(monkeypatch, kind):
    seen = {}
    for at_once in (1, 2):
        monkeypatch.setattr(
            activations, "_batches_at_once", lambda loaded, n, at_once=at_once: at_once
        )
        steps, (seen[at_once], _) = captured(kind, samples=5, subset=40)
        assert steps == [(n + 1, 3 * SAMPLING.steps) for n in range(3 * SAMPLING.steps)]
    (a, b), arrays = (
        seen.values(),
        ("exponent", "first", "elements", "power_sums", "minimum", "maximum"),
    )
    assert a.sites == b.sites and a.timesteps == b.timesteps
    assert all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays)
    for name in ("counts", "channel_min", "channel_max"):
        assert all(map(np.array_equal, getattr(a, name), getattr(b, name)))


def test_batches_of_a_small_model_run_side_by_side(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert [activations._batches_at_once(loaded("sd"), n) for n in (1, 2, 5)] == [1, 2, 3]
        monkeypatch.setattr("dmq.numerics.threads.LARGE", 1)
        assert activations._batches_at_once(loaded("sd"), 5) == 1
    finally:
        torch.set_num_threads(before)


def test_a_batch_that_fails_ends_the_others(monkeypatch):
    monkeypatch.setattr(activations, "_batches_at_once", lambda loaded, n: 2)
    real, calls = activations.sample, []

    def sample(*args, seeds, **named):
        calls.append(seeds)
        if 2 in seeds:
            raise DmqError("no")
        return real(*args, seeds=seeds, **named)

    monkeypatch.setattr(activations, "sample", sample)
    before = threading.active_count()
    with pytest.raises(DmqError, match="no"):
        captured(samples=4)
    assert len(calls) == 2 and threading.active_count() == before
