from itertools import pairwise

import numpy as np
import pytest
import torch

from dmq.numerics import affine
from dmq.recipe import (
    FLOAT,
    Activations,
    ManualGroups,
    MinMax,
    MseSearch,
    OptimalGroups,
    Percentile,
    PerChannel,
    PerGroup,
    PerStep,
    SharedRange,
    UniformGroups,
)
from dmq.trajectory.bins import Bins, QuickErrors, join_edges
from dmq.trajectory.errors import ErrorTable
from dmq.trajectory.grouping import group_timesteps
from tests.helpers import draw, random_stats, stats_of, values


CUTS = ManualGroups(boundaries=(2, 5, 9))


def table_of(stats, bits=4, **activations):
    return ErrorTable(stats, Activations(**activations), np.full(len(stats.sites), bits))


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize(
    "spec", [MseSearch(), MinMax(), Percentile()], ids=["mse", "minmax", "percentile"]
)
def test_predicted_errors_equal_quantizing_the_values(spec, bits, symmetric):
    seen = values(sites=4, steps=12, seed=3, elements=1000)
    stats = stats_of(seen, bins=1000)
    table = table_of(stats, bits, range=spec, symmetric=symmetric)
    errors = table.errors(group_timesteps(CUTS, table))
    for s, rows in enumerate(seen):
        for i in (0, 4, 8, 11):
            low, high = (
                torch.tensor([side[s, i]], dtype=torch.float32)
                for side in (errors.low, errors.high)
            )
            scale, zero = affine.grid(low, high, bits, symmetric)
            x = torch.from_numpy(rows[i])
            measured = (
                (affine.fake_quantize(x, scale, zero, bits) - x).double().square().mean().item()
            )
            # Values that crowd at one end of a bin are spread over it: off by a third of its width
            # squared at most.
            slack = 4.0 ** int(stats.exponent[s]) / 3
            assert errors.rounding[s, i] + errors.clipping[s, i] == pytest.approx(
                measured, rel=0.05, abs=slack
            )


def test_only_values_beyond_the_grid_are_clipped():
    stats = random_stats(sites=4, steps=12)
    covered = table_of(stats, range=MinMax(), symmetric=True)
    assert covered.errors(group_timesteps(PerStep(), covered)).clipping.max() <= 1e-9
    cut = table_of(stats, range=Percentile(percent=95.0))
    assert (cut.errors(group_timesteps(SharedRange(), cut)).clipping[:, -1] > 0).all()


@pytest.mark.parametrize("bits", [3, 8])
def test_refining_a_partition_never_raises_the_error(bits):
    table = table_of(random_stats(sites=6, steps=12), bits)
    chain = [(), (6,), (3, 6), (3, 6, 7), (2, 3, 6, 7, 11), tuple(range(1, 12))]
    made = [table.errors(group_timesteps(ManualGroups(boundaries=cuts), table)) for cuts in chain]
    for coarse, fine in pairwise(made):
        assert (fine.per_site() <= coarse.per_site() * (1 + 1e-6)).all()
        assert fine.total <= coarse.total * (1 + 1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", ["two-sided", "silu", "softmax", "outliers"])
def test_the_best_candidate_is_near_the_best_of_a_dense_search(kind, bits):
    rng = np.random.default_rng(5)
    seen = [[draw(kind, rng, 500, 8, drift).astype(np.float32) for drift in np.linspace(0, 1, 8)]]
    stats = stats_of(seen)
    bins, table = Bins(stats, 0), table_of(stats, bits)
    costs = table.segment_costs()[0]
    shrink = np.geomspace(1, 0.02, 60)
    for a, e, worst in ((0, 1, 1.07), (7, 8, 1.07), (0, 8, 1.07), (1, 4, 1.15)):
        low, high = min(bins.minimum[a:e].min(), 0), max(bins.maximum[a:e].max(), 0)
        lows, highs = (
            side.ravel() for side in np.meshgrid(low * np.append(shrink, 0), high * shrink)
        )
        dense = sum(bins.errors(lows, highs, bits, False))[a:e].sum(0).min()
        assert costs[a, e] <= worst * dense


@pytest.mark.parametrize(
    "activations",
    [
        {},
        {"symmetric": True},
        {"granularity": PerChannel(), "range": MinMax()},
        {"granularity": PerGroup(size=3), "range": MinMax()},
    ],
    ids=["mse", "symmetric", "per channel", "per group"],
)
def test_segment_costs_equal_the_errors_of_that_segment(activations):
    table = table_of(random_stats(sites=3, steps=12), **activations)
    relative = table.errors(group_timesteps(CUTS, table)).relative
    costs = table.segment_costs()
    for a, e in ((0, 2), (2, 5), (5, 9), (9, 12)):
        np.testing.assert_allclose(costs[:, a, e], relative[:, a:e].sum(1), rtol=1e-5)


@pytest.mark.parametrize("spec", [MinMax(), Percentile()], ids=["minmax", "percentile"])
@pytest.mark.parametrize("bits", [3, 8])
def test_segment_costs_of_other_ranges_are_close(spec, bits):
    table = table_of(random_stats(sites=4, steps=12), bits, range=spec)
    relative = table.errors(group_timesteps(CUTS, table)).relative
    for a, e in ((0, 2), (2, 5), (5, 9), (9, 12)):
        np.testing.assert_allclose(
            table.segment_costs()[:, a, e], relative[:, a:e].sum(1), rtol=0.15
        )


def test_a_group_covers_what_its_steps_have_seen():
    stats = random_stats(sites=3, steps=12)
    table = table_of(stats, range=MinMax())
    errors = table.errors(group_timesteps(CUTS, table))
    np.testing.assert_array_equal(
        errors.low[:, 2:5], np.repeat(stats.minimum[:, 2:5].min(1, keepdims=True), 3, 1)
    )
    np.testing.assert_array_equal(
        errors.high[:, 9:], np.repeat(stats.maximum[:, 9:].max(1, keepdims=True), 3, 1)
    )


def test_percentiles_of_a_group_are_those_of_all_its_values():
    seen = values(sites=4, steps=12, seed=1, elements=1000)
    stats = stats_of(seen, bins=1000)
    table = table_of(stats, range=Percentile(percent=98.0))
    errors = table.errors(group_timesteps(CUTS, table))
    for s, rows in enumerate(seen):
        low, high = np.quantile(np.concatenate([x.ravel() for x in rows[5:9]]), [0.01, 0.99])
        width = 2.0 ** int(stats.exponent[s])
        assert errors.low[s, 5] == pytest.approx(low, abs=2 * width)
        assert errors.high[s, 5] == pytest.approx(high, abs=2 * width)


def test_ranges_per_channel_have_a_column_for_each_channel():
    stats = random_stats(sites=2, steps=12)
    table = table_of(stats, granularity=PerChannel(), range=MinMax())
    low, high = table.ranges(group_timesteps(CUTS, table))[1]
    assert low.shape == high.shape == (4, 8)
    np.testing.assert_allclose(high[1], np.maximum(stats.channel_max[1][2:5].max(0), 0))


def test_sites_in_float_have_no_error_and_do_not_count():
    stats = random_stats(sites=4, steps=12)
    mixed = ErrorTable(stats, Activations(), np.array([FLOAT, 4, 8, FLOAT], np.uint8))
    errors = mixed.errors(group_timesteps(UniformGroups(count=3), mixed))
    assert not (errors.rounding + errors.clipping)[[0, 3]].any()
    assert errors.per_site()[1] > errors.per_site()[2] > 0
    assert errors.total == pytest.approx(errors.per_site()[[1, 2]].mean())
    assert not len(mixed.ranges(errors.groups)[0][0])


@pytest.mark.parametrize(
    "spec", [MseSearch(), MinMax(), Percentile()], ids=["mse", "minmax", "percentile"]
)
def test_no_step_loses_more_than_it_has_even_where_it_fits_into_one_bin(spec):
    rng = np.random.default_rng(0)
    sizes = (1.0, 1e-4, 0.0, 1e-2)
    stats = stats_of(
        [[(size * rng.standard_normal((300, 4))).astype(np.float32) for size in sizes]]
    )
    table = table_of(stats, 4, range=spec)
    for grouping in (SharedRange(), PerStep(), OptimalGroups(count=2)):
        relative = table.errors(group_timesteps(grouping, table)).relative
        assert np.isfinite(relative).all() and relative.min() >= 0 and relative.max() <= 1.001


def test_quick_errors_are_close_to_exact_ones():
    bins = Bins(random_stats(sites=1, steps=6), 0)
    for bits in (2, 3, 5, 8):
        low, high = np.array([-8.0, -2.0, -0.2]), np.array([9.0, 2.5, 0.3])
        exact = sum(bins.errors(low, high, bits, False))[1:4].sum(0)
        quick = QuickErrors(bins, bits, False)(np.array([1]), np.array([4]), low, high)
        np.testing.assert_allclose(quick, exact, rtol=0.03)


def test_far_bins_are_joined_and_near_ones_are_not():
    edges = join_edges(512)
    np.testing.assert_array_equal(edges, -edges[::-1])
    assert edges[edges >= 0][:72].tolist() == [*range(65), 66, 68, 70, 72, 74, 76, 78]
    assert edges[-1] == 512 and (np.diff(edges) <= np.maximum(np.abs(edges[1:]) / 32, 1)).all()
