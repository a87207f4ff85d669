from itertools import combinations, pairwise

import numpy as np
import pytest

from dmq.errors import DmqError
from dmq.recipe import (
    FLOAT,
    Activations,
    ManualGroups,
    MinMax,
    OptimalGroups,
    PerStep,
    SharedRange,
    UniformGroups,
)
from dmq.trajectory.errors import ErrorTable
from dmq.trajectory.grouping import error_against_count, group_timesteps, optimal_boundaries
from tests.helpers import random_stats


STEPS = 10


@pytest.fixture(scope="module")
def table():
    return ErrorTable(
        random_stats(sites=5, steps=STEPS, seed=2), Activations(), np.array([4, 4, 6, FLOAT, 3])
    )


def total(spec, table):
    return table.errors(group_timesteps(spec, table)).total


def cheapest(cost, count, min_length):
    """By trying everything."""
    steps = len(cost) - 1
    partitions = [(0, *cuts, steps) for cuts in combinations(range(1, steps), count - 1)]
    allowed = [ends for ends in partitions if min(e - a for a, e in pairwise(ends)) >= min_length]
    return min(sum(float(cost[a, e]) for a, e in pairwise(ends)) for ends in allowed)


@pytest.mark.parametrize("min_length", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_optimal_grouping_equals_exhaustive_search(table, count, min_length):
    cost = table.segment_costs()[table.quantized].mean(0, dtype=float)
    groups = group_timesteps(OptimalGroups(count=count, min_length=min_length), table)
    assert np.bincount(groups.slot[0]).min() >= min_length and groups.slot.max() == count - 1
    best = cheapest(cost, count, min_length) / STEPS
    assert table.errors(groups).total == pytest.approx(best, rel=1e-5)


def test_optimal_grouping_per_layer_equals_exhaustive_search_at_every_layer(table):
    groups = group_timesteps(OptimalGroups(count=3, per_layer=True, min_length=2), table)
    per_site = table.errors(groups).per_site()
    for s in table.quantized:
        assert per_site[s] == pytest.approx(
            cheapest(table.segment_costs()[s], 3, 2) / STEPS, rel=1e-5
        )
    assert total(OptimalGroups(count=3, per_layer=True, min_length=2), table) <= total(
        OptimalGroups(count=3, min_length=2), table
    ) * (1 + 1e-6)


def test_optimal_boundaries_of_a_cost_with_a_known_answer():
    level = np.array([0, 0, 0, 5, 5, 9, 9, 9.0])
    cost = np.array(
        [[np.var(level[a:e]) * (e - a) if e > a else 0 for e in range(9)] for a in range(9)]
    )
    assert optimal_boundaries(cost[None], 3, 1).tolist() == [[3, 5]]


def test_per_step_is_best_then_optimal_then_uniform_then_shared(table):
    slack = 1 + 1e-6
    shared, finest = total(SharedRange(), table), total(PerStep(), table)
    optimal = [total(OptimalGroups(count=count), table) for count in range(1, STEPS + 1)]
    uniform = [total(UniformGroups(count=count), table) for count in range(1, STEPS + 1)]
    for best, even in zip(optimal, uniform, strict=True):
        assert finest <= best * slack and best <= even * slack and even <= shared * slack
    assert all(fewer * slack >= more for fewer, more in pairwise(optimal))
    assert optimal[0] == pytest.approx(shared) and optimal[-1] == pytest.approx(finest)


def test_error_against_count_equals_the_errors_of_each_partition(table):
    counts = (1, 2, 5, STEPS)
    curves = error_against_count(table, counts)
    assert curves["uniform"] == pytest.approx(
        [total(UniformGroups(count=n), table) for n in counts], rel=1e-5
    )
    assert curves["optimal"] == pytest.approx(
        [total(OptimalGroups(count=n), table) for n in counts], rel=1e-5
    )


def test_slots_of_every_spec(table):
    assert group_timesteps(SharedRange(), table).boundaries() == ()
    assert group_timesteps(PerStep(), table).boundaries() == tuple(range(1, STEPS))
    assert group_timesteps(ManualGroups(boundaries=(1, 9)), table).boundaries(4) == (1, 9)
    uniform = group_timesteps(UniformGroups(count=4), table).slot
    assert uniform.shape == (5, STEPS) and set(np.bincount(uniform[0])) == {2, 3}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (ManualGroups(boundaries=(3, 12)), "12 is no boundary of 10 steps; use 1 to 9"),
        (UniformGroups(count=11), "count is 11, but there are only 10 steps"),
        (OptimalGroups(count=4, min_length=3), "4 groups of at least 3 steps"),
    ],
    ids=["manual", "uniform", "optimal"],
)
def test_partitions_that_cannot_be_are_refused_with_the_reason(table, spec, words):
    with pytest.raises(DmqError, match=words):
        group_timesteps(spec, table)


def test_without_quantized_sites_there_is_nothing_to_optimise():
    table = ErrorTable(
        random_stats(sites=1, steps=STEPS), Activations(range=MinMax()), np.array([FLOAT])
    )
    assert total(OptimalGroups(count=3), table) == 0
    assert error_against_count(table, (1, 2)) == {"uniform": [0, 0], "optimal": [0, 0]}
