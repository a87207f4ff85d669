"""The search for groups on tiny real models: what moves, what must not, how it ends."""

import dataclasses

import numpy as np
import pytest
import torch

from dmq.calibration import active
from dmq.calibration.active import _Search, better_than_first, means, merit, search_groups
from dmq.capture.activations import capture_activations
from dmq.capture.replay import noise_errors
from dmq.capture.trajectories import record_trajectory
from dmq.errors import DmqError
from dmq.models.loading import describe
from dmq.models.tiny import tiny_ddpm, tiny_sd
from dmq.numerics.affine import fake_quantize
from dmq.quantizers.apply import quantize_model
from dmq.quantizers.mixture import SoftBank
from dmq.quantizers.plan import make_plan
from dmq.recipe import (
    FLOAT,
    Activations,
    Calibration,
    LearnedGroups,
    MinMax,
    OptimalGroups,
    PerStep,
    Recipe,
    Sampling,
    SharedRange,
    UniformGroups,
    Weights,
)
from dmq.trajectory.search import measure_learned_groups


STEPS = 4
SPEC = LearnedGroups(count=2, iterations=6, trajectories=2, refits=1)


def finish(work):
    seen = []
    while True:
        try:
            seen.append(next(work))
        except StopIteration as end:
            return end.value, seen


@dataclasses.dataclass
class Subject:
    """A tiny model with its statistics and recorded calls; never changed."""

    loaded: object
    recipe: Recipe
    stats: object
    trajectory: object

    def search(self, spec=SPEC, **how):
        recipe = how.pop("recipe", self.recipe)
        how = {"trajectory": self.trajectory} | how
        return search_groups(self.loaded, recipe, spec, self.stats, **how)


@pytest.fixture(scope="module", params=[tiny_sd, tiny_ddpm], ids=["sd", "ddpm"])
def subject(request):
    return made(request.param)


@pytest.fixture(scope="module")
def ddpm():
    return made(tiny_ddpm)


def made(pipe):
    loaded, sampling = describe("tiny", pipe()), Sampling(steps=STEPS, guidance=2.0)
    calibration = Calibration(samples=2, batch=2, prompts=("cat",))
    captured, _ = finish(capture_activations(loaded, sampling, calibration))
    trajectory, _ = record_trajectory(loaded, prompts=["cat"] * 2, seeds=[0, 1], sampling=sampling)
    recipe = Recipe(
        model="tiny",
        sampling=sampling,
        calibration=calibration,
        weights=Weights(range=MinMax()),
        activations=Activations(bits=4, attention_bits=4),
    )
    return Subject(loaded, recipe, captured.stats, trajectory)


def started(subject, spec=SPEC):
    search = _Search(subject.loaded, subject.recipe, spec, subject.stats)
    search.trajectory = subject.trajectory
    search.divide()
    return search


def iterate(search, i, entropy=0.05):
    learned = search.candidates
    optimiser = torch.optim.Adam([*learned.rows, learned.shift, learned.stretch], lr=0.1)
    search._iterate(i, optimiser, learned.state(), 1.0, entropy)
    return optimiser


# --- learning -------------------------------------------------------------------------------------


def differing(search):
    """[Q] bool: is there a step whose best range differs from that of another? Not where only
    the prompt enters.
    """
    finest = search.errors(PerStep())
    return ((np.ptp(finest.low, axis=1) > 0) | (np.ptp(finest.high, axis=1) > 0))[search.rows]


def distinct(search):
    """[Q] bool: do the two groups have ranges of their own as the search stands?"""
    low, high = (end.detach().numpy() for end in search.candidates.ranges())
    return (low[:, 0] != low[:, 1]) | (high[:, 0] != high[:, 1])


def test_gradients_reach_every_quantized_site(subject):
    """To the ranges of all, to the choice of all; from the task alone, wherever groups differ."""
    search = started(subject)
    learned = search.candidates
    # With one range for both groups there is nothing to choose, and what comes of it is how a
    # processor rounds.
    differ = distinct(search)
    assert len(learned.sites) == len(search.table.quantized) > 30 and differ.mean() > 0.7
    iterate(search, 1, entropy=0.0)
    of_ranges = learned.shift.grad.abs().amax(-1) + learned.stretch.grad.abs().amax(-1)
    of_choice = learned.rows[1].grad.abs().amax(-1)
    assert [learned.sites[q].label for q in range(len(differ)) if not of_ranges[q] > 0] == []
    assert [
        learned.sites[q].label for q in range(len(differ)) if differ[q] and not of_choice[q] > 0
    ] == []
    search = started(subject)
    iterate(search, 1)
    assert (search.candidates.rows[1].grad.abs().amax(-1) > 0).all()


def test_groups_that_start_with_one_range_come_apart(subject):
    """Nothing is to choose at first; ranges move apart once steps of both groups were visited,
    and then there is.
    """
    search = started(subject)
    low, high = (np.repeat(end[:, :1], 2, axis=1) for end in search._member_ranges(search.start))
    search.candidates.begin(search.start, low, high)
    learned = search.candidates
    optimiser = torch.optim.Adam([learned.shift, learned.stretch], lr=0.01)
    assert not distinct(search).any()
    choices = []
    for i in (0, 1, 2, 3, 1):
        good = search._iterate(i, optimiser, learned.state(), 1.0, 0.0)
        choices.append(learned.rows[i].grad.abs().amax(-1).numpy())
    assert good and not search.note
    assert (
        choices[0].max() < 0.01 * choices[-1].max()
    )  # rounding, of which a processor has more or less
    both = (
        np.ptp(search.start, axis=1) > 0
    )  # else all steps lean towards one, and the other follows it
    assert both.mean() > 0.7 and distinct(search)[both].all() and (choices[-1][both] > 0).all()


def test_the_start_breaks_the_symmetry(subject):
    search = started(subject)
    weights = search.candidates.importance()
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert (weights.argmax(-1) == search.start).all() and (weights.max(-1) > 0.6).all()
    assert (
        distinct(search)[differing(search)].mean() > 0.95
    )  # groups of different ranges may have the same best one


def test_it_starts_from_whichever_predicts_the_noise_better(subject):
    """Clusters, exact cuts or equal ones, also when what was there before was learned."""
    search = started(subject)
    iterate(search, 1)
    finish(search.choose_start())
    cuts = [
        search.errors(kind).groups.slot[search.rows]
        for kind in (OptimalGroups(count=2, per_layer=True), UniformGroups(count=2))
    ]
    errors = []
    for slot in (search.start, search.clusters, *cuts):
        quantized_model = started(subject)
        quantized_model.candidates.begin(slot, *quantized_model._member_ranges(slot))
        quantized_model.candidates.assign(slot)
        errors.append(finish(quantized_model.measure())[0])
    merits = [merit(each) for each in errors]
    assert merits[0] == min(merits[1:]) and len(set(merits[1:])) == 3
    np.testing.assert_array_equal(search.usual, errors[0])
    assert search.candidates.assignment is None and not search.candidates.shift.any()
    assert (search.candidates.importance().argmax(-1) == search.start).all()


def test_an_iteration_leaves_the_rows_of_other_steps_alone(subject):
    """Momentum included: two iterations at step 1, then one at step 2."""
    search = started(subject)
    learned = search.candidates
    optimiser = torch.optim.Adam([*learned.rows, learned.shift, learned.stretch], lr=0.1)
    for i, others in ((1, (0, 2, 3)), (1, (0, 2, 3)), (2, (0, 1, 3))):
        before = [row.detach().clone() for row in learned.rows]
        search._iterate(i, optimiser, learned.state(), 1.0, 0.05)
        assert all(torch.equal(before[j], learned.rows[j]) for j in others)
        assert not torch.equal(before[i], learned.rows[i])


def test_the_loss_is_the_slope_of_both_means_of_the_error(ddpm):
    """T * d log merit / d error, by differences; all is in units of the start's errors."""
    search = started(ddpm)
    search.usual = np.array([1e-3, 2e-3, 5e-2, 4e-1])
    for i, weight in enumerate(search._weight()):
        more = search.usual * np.where(np.arange(STEPS) == i, 1 + 1e-6, 1)
        slope = np.log(merit(more) / merit(search.usual)) / (1e-6 * search.usual[i])
        assert weight == pytest.approx(STEPS * slope, rel=1e-4)


def test_refits_see_a_step_as_often_as_it_counts(ddpm):
    """In proportion to 1 + its share of the mean error; here 61 % of the time the last one."""
    search = started(ddpm)
    search._use(search.start, *search._member_ranges(search.start))
    search.usual = np.array([1e-3, 1e-3, 1e-3, 97e-3])
    seen = [
        search.last[0]
        for _ in search.refit(search.usual, 16, lambda: False)
        if search.last[0] is not None
    ]
    shares = np.bincount(seen, minlength=STEPS) / len(seen)
    np.testing.assert_allclose(shares, [0.13, 0.13, 0.13, 0.61], atol=0.1)


def test_the_weight_of_a_step_scales_its_gradient(ddpm):
    gradients = []
    for weight in (1.0, 7.0):
        search = started(ddpm)
        learned = search.candidates
        search._iterate(
            0, torch.optim.Adam([learned.shift, learned.stretch]), learned.state(), weight
        )
        gradients.append(learned.stretch.grad)
    torch.testing.assert_close(
        gradients[0] * 7, gradients[1], rtol=1e-4, atol=1e-5 * gradients[1].abs().max().item()
    )


def test_ranges_of_probabilities_stay_within_0_and_1(subject):
    learned = started(subject).candidates
    probs = torch.tensor([site.point == "probs" for site in learned.sites])
    with torch.no_grad():
        learned.stretch.fill_(5.0)
        low, high = learned.ranges()
    assert (
        probs.any()
        and (low[probs] == 0).all()
        and (high[probs] == 1).all()
        and (high[~probs] > 1).any()
    )


def test_the_float_model_is_left_alone(subject):
    before = {name: p.clone() for name, p in subject.loaded.denoiser.named_parameters()}
    finish(subject.search(dataclasses.replace(SPEC, iterations=2, refits=0)))
    assert all(
        torch.equal(p, before[name]) for name, p in subject.loaded.denoiser.named_parameters()
    )
    assert not any(p.requires_grad for p in subject.loaded.denoiser.parameters())


def test_soft_banks_are_the_candidates_averaged(subject):
    search = started(subject)
    seen = {}
    for module in search.model.modules():
        if isinstance(module, SoftBank):
            module.register_forward_hook(
                lambda m, args, out: seen.setdefault(m.q, (args[0], out)) and None
            )
    finish(
        noise_errors(search.model, subject.trajectory, [0])
    )  # the first call is the one that is kept: step 0
    learned = search.candidates
    learned.before_call(0)
    assert len(seen) == len(learned.sites)
    for q, (x, out) in seen.items():
        weights, grids = learned._parts[q]
        each = [fake_quantize(x, grids.scale[g], grids.zero[g], 4) for g in range(2)]
        torch.testing.assert_close(
            out,
            sum(w * y for w, y in zip(weights, each, strict=True)).detach(),
            atol=1e-6,
            rtol=1e-5,
        )


# --- what comes of it -----------------------------------------------------------------------------


def test_the_result_is_what_the_quantized_model_uses_bit_for_bit(subject):
    """The search's own measure of its hardened groups, and that of a model made from the plan,
    are the same.
    """
    result, seen = finish(subject.search())
    errors = measure_learned_groups(result, started(subject).table)
    plan = make_plan(subject.loaded.info, subject.recipe, subject.stats, errors)
    model = quantize_model(subject.loaded.denoiser, plan, subject.loaded.adapter)
    measured, _ = finish(
        noise_errors(model, subject.trajectory, [0])
    )  # of two images, one is laid aside
    np.testing.assert_array_equal(measured, result.refitted)
    banks = {
        bank.site: bank
        for bank in (*(row.bank for row in plan.layers if row.bank), *plan.attention)
    }
    assert {site: bank.slot.tolist() for site, bank in banks.items()} == dict(
        zip(result.sites, result.slot.tolist(), strict=True)
    )
    assert all(0 <= bank.zero.min() and bank.zero.max() < 16 for bank in banks.values())
    assert {s.phase for s in seen} == {"Start", "Search", "Measure", "Refit", "Choose"}
    assert result.visits.sum() == len(result.steps) == 6


def test_on_images_laid_aside_it_is_never_worse_than_equal_cuts(subject):
    """In neither mean, whatever was learned: here, nothing of use."""
    kept = []
    for spoil in (False, True):
        search = started(subject)
        finish(search.choose_start())
        finish(search.learn(lambda: False))
        search.harden()
        made, _ = finish(search.refits(lambda: False))
        finish(
            search.choose(
                [(slot, 9 * low, 9 * high) for slot, low, high in made] if spoil else made
            )
        )
        kept.append(means(finish(noise_errors(search.model, subject.trajectory, [1]))[0]))
    cuts = started(subject)
    cuts._use(slot := cuts._cuts(UniformGroups), *cuts._member_ranges(slot))
    equal = means(finish(noise_errors(cuts.model, subject.trajectory, [1]))[0])
    assert all(a <= b for each in kept for a, b in zip(each, equal, strict=True))


@pytest.mark.parametrize(
    ("dear", "kept"), [(np.inf, 0.0), (0.0, 1.0)], ids=["costs little", "costs too much"]
)
def test_ranges_in_the_time_embedding_are_drawn_back_if_that_costs_little(
    subject, dear, kept, monkeypatch
):
    """All the way to the best of their members, or not at all; those elsewhere stay."""
    monkeypatch.setattr(active, "DEAR", dear)
    search = started(subject)
    inside = set(subject.loaded.info.temporal.layers)
    assert (
        search.timed.tolist() == [site.name in inside for site in search.sites]
        and search.timed.any()
    )
    slot, low, high = search.start, *search._member_ranges(search.start)
    learned = slot, 1.1 * low, 1.1 * high
    equal = np.full(STEPS, 1e9)
    [errors], _ = finish(search._compare("Choose", [learned], search.unseen))
    _, *made = finish(search.straighten(learned, errors, equal))[0]
    for end, best in zip(made, (low, high), strict=True):
        factor = np.where(search.timed, 1 + 0.1 * kept, 1.1)[:, None]
        np.testing.assert_allclose(end, factor * best, rtol=1e-6)


def test_what_is_chosen_loses_in_neither_mean():
    first = np.array([1.0, 1.0, 1.0, 9.0])
    plain = np.array([2.9, 2.9, 2.9, 2.9])  # a smaller mean and merit, a larger geometric mean
    typical = np.array([0.01, 0.01, 0.01, 20.0])  # the other way round
    small, smaller = np.array([0.9, 1.0, 1.0, 9.0]), np.array([0.9, 0.9, 0.9, 8.0])
    broken = np.array([0.1, 0.1, 0.1, np.inf])
    assert means(first) == pytest.approx((3.0, 9**0.25))
    assert better_than_first([first, plain, typical, broken]) == 0
    assert better_than_first([first, small, plain, smaller, typical]) == 3
    lopsided = np.array(
        [0.1, 0.1, 0.1, 11.3]
    )  # a larger mean than `smaller`, a far smaller geometric mean
    assert better_than_first([first, lopsided, smaller]) == 1
    assert better_than_first([broken, first]) == 1 and better_than_first([broken]) == 0


@pytest.mark.parametrize(
    ("images", "seen", "unseen"), [(1, [0], [0]), (2, [0], [1]), (3, [0, 1], [2]), (16, 12, 4)]
)
def test_a_quarter_of_the_images_is_laid_aside(ddpm, images, seen, unseen):
    search = started(ddpm)
    calls = ddpm.trajectory
    search.trajectory = dataclasses.replace(
        calls, half=tuple(half[:1].repeat(images) for half in calls.half)
    )
    search.divide()
    assert list(search.seen) == (seen if images < 16 else list(range(12)))
    assert list(search.unseen) == (unseen if images < 16 else [12, 13, 14, 15])


def test_only_images_that_were_not_laid_aside_are_learned_from(ddpm):
    search = started(ddpm)
    rows = {int(row) for _ in range(20) for row in search._sample(1)[1]}
    assert rows == {0}


def test_groups_are_numbered_without_gaps(subject):
    result, _ = finish(subject.search(dataclasses.replace(SPEC, count=STEPS)))
    for row in result.slot:
        assert set(row) == set(range(row.max() + 1))


def test_contiguous_groups_are_runs(ddpm):
    result, _ = finish(
        ddpm.search(dataclasses.replace(SPEC, count=3, contiguous=True, choice_rate=1.0))
    )
    assert not result.scattered.any()


def test_one_choice_for_all_layers(ddpm):
    result, _ = finish(ddpm.search(dataclasses.replace(SPEC, per_layer=False, choice_rate=1.0)))
    assert (result.slot == result.slot[0]).all()


def test_the_same_seed_finds_the_same(ddpm):
    spec = dataclasses.replace(SPEC, batch=1)  # which of the two images is a matter of chance
    a, b = (finish(ddpm.search(spec))[0] for _ in range(2))
    assert (
        np.array_equal(a.slot, b.slot)
        and np.array_equal(a.low, b.low)
        and np.array_equal(a.steps, b.steps)
    )


def test_a_search_without_recorded_calls_draws_images(ddpm):
    result, seen = finish(ddpm.search(trajectory=None))
    assert [s.done for s in seen if s.phase == "Generate"] == [1, 2, 3, 4]
    assert np.isfinite(result.hard).all()


def test_the_local_costs_are_in_order(subject):
    """What is chosen by that very cost: per step <= optimal <= uniform <= shared, and Lloyd <=
    its start.
    """
    result, _ = finish(subject.search(dataclasses.replace(SPEC, iterations=1, refits=0)))
    total = {name: errors.mean() for name, errors in result.local.items()}
    slack = 1 + 1e-6
    assert (
        total["per step"]
        <= total["optimal"] * slack
        <= total["uniform"] * slack**2
        <= total["shared"] * slack**3
    )
    assert total["lloyd"] <= total["kmeans"] * slack and total["per step"] <= total["lloyd"] * slack


# --- ends before its time -------------------------------------------------------------------------


def test_stopping_keeps_what_is_there(ddpm):
    calls = iter([False] * 3 + [True] * 100)
    result, seen = finish(ddpm.search(enough=lambda: next(calls)))
    assert result.note == "stopped after 3 of 6 iterations" and len(result.steps) == 3
    assert {s.phase for s in seen} == {"Start", "Search"} and np.isnan(result.hard).all()


def test_closing_ends_at_once(ddpm):
    work = ddpm.search(trajectory=None)
    for _ in range(2):
        next(work)
    work.close()
    with pytest.raises(StopIteration):
        next(work)


def spoiled(trajectory, i):
    inputs = tuple(
        np.full_like(x, np.nan) if step == i else x
        for x, step in zip(trajectory.inputs, trajectory.step, strict=True)
    )
    return dataclasses.replace(trajectory, inputs=inputs)


def test_nan_stops_says_where_and_keeps_the_last_good_state(subject):
    result, _ = finish(subject.search(trajectory=spoiled(subject.trajectory, 2)))
    t = subject.stats.timesteps[2]
    assert (
        f"step 2 (t = {t:g})" in result.note
        and "input is not finite; the state before is kept" in result.note
    )
    assert result.note.startswith(f"iteration {len(result.steps) + 1} of 6, ")
    assert np.isfinite(result.low).all() and np.isfinite(result.high).all()
    assert 2 not in result.steps


def test_nan_at_once_is_an_error(ddpm):
    bad = ddpm.trajectory
    for i in range(STEPS):
        bad = spoiled(bad, i)
    with pytest.raises(DmqError, match=r"search: iteration 1 of 6, step \d .* not finite"):
        finish(ddpm.search(trajectory=bad))


def test_ranges_that_grow_out_of_hand_are_taken_back(ddpm):
    """A rate so large that a width overflows: the iteration after it notices."""
    search = started(ddpm)
    good = search.candidates.state()
    with torch.no_grad():
        search.candidates.stretch.fill_(200.0)
    optimiser = torch.optim.Adam([search.candidates.shift])
    search._iterate(0, optimiser, good, 1.0)
    assert "not finite" in search.note
    assert all(torch.equal(a, b) for a, b in zip(search.candidates.state(), good, strict=True))


# --- bad input ------------------------------------------------------------------------------------


def test_more_groups_than_steps_are_refused(ddpm):
    with pytest.raises(DmqError, match="count is 5, but there are only 4 steps; use 4 or fewer"):
        next(ddpm.search(dataclasses.replace(SPEC, count=5)))


def test_nothing_quantized_is_refused(ddpm):
    recipe = dataclasses.replace(ddpm.recipe, activations=Activations(bits=FLOAT))
    with pytest.raises(DmqError, match="nothing to search: all activations stay in float"):
        next(ddpm.search(recipe=recipe))


def test_calls_of_another_sampler_are_refused_naming_both(ddpm):
    other = dataclasses.replace(ddpm.trajectory, timesteps=(900, 600, 300, 1))
    with pytest.raises(
        DmqError,
        match=r"recorded calls have 4 steps from 900 to 1, the statistics 4 steps from \d+ to",
    ):
        next(ddpm.search(trajectory=other))


def test_more_images_an_iteration_than_there_are_is_refused(ddpm):
    with pytest.raises(DmqError, match="batch is 3, but only 2 images"):
        next(ddpm.search(dataclasses.replace(SPEC, batch=3)))


def test_shared_ranges_are_where_one_group_starts(subject):
    """G = 1 before the first iteration is the static quantizer, bit for bit."""
    search = started(subject, dataclasses.replace(SPEC, count=1))
    static = search.errors(SharedRange())
    plan = make_plan(subject.loaded.info, subject.recipe, subject.stats, static)
    model = quantize_model(subject.loaded.denoiser, plan, subject.loaded.adapter)
    ours, theirs = (finish(noise_errors(m, subject.trajectory))[0] for m in (search.model, model))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
