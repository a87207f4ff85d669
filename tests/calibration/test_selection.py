"""Which steps count: shares, equal numbers of samples, and that ranges follow them."""

import numpy as np
import pytest

from dmq.calibration.selection import draw, step_counts
from dmq.recipe import (
    Activations,
    ActiveSteps,
    AllSteps,
    ManualGroups,
    MinMax,
    MseSearch,
    NormalSteps,
    Percentile,
    PerStep,
    SharedRange,
    UniformSteps,
)
from dmq.trajectory.errors import ErrorTable
from dmq.trajectory.grouping import group_timesteps
from tests.helpers import stats_of, values


class Found:
    visits = np.array([5, 0, 0, 1, 2, 0], np.int32)


SPECS = {
    "all": AllSteps(),
    "uniform": UniformSteps(count=3),
    "more than there are": UniformSteps(count=20),
    "normal": NormalSteps(count=50),
    "active": ActiveSteps(),
}


def counts(spec, steps=6):
    return step_counts(spec, steps, Found())


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("samples", [7, 64, 1024])
def test_every_choice_gives_equal_numbers_of_samples_in_its_shares(spec, samples):
    made = counts(spec)
    drawn = np.bincount(draw(made, samples), minlength=6)
    assert len(made) == 6 and drawn.sum() == samples
    assert (np.abs(drawn - samples * made / made.sum()) <= 1).all()
    assert (drawn[made == 0] == 0).all()


def test_uniform_steps_are_evenly_spaced():
    assert counts(UniformSteps(count=3)).tolist() == [0, 1, 0, 1, 0, 1]
    assert counts(UniformSteps(count=6)).tolist() == [1] * 6
    assert np.ptp(counts(UniformSteps(count=20))) <= 1


def test_normal_steps_lie_towards_the_clean_end():
    made = step_counts(NormalSteps(count=20_000, mean=0.4, std=0.1), 101, None)
    remaining = 100 - np.repeat(np.arange(101), made)
    assert remaining.mean() == pytest.approx(40, abs=0.5) and remaining.std() == pytest.approx(
        10, abs=0.5
    )
    clipped = counts(NormalSteps(count=500, mean=0.0, std=2.0))
    assert clipped.sum() == 500 and clipped[-1] > 200


def test_active_steps_are_those_of_the_search():
    assert counts(ActiveSteps()).tolist() == Found.visits.tolist()


RANGES = {"mse": MseSearch(), "minmax": MinMax(), "percentile": Percentile(percent=98.0)}


@pytest.mark.parametrize("spec", RANGES.values(), ids=RANGES)
def test_a_shared_range_is_made_of_the_chosen_steps_alone(spec):
    """The statistics of two steps, against a table of all steps in which only these two count."""
    seen = values(sites=3, steps=6, seed=1)
    chosen, all_bits = [1, 4], np.full(3, 5)
    weights = np.isin(np.arange(6), chosen).astype(float)
    table = ErrorTable(stats_of(seen), Activations(range=spec), all_bits, weights)
    of_two = stats_of([[rows[i] for i in chosen] for rows in seen])
    alone = ErrorTable(of_two, Activations(range=spec), all_bits)
    ours, theirs = (t.errors(group_timesteps(SharedRange(), t)) for t in (table, alone))
    # Candidates and bins differ a little where they were made of other steps.
    np.testing.assert_allclose(ours.relative[:, chosen].sum(1), theirs.relative.sum(1), rtol=0.1)
    if not isinstance(spec, MseSearch):
        np.testing.assert_allclose(ours.low[:, 0], theirs.low[:, 0], rtol=0.05, atol=1e-3)
    plain = ErrorTable(stats_of(seen), Activations(range=spec), all_bits)
    assert not np.allclose(plain.errors(group_timesteps(SharedRange(), plain)).low, ours.low)


@pytest.mark.parametrize("spec", RANGES.values(), ids=RANGES)
def test_where_no_step_counts_all_do(spec):
    stats, bits = stats_of(values(sites=2, steps=6, seed=1)), np.full(2, 5)
    table = ErrorTable(stats, Activations(range=spec), bits, np.array([1.0, 0, 0, 0, 0, 0]))
    plain = ErrorTable(stats, Activations(range=spec), bits)
    for grouping in (PerStep(), ManualGroups(boundaries=(1, 4))):
        ours, theirs = (t.errors(group_timesteps(grouping, t)) for t in (table, plain))
        # Quantiles are differences of sums in which the others weigh a thousand million times more.
        np.testing.assert_allclose(ours.low, theirs.low, rtol=1e-3)
        np.testing.assert_allclose(ours.relative, theirs.relative, rtol=1e-3)


@pytest.mark.parametrize("spec", [MseSearch(), MinMax()], ids=["mse", "minmax"])
def test_costs_of_runs_are_of_every_step_under_the_range_of_the_chosen(spec):
    weights = np.array([1.0, 0, 2, 0, 0, 1])
    table = ErrorTable(
        stats_of(values(sites=3, steps=6, seed=1)), Activations(range=spec), np.full(3, 5), weights
    )
    groups = group_timesteps(ManualGroups(boundaries=(2,)), table)
    relative, costs = table.errors(groups).relative, table.segment_costs()
    for a, e in ((0, 2), (2, 6)):
        np.testing.assert_allclose(
            costs[:, a, e], relative[:, a:e].sum(1), rtol=1e-5 if spec == MseSearch() else 0.15
        )
