"""Ranges along the quantized trajectory, relaxed steps, windows and the probe, on tiny real
pipelines.
"""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
)

from dmq.artifacts import store
from dmq.artifacts.of_recipe import ask_ranges
from dmq.calibration.progressive import CallDone, calibrate_progressively
from dmq.capture.activations import calibration_images
from dmq.describe import describe_plan
from dmq.errors import DmqError
from dmq.evaluation import compare, error_curves, probe
from dmq.models import libraries
from dmq.models.loading import sample, with_denoiser
from dmq.models.tensor_parts import take_over
from dmq.models.tiny import tiny_call, tiny_ddpm, tiny_sd
from dmq.models.windows import leave_window_float
from dmq.numerics.affine import grid
from dmq.progress import GeneratedImage, run_to_end
from dmq.quantizers.bank import ActivationBank
from dmq.recipe import (
    FLOAT,
    Activations,
    Calibration,
    Comparison,
    MinMax,
    MseSearch,
    PerChannel,
    PerStep,
    PerTensor,
    Probe,
    Progressive,
    Recipe,
    Relaxing,
    Sampling,
    SharedRange,
    UniformGroups,
    Weights,
)
from dmq.results import WindowEffects
from dmq.store import captures, learned
from dmq.workflow.answers import (
    get_errors,
    get_plan,
    get_ranges,
    get_relaxed_steps,
    get_simulated,
    get_site_errors,
    get_statistics,
    get_window_effects,
    has_ranges,
    has_windows,
)
from dmq.workflow.learning import calibrate_ranges, capture_statistics, measure_windows
from tests.store.old_runs import save_old_progressive
from tests.tiny import runs_in
from training.slim import same


pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # in diffusers

STEPS = 4
MINMAX = Activations(bits=5, range=MinMax())


def captured(folder, scheduler=DDIMScheduler, *, guidance=2.0, pipe=tiny_sd, **changes):
    """W4A5 with a range per step on a captured tiny pipeline of that scheduler, ranges not
    walked yet.
    """
    made, place = pipe(), folder / f"{pipe.__name__}-{scheduler.__name__}"
    if not place.is_dir():
        own = (
            {"skip_prk_steps": True} if scheduler is PNDMScheduler else {}
        )  # as Stable Diffusion has it
        made.scheduler = scheduler.from_config(made.scheduler.config, **own)
        made.save_pretrained(place, safe_serialization=True)
    recipe = Recipe(
        **{
            "model": str(place),
            "sampling": Sampling(steps=STEPS, guidance=guidance),
            "calibration": Calibration(
                samples=3, batch=2, prompts=("a", "b", "c") if pipe is tiny_sd else ()
            ),
            "weights": Weights(bits=4, range=MinMax()),
            "activations": MINMAX,
            "grouping": PerStep(),
            "progressive": Progressive(),
        }
        | changes
    )
    run_to_end(capture_statistics(recipe))
    return recipe


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with runs_in(tmp_path_factory.mktemp("walked")) as folder:
        yield folder


def start_of(recipe):
    return dataclasses.replace(recipe, progressive=None)


def work_on(recipe, done=()):
    start = start_of(recipe)
    return calibrate_progressively(
        libraries.load(recipe.model),
        recipe,
        get_plan(start),
        (get_statistics(recipe), get_errors(start)),
        {},
        done,
    )


def banks_of(model):
    return {m.site: m for m in model.modules() if isinstance(m, ActivationBank)}


class Enough(Exception):
    """The naive procedure has seen its step."""


def naive(recipe):
    """Every step from the noise again: replay with final ranges, observe the step with its first
    ones, freeze.
    """
    loaded, start = libraries.load(recipe.model), start_of(recipe)
    model, frozen = get_simulated(start), {}
    banks = banks_of(model)
    prompts, seeds = zip(*calibration_images(loaded, recipe.calibration), strict=True)
    visits, position, watching = 0, 0, False
    seen: dict = {}

    def look(bank, args):
        if watching:
            low, high = seen.get(bank.site, (args[0].amin(), args[0].amax()))
            seen[bank.site] = (
                torch.minimum(low, args[0].amin()),
                torch.maximum(high, args[0].amax()),
            )

    for bank in banks.values():
        bank.register_forward_pre_hook(look)

    def answer(forward, args, kwargs):
        nonlocal visits, watching
        x, rows = args[0], 2 * (len(args[0]) // recipe.calibration.samples)
        hidden = kwargs.get("encoder_hidden_states")
        watching = visits == position
        made = []
        for n in range(0, len(x), rows):
            own = (
                kwargs
                if hidden is None
                else kwargs | {"encoder_hidden_states": hidden[n : n + rows]}
            )
            made.append(forward(x[n : n + rows], *args[1:], **own))
        if watching:
            raise Enough
        visits += 1
        cat = torch.cat([one[0] for one in made])
        return (cat,) if isinstance(made[0], tuple) else type(made[0])(sample=cat)

    take_over(model, answer)
    for position in range(STEPS):
        visits, seen = 0, {}
        try:
            sample(
                with_denoiser(loaded, model),
                loaded,
                prompts=prompts,
                seeds=seeds,
                sampling=recipe.sampling,
            )
        except Enough:
            watching = False
        for site, (low, high) in seen.items():
            bits = banks[site].bits[position]
            frozen[site, position] = grid(low, high, bits, recipe.activations.symmetric)
            banks[site].set_grid(position, *frozen[site, position])
    return frozen


@pytest.mark.parametrize(
    ("scheduler", "guidance", "pipe"),
    [
        (DDIMScheduler, 2.0, tiny_sd),
        (DDIMScheduler, 0.0, tiny_sd),
        (EulerDiscreteScheduler, 2.0, tiny_sd),
        (DPMSolverMultistepScheduler, 2.0, tiny_sd),
        (LCMScheduler, 0.0, tiny_sd),
        (DDIMScheduler, 0.0, tiny_ddpm),
    ],
)
def test_one_pass_through_the_pipeline_equals_starting_anew_for_every_step(
    place, scheduler, guidance, pipe
):
    recipe = captured(place, scheduler, guidance=guidance, pipe=pipe)
    run_to_end(calibrate_ranges(recipe))
    plan, wanted = get_plan(recipe), naive(recipe)
    banks = [row.bank for row in plan.layers if row.bank]
    assert len(wanted) == len(banks) * STEPS
    for bank in banks:
        for i in range(STEPS):
            scale, zero = wanted[bank.site, i]
            assert bank.scale[bank.slot[i]] == scale.numpy()
            assert bank.zero[bank.slot[i]] == zero.numpy()
    before = {row.bank.site: row.bank for row in get_plan(start_of(recipe)).layers if row.bank}
    changed = np.array([bank.scale != before[bank.site].scale for bank in banks])
    assert changed.any(0).all()  # every step, the last one included


def test_what_comes_before_all_quantization_keeps_the_first_ranges(place):
    recipe = captured(place)
    run_to_end(calibrate_ranges(recipe))
    walked, first = get_errors(recipe), get_errors(start_of(recipe))
    rows = [
        s for s, site in enumerate(walked.groups.sites) if site.name == "time_embedding.linear_1"
    ]
    rows += [
        s
        for s, site in enumerate(walked.groups.sites)
        if site.name.endswith("attn2.to_k") and site.point == "input"
    ]
    assert len(rows) > 2
    assert np.allclose(walked.low[rows, 0], first.low[rows, 0], rtol=1e-6)
    assert np.allclose(walked.high[rows, 0], first.high[rows, 0], rtol=1e-6)


def test_without_quantization_nothing_moves(place):
    """Float weights, activations observed in float, and one step: the ranges are those of the
    float trajectory.
    """
    exact = {"weights": Weights(bits=FLOAT), "progressive": Progressive(variant="strict")}
    recipe = captured(place, sampling=Sampling(steps=1, guidance=2.0), **exact)
    made = run_to_end(work_on(recipe))
    first = get_errors(start_of(recipe))
    quantized = (first.bits < FLOAT).any(1)
    assert np.allclose(made.low[quantized], first.low[quantized], rtol=1e-5, atol=1e-6)
    assert np.allclose(made.high[quantized], first.high[quantized], rtol=1e-5, atol=1e-6)


def test_sixteen_bits_walk_the_float_trajectory(place):
    recipe = captured(
        place, weights=Weights(bits=FLOAT), activations=Activations(bits=16, range=MinMax())
    )
    made = run_to_end(work_on(recipe))
    first = get_errors(start_of(recipe))
    quantized = (first.bits < FLOAT).any(1)
    width = (first.high - first.low)[quantized]
    assert (np.abs(made.low - first.low)[quantized] <= 2e-2 * width).all()
    assert (np.abs(made.high - first.high)[quantized] <= 2e-2 * width).all()


def test_the_size_of_the_parts_does_not_matter(place):
    recipe = captured(place)
    alone = dataclasses.replace(
        recipe, calibration=dataclasses.replace(recipe.calibration, batch=1)
    )
    run_to_end(capture_statistics(alone))
    a, b = (run_to_end(work_on(one)) for one in (recipe, alone))
    assert np.allclose(a.low, b.low, rtol=1e-3, atol=1e-3) and np.allclose(
        a.high, b.high, rtol=1e-3, atol=1e-3
    )
    assert a.stats.elements.tolist() == b.stats.elements.tolist()


@pytest.mark.parametrize(
    ("variant", "inner", "passes"), [("exact", 1, 2), ("one_pass", 1, 1), ("exact", 3, 4)]
)
def test_each_part_is_answered_twice_and_no_more(place, variant, inner, passes):
    recipe = captured(place, progressive=Progressive(variant=variant, inner=inner))
    reports = [seen for seen in work_on(recipe) if not isinstance(seen, CallDone)]
    parts = 2  # three images with guidance, two at a time
    assert reports[-1] == (passes * parts * STEPS, passes * parts * STEPS)
    assert len(reports) == passes * parts * STEPS


def test_observing_leaves_no_trace(place):
    """With the new ranges set beforehand, the images are those that the walk itself has generated."""
    recipe = captured(place)
    run_to_end(calibrate_ranges(recipe))
    calls = []
    for seen in work_on(recipe):
        if isinstance(seen, CallDone):
            calls.append(seen)
    replayed = run_to_end(work_on(recipe, [(one.stats, one.grids) for one in calls]))
    walked = get_ranges(recipe)
    assert np.array_equal(replayed.low, walked.low, equal_nan=True)
    model, loaded = get_simulated(recipe), libraries.load(recipe.model)
    for site, bank in banks_of(model).items():
        k = list(banks_of(model)).index(site)
        for i, one in enumerate(calls):
            assert np.array_equal(bank.scale[bank.slot[i]][None].numpy(), one.grids[f"{k}.scale"])
    assert loaded.denoiser is not model


def test_a_walk_that_was_cut_off_ends_as_if_it_had_not_been(place):
    recipe = captured(place, activations=Activations(bits=6, range=MinMax()))
    whole = run_to_end(work_on(recipe))
    work = calibrate_ranges(recipe)
    for progress in work:
        if progress.done >= 9:  # in the middle of the third step
            break
    work.close()
    assert not has_ranges(recipe)
    kept = store.partial(ask_ranges(recipe))
    assert 1 <= len(list(kept.iterdir())) < STEPS
    folder = run_to_end(calibrate_ranges(recipe))
    assert has_ranges(recipe) and not kept.exists()
    again = learned.load_progressive(folder, get_statistics(recipe))
    for name in ("low", "high"):
        assert np.array_equal(getattr(again, name), getattr(whole, name))
    assert all(map(np.array_equal, again.stats.counts, whole.stats.counts))
    assert np.array_equal(again.stats.power_sums, whole.stats.power_sums)
    assert run_to_end(calibrate_ranges(recipe)) == folder


def quantized_inputs(recipe):
    return {row.bank.site for row in get_plan(start_of(recipe)).layers if row.bank}


@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel()])
def test_only_what_the_walk_saw_is_kept_and_the_rest_is_the_captures(place, granularity):
    spec = Activations(bits=5, range=MinMax(), granularity=granularity)
    recipe = captured(place, activations=spec, grouping=UniformGroups(count=2))
    made, base = run_to_end(work_on(recipe)), get_statistics(recipe)
    folder = run_to_end(calibrate_ranges(recipe))
    kept, back = captures.load_stats(folder / "stats"), get_ranges(recipe)
    assert set(kept.sites) == quantized_inputs(recipe) and len(kept.sites) < len(base.sites)
    assert back.stats.sites == made.stats.sites and np.array_equal(
        back.low, made.low, equal_nan=True
    )
    for name in ("elements", "minimum", "maximum", "power_sums", "first", "exponent"):
        assert np.array_equal(getattr(back.stats, name), getattr(made.stats, name)), name
    assert all(map(np.array_equal, back.stats.counts, made.stats.counts))
    for site in made.stats.sites:
        s = made.stats.index[site.name, site.point]
        was, now = made.stats.channel_max[s], back.stats.channel_max[s]
        if site not in kept.sites:
            assert np.array_equal(now, was)
        elif isinstance(
            granularity, PerTensor
        ):  # each side of a split input has its own, all others one
            assert len(np.unique(now[0])) <= 2 and np.array_equal(now.max(1), was.max(1))
        else:
            assert (now >= was).all() and np.allclose(now, was, rtol=2e-3)


def test_a_plan_from_ranges_in_the_form_of_earlier_versions_is_the_same(
    place, tmp_path, monkeypatch
):
    recipe = captured(
        place, activations=Activations(bits=5, range=MinMax()), grouping=UniformGroups(count=3)
    )
    folder, before = run_to_end(calibrate_ranges(recipe)), get_plan(recipe)
    made = run_to_end(work_on(recipe))
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path))
    shutil.copytree(place / "runs" / "captures", tmp_path / "captures")
    save_old_progressive(tmp_path / "trajectories" / folder.name, made)
    assert (
        captures.load_stats(tmp_path / "trajectories" / folder.name / "stats").sites
        == made.stats.sites
    )
    assert same(get_plan(recipe), before)


def test_ranges_beside_another_capture_are_refused(place):
    recipe = captured(place)
    folder, base = run_to_end(calibrate_ranges(recipe)), get_statistics(recipe)
    with pytest.raises(
        DmqError, match="of a capture with another fingerprint; delete the folder and do it again"
    ):
        learned.load_progressive(folder, dataclasses.replace(base, fingerprint="other"))
    with pytest.raises(DmqError, match=r"damaged .no site"):
        learned.load_progressive(
            folder, base.only([s for s, site in enumerate(base.sites) if site.point == "output"])
        )


@pytest.mark.parametrize("scheduler", [HeunDiscreteScheduler, PNDMScheduler])
def test_a_timestep_that_is_visited_twice_covers_both_visits(place, scheduler):
    recipe = captured(place, scheduler)
    work, calls = work_on(recipe), []
    while True:
        try:
            seen = next(work)
        except StopIteration as end:
            made = end.value
            break
        if isinstance(seen, CallDone):
            calls.append(seen)
    assert made.calls == len(calls) > STEPS
    steps = [one.stats.timesteps[0] for one in calls]
    assert len(set(steps)) == made.stats.steps < len(calls)
    twice = next(t for t in steps if steps.count(t) == 2)
    first, second = (one.stats for one in calls if one.stats.timesteps[0] == twice)
    assert (second.elements == 2 * first.elements).all()
    assert (second.minimum <= first.minimum).all() and (second.maximum >= first.maximum).all()


def test_groups_of_steps_share_what_their_members_saw(place):
    recipe = captured(place, grouping=SharedRange())
    made = run_to_end(work_on(recipe))
    first = get_errors(start_of(recipe))
    quantized = np.flatnonzero((first.bits < FLOAT).any(1))
    assert (np.ptp(made.low[quantized], 1) == 0).all()
    seen = made.stats.minimum[quantized].min(1)
    assert np.allclose(made.low[quantized, 0], np.minimum(seen, 0))
    assert made.widest_change > 0


def test_what_was_not_walked_says_so(place):
    recipe = captured(place, name="other", activations=Activations(bits=7, range=MinMax()))
    for question in (get_errors, get_plan, get_simulated):
        with pytest.raises(DmqError, match="not set along the quantized trajectory yet"):
            question(recipe)
    with pytest.raises(DmqError, match="no activation is quantized"):
        next(work_on(captured(place, activations=Activations(bits=FLOAT))))


# --- relaxed steps --------------------------------------------------------------------------------


def test_relaxed_steps_have_more_levels_and_groups_of_their_own(place):
    plain = captured(
        place, progressive=None, grouping=UniformGroups(count=2), activations=Activations(bits=6)
    )
    recipe = dataclasses.replace(plain, relaxing=Relaxing(where="list", steps=(0, 3)))
    plan, errors = get_plan(recipe), get_errors(recipe)
    bank = next(row.bank for row in plan.layers if row.bank)
    assert bank.bits[bank.slot].tolist() == [10, 6, 6, 10]
    assert len(bank.bits) == 4
    assert plan.mean_activation_bits == 8.0
    assert "2 of 4 steps (0, 3) with 10-bit activations" in describe_plan(plan)
    usual = get_errors(plain).per_step()
    assert (errors.per_step()[[0, 3]] < usual[[0, 3]] / 10).all()
    assert (errors.per_step()[[1, 2]] <= usual[[1, 2]] * 1.001).all()
    model = get_simulated(recipe)
    bank = next(iter(banks_of(model).values()))
    model.clock.set(get_statistics(recipe).timesteps[0])
    assert len(bank(torch.linspace(-1, 1, 100_000)).unique()) == 1024


def test_relaxed_ranges_are_walked_with_their_own_levels(place):
    recipe = captured(place, relaxing=Relaxing(where="last", fraction=0.5))
    run_to_end(calibrate_ranges(recipe))
    plan = get_plan(recipe)
    bank = next(row.bank for row in plan.layers if row.bank)
    assert bank.bits[bank.slot].tolist() == [5, 5, 10, 10] and plan.progressive
    grids = [seen.grids for seen in work_on(recipe) if isinstance(seen, CallDone)]
    for one, levels in zip(grids, (31, 31, 1023, 1023), strict=True):
        low, high = one["0.range"]
        assert np.isclose(one["0.scale"][0], (max(high, 0) - min(low, 0)) / levels, rtol=1e-5)


def test_windows_tell_which_steps_to_relax(place):
    recipe = captured(
        place,
        progressive=None,
        relaxing=Relaxing(where="auto", fraction=0.5, windows=2, images=2),
    )
    assert not has_windows(recipe)
    with pytest.raises(DmqError, match="no window of steps was measured yet"):
        get_errors(recipe)
    seen = list(measure_windows(recipe))
    assert seen[-1].snapshot is not None and np.isfinite(seen[-1].snapshot.fidelity[0]).all()
    effects = get_window_effects(recipe)
    assert effects.windows == ((0, 2), (2, 4)) and effects.fidelity.shape == (2, 2)
    best = int(effects.gains("fidelity").argmax())
    assert get_relaxed_steps(recipe) == ((0, 1), (2, 3))[best]
    everywhere = dataclasses.replace(
        recipe, relaxing=dataclasses.replace(recipe.relaxing, windows=3)
    )
    assert not has_windows(everywhere)


def test_all_windows_in_float_is_the_float_model(place):
    recipe = captured(place, progressive=None)
    shown = run_to_end(probe.run_probe(recipe, Probe(windows=1, gains=(0.0, 1.0), prompt="a")))
    assert shown[0].error == 0 and shown[0].psnr == np.inf
    drawn = [
        one
        for one in compare.compare_images(
            Comparison(prompts=("a",), sampling=recipe.sampling), (recipe,)
        )
        if isinstance(one, GeneratedImage) and one.step is None
    ]
    assert np.array_equal(drawn[0].pixels, shown[0].exact)
    assert np.array_equal(drawn[1].pixels, shown[1].pixels)


def test_the_probe_grows_with_its_gain(place):
    recipe = captured(place, progressive=None)
    shown = run_to_end(probe.run_probe(recipe, Probe(windows=2, gains=(0.5, 2.0), prompt="a")))
    assert [(one.start, one.end, one.gain) for one in shown] == [
        (0, 2, 0.5),
        (0, 2, 2.0),
        (2, 4, 0.5),
        (2, 4, 2.0),
    ]
    assert shown[0].error < shown[1].error and shown[2].error < shown[3].error
    with pytest.raises(DmqError, match="5 windows of 4 steps"):
        next(probe.run_probe(recipe, Probe(windows=5)))
    with pytest.raises(DmqError, match="2 to 4 does not lie within 0 to 3"):
        next(probe.run_probe(recipe, Probe(first=2, last=4)))


# --- errors along the steps -----------------------------------------------------------------------


def test_errors_over_time_start_and_end_where_they_must(place):
    recipe = captured(place, progressive=None, name="low")
    high = dataclasses.replace(
        recipe,
        name="high",
        activations=Activations(bits=16, range=MinMax()),
        weights=Weights(bits=16),
    )
    comparison = Comparison(prompts=("a", "b"), sampling=recipe.sampling)
    seen = list(error_curves.measure_error_curves(comparison, (recipe, high)))
    assert any(
        one.snapshot is not None and list(one.snapshot.accumulated) == ["low"] for one in seen
    )
    made = run_to_end(error_curves.measure_error_curves(comparison, (recipe, high)))
    assert made.accumulated["low"].shape == (STEPS, 2)
    assert (made.accumulated["high"] < made.accumulated["low"] / 100).all()
    assert (made.isolated["high"] < made.isolated["low"] / 100).all()
    assert made.coefficients.shape == (STEPS,) and (made.coefficients > 0).all()
    assert (
        set(made.strips) == {"float", "low", "high"}
        and len(made.strips["low"]) == len(made.watched) + 1
    )
    assert made.mean_bits == {"low": 5.0, "high": 16.0}


def test_within_a_window_only_activations_are_in_float(place):
    recipe = captured(place, progressive=None)
    floats = dataclasses.replace(recipe, activations=Activations(bits=FLOAT))
    quantized_model, weights = (
        leave_window_float(get_simulated(recipe), {1}),
        get_simulated(floats),
    )
    plain, model = get_simulated(recipe), libraries.load(recipe.model).denoiser
    for i, t in enumerate(get_statistics(recipe).timesteps):
        call = tiny_call(model, t, rows=2, seed=i)
        with torch.no_grad():
            wanted, other = (
                m(**call).sample for m in ((plain, weights) if i != 1 else (weights, plain))
            )
            made = quantized_model(**call).sample
        assert torch.equal(made, wanted) and not torch.equal(made, other)


def test_one_image_that_errs_far_more_does_not_decide():
    """The others all gain at the end; the outlier loses there what outweighs them in a plain
    mean.
    """
    effects = WindowEffects(
        timesteps=(3.0, 2.0),
        starts=(0, 1),
        fidelity=np.array([[0.9, 0.9, 0.9, 90.0], [0.3, 0.3, 0.3, 110.0]]),
        fidelity_all=np.array([1.0, 1.0, 1.0, 100.0]),
        clip_score=np.full((2, 4), np.nan),
        clip_score_all=np.full(4, np.nan),
        clip_score_float=np.full(4, np.nan),
        scorer="",
    )
    assert (effects.fidelity_all - effects.fidelity).mean(1).argmax() == 0 and effects.gains(
        "fidelity"
    ).argmax() == 1
    np.testing.assert_allclose(
        effects.gain_per_image("fidelity")[0], 10 * np.log10(1 / 0.9), rtol=1e-6
    )
    assert effects.typical_error == pytest.approx(100**0.25)


def test_no_range_fits_what_was_observed_worse_than_the_one_before(place):
    """Ranges are searched among those of the float trajectory too, so setting them anew cannot
    lose.
    """
    recipe = captured(place, activations=Activations(bits=5, range=MseSearch()))
    run_to_end(calibrate_ranges(recipe))
    made, before = (
        get_ranges(recipe),
        get_errors(dataclasses.replace(recipe, progressive=None)),
    )
    table, lost = get_site_errors(recipe), []
    for ends in ((made.low, made.high), (before.low, before.high)):
        seen = table.errors_of(before.groups, *ends)
        lost.append((seen.rounding + seen.clipping) / np.maximum(seen.power, 1e-30))
    # Bins of all steps together are a little coarser than those that a step's range was chosen
    # with.
    assert (lost[0] <= lost[1] * 1.02).all() and (lost[0] < 0.99 * lost[1]).any()
