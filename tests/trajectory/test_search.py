"""The arithmetic of learned groups against exhaustive search and definitions."""

import math
from itertools import combinations, pairwise, product

import numpy as np
import pytest
import torch

from dmq.recipe import FLOAT, Activations, UniformGroups
from dmq.trajectory.errors import ErrorTable
from dmq.trajectory.grouping import group_timesteps
from dmq.trajectory.search import (
    ETA,
    discrepancy,
    discrepancy_after,
    drop_empty_groups,
    harden,
    importance,
    kmeans,
    linear,
    lloyd,
    next_step,
    ranges,
    runs_of_steps,
    similarity,
    start_logits,
    ucb,
    uncertainty,
)
from tests.helpers import random_stats


def rng(seed=0):
    return np.random.default_rng(seed)


def spread(points, slot):
    """Within-group sum of squares, by definition."""
    return sum(
        ((points[slot == g] - points[slot == g].mean(0)) ** 2).sum() for g in set(slot.tolist())
    )


# --- what is learned ------------------------------------------------------------------------------


def test_ranges_contain_zero_and_are_as_wide_as_said():
    low, high = ranges(torch.tensor([0.5, 3.0, -3.0]), torch.tensor([4.0, 2.0, 2.0]).log())
    torch.testing.assert_close(low, torch.tensor([-1.5, 0.0, -4.0]))
    torch.testing.assert_close(high, torch.tensor([2.5, 4.0, 0.0]))


def test_importance_sums_to_one_and_hardens_with_cold():
    logits = torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(0))
    for temperature in (1.0, 0.2, 0.01):
        weights = importance(logits, temperature)
        assert weights.sum(-1).allclose(torch.ones(5, 7), atol=1e-6)
        assert (weights.argmax(-1) == logits.argmax(-1)).all()
    assert uncertainty(importance(logits, 1.0)).mean() > uncertainty(importance(logits, 0.1)).mean()


def test_uncertainty_is_one_for_equal_weights_and_has_a_gradient_at_a_choice():
    assert uncertainty(torch.full((3, 8), 0.125)).tolist() == pytest.approx([1, 1, 1])
    assert uncertainty(torch.ones(2, 1)).tolist() == [0, 0]
    chosen = torch.eye(4, requires_grad=True)
    uncertainty(chosen).sum().backward()
    assert chosen.grad.isfinite().all()


def test_equal_logits_have_no_gradient_and_the_start_has():
    for logits, alive in (
        (np.zeros((1, 1, 4), np.float32), False),
        (start_logits(np.array([[2]]), 4), True),
    ):
        logits = torch.tensor(logits, requires_grad=True)
        uncertainty(importance(logits, 1.0)).sum().backward()
        assert (logits.grad.abs().max() > 1e-6).item() == alive


# --- where it starts ------------------------------------------------------------------------------


def test_kmeans_finds_clusters_that_are_apart():
    centre = rng().permutation(np.arange(4) * 10.0)
    which = rng(1).integers(0, 4, (3, 20))
    points = centre[which][..., None] + rng(2).normal(0, 0.1, (3, 20, 2))
    for found, true in zip(kmeans(points, 4), which, strict=True):
        assert len(set(zip(found.tolist(), true.tolist(), strict=True))) == len(set(true.tolist()))


def test_kmeans_leaves_no_step_nearer_to_another_centre():
    points = rng().normal(size=(5, 30, 2)).cumsum(1)
    for site, slot in zip(points, kmeans(points, 4), strict=True):
        centres = np.stack([site[slot == g].mean(0) for g in range(4)])
        distance = ((site[:, None] - centres) ** 2).sum(-1)
        assert (distance.argmin(1) == slot).all()


def test_kmeans_uses_every_cluster_if_there_are_enough_different_points():
    points = np.array([0, 0, 0, 0, 0, 0, 1, 2.0])[None, :, None]
    assert set(kmeans(points, 3)[0]) == {0, 1, 2}
    assert len(set(kmeans(np.zeros((1, 8, 1)), 3)[0])) >= 1  # a constant has nothing to tell apart


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_runs_of_steps_equal_exhaustive_search(count):
    points = rng(count).normal(size=(3, 9, 2)).cumsum(1)
    for site, slot in zip(points, runs_of_steps(points, count), strict=True):
        assert (np.diff(slot) >= 0).all() and slot.max() == count - 1
        every = [
            (np.arange(9)[:, None] >= cuts).sum(1)
            for cuts in map(list, combinations(range(1, 9), count - 1))
        ]
        best = min(spread(site, other) for other in (every or [np.zeros(9, int)]))
        assert spread(site, slot) == pytest.approx(best)


# --- which step is next ---------------------------------------------------------------------------


@pytest.mark.parametrize("score", [ucb, linear], ids=["ucb", "linear"])
def test_with_equal_entropies_no_step_comes_twice_before_all_came_once(score):
    uncertain, visits = np.full(7, 0.4), np.zeros(7, int)
    for turn in range(1, 4):
        for _ in range(7):
            visits[next_step(score(uncertain, visits), visits)] += 1
        assert (visits == turn).all()


def test_without_any_uncertainty_steps_take_turns():
    visits = np.zeros(5, int)
    for _ in range(10):
        visits[next_step(ucb(np.zeros(5), visits), visits)] += 1
    assert (visits == 2).all()


def test_the_uncertain_step_comes_first():
    assert next_step(ucb(np.array([0.2, 0.9, 0.5]), np.zeros(3)), np.zeros(3)) == 1
    assert next_step(ucb(np.array([0.2, 0.9, 0.5]), np.array([0, 1, 0])), np.array([0, 1, 0])) == 2


def test_the_penalty_of_the_released_code_on_its_own_scale():
    """44 layers and 8 groups: its sum of entropies is at most 11.4369, from which 2.0 a visit
    are taken.
    """
    most = sum(math.log(8) / 8 for _ in range(44))
    assert most == pytest.approx(11.4369, abs=1e-4) and ETA == pytest.approx(0.175, abs=1e-3)
    assert linear(np.ones(1), np.ones(1))[0] * most == pytest.approx(most - 2.0)


def test_discrepancy_equals_the_definition():
    alike = similarity(rng().normal(size=(6, 4)))
    visits = np.array([2, 0, 1, 0, 3, 0])
    chosen = np.repeat(np.arange(6), visits)
    means = [
        np.mean([alike[a, b] for a, b in product(x, y)])
        for x, y in ((range(6), range(6)), (chosen, chosen), (range(6), chosen))
    ]
    assert discrepancy(alike, visits) == pytest.approx(means[0] + means[1] - 2 * means[2])
    after = [discrepancy(alike, visits + np.eye(6, dtype=int)[i]) for i in range(6)]
    np.testing.assert_allclose(discrepancy_after(alike, visits), after, atol=1e-12)
    assert discrepancy(alike, np.full(6, 3)) == pytest.approx(0, abs=1e-12)


def test_equal_steps_are_alike_and_no_visits_are_no_trouble():
    alike = similarity(np.zeros((4, 3)))
    assert (alike == 1).all() and np.isfinite(discrepancy_after(alike, np.zeros(4))).all()


# --- how it ends ----------------------------------------------------------------------------------


def test_hardening_into_runs_equals_exhaustive_search():
    weights = rng().dirichlet(np.ones(3), (4, 6))
    for row, slot in zip(weights, harden(weights, True), strict=True):
        every = [s for s in product(range(3), repeat=6) if all(a <= b for a, b in pairwise(s))]
        value = {s: sum(math.log(row[i, g]) for i, g in enumerate(s)) for s in every}
        assert value[tuple(slot.tolist())] == pytest.approx(max(value.values()))
    assert (harden(weights, False) == weights.argmax(-1)).all()


def test_unused_groups_are_dropped_with_their_ranges():
    slot, low = drop_empty_groups(
        np.array([[3, 3, 1], [0, 2, 2]]), np.array([[0.0, 1, 2, 3], [10, 11, 12, 13]])
    )
    assert slot.tolist() == [[1, 1, 0], [0, 1, 1]]
    assert low.tolist() == [[1, 3], [10, 12]]
    narrow, table = drop_empty_groups(
        np.array([[2, 2], [1, 0]]), np.array([[0.0, 1, 2], [3, 4, 5]])
    )
    assert narrow.tolist() == [[0, 0], [1, 0]] and table.tolist() == [[2, 0], [3, 4]]


# --- a yardstick ----------------------------------------------------------------------------------


def cost(lost, slot):
    return sum(lost[slot == g].sum(0).min() for g in set(slot.tolist()))


@pytest.mark.parametrize("seed", range(5))
def test_lloyd_never_raises_the_cost_and_ends_where_nothing_gains(seed):
    lost = rng(seed).exponential(size=(12, 20))
    start = rng(seed + 50).integers(0, 3, 12)
    slot = lloyd(lost, start)
    assert cost(lost, slot) <= cost(lost, start) + 1e-9
    chosen = np.array(
        [lost[slot == g].sum(0).argmin() if (slot == g).any() else 0 for g in range(slot.max() + 1)]
    )
    own = lost[np.arange(12), chosen[slot]]
    assert (own <= lost[:, chosen[np.unique(slot)]].min(1) + 1e-9).all()


def test_scattered_groups_cost_what_their_members_lose():
    """By the table that also serves runs of steps, and never less than each step alone."""
    table = ErrorTable(
        random_stats(sites=3, steps=8, seed=4), Activations(), np.array([4, FLOAT, 3])
    )
    groups = group_timesteps(UniformGroups(count=2), table)
    slot = groups.slot.copy()
    slot[:] = [0, 1, 0, 1, 0, 1, 0, 1]
    scattered = table.errors(type(groups)(sites=groups.sites, slot=slot))
    for s in table.quantized:
        assert scattered.relative[s].sum() == pytest.approx(
            cost(table.losses(s), slot[s]), rel=1e-5
        )
    run = table.errors(groups)
    given = table.errors_of(groups, run.low, run.high)
    np.testing.assert_allclose(given.rounding, run.rounding, rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(given.clipping, run.clipping, rtol=1e-4, atol=1e-12)
