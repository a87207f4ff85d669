import dataclasses

import numpy as np
import pytest

from dmq.figures import search as figures
from dmq.results import SearchResult, SearchSnapshot, Site


SITES = tuple(Site(name=f"down_blocks.{s}.conv", point="input", kind="conv") for s in range(2))
SURE = np.array([1.0, 0.0, 0.0])
TORN = np.full(3, 1 / 3)
LEFT = np.array([[SURE, SURE, TORN, TORN], [SURE, TORN, [0.2, 0.5, 0.3], [0, 0, 1.0]]])  # [2, 4, 3]


def result(**changes):
    lines = np.array([0.1, 0.2, 0.4, 0.8])
    made = SearchResult(
        model="m",
        fingerprint="f",
        sampler="s",
        timesteps=(3, 2, 1, 0),
        sites=SITES,
        bits=np.array([4, 4], np.uint8),
        slot=LEFT.argmax(2).astype(np.int16),
        low=np.zeros((2, 3), np.float32),
        high=np.ones((2, 3), np.float32),
        importance=LEFT.astype(np.float16),
        visits=np.array([3, 1, 0, 2]),
        steps=np.arange(4),
        errors=lines,
        penalties=lines,
        soft=lines,
        hard=2 * lines,
        refitted=3 * lines,
        local={"shared": 4 * lines, "learned": lines},
    )
    return dataclasses.replace(made, **changes)


def by_name(figure):
    return {part.name: part for part in figure.data}


def test_the_assignment_shows_the_heaviest_group_and_veils_what_is_unsure():
    groups, veil = figures.assignment(SITES, LEFT).data
    assert np.asarray(groups.z).tolist() == LEFT.argmax(2).tolist()
    np.testing.assert_allclose(np.asarray(veil.z)[0], [0, 0, 1, 1], atol=1e-6)
    assert 0 < np.asarray(veil.z)[1, 2] < 1
    assert "weight 0.50" in groups.text[1][2] and "group 1" in groups.text[1][2]


def test_importance_is_stacked_over_all_groups():
    figure = figures.importance(LEFT.mean(0))
    assert [part.name for part in figure.data] == ["0", "1", "2"]
    np.testing.assert_allclose(sum(np.asarray(part.y) for part in figure.data), 1, rtol=1e-6)


def test_uncertainty_has_entropy_and_uses_on_axes_of_their_own():
    parts = by_name(figures.uncertainty(figures.entropy_of(LEFT), np.array([3, 1, 0, 2])))
    assert parts["times used"].y.tolist() == [3, 1, 0, 2] and parts["entropy"].yaxis == "y2"
    assert parts["entropy"].y[0] == 0 and 0 < parts["entropy"].y[3] < parts["entropy"].y[2] < 1


def test_entropy_is_one_where_all_groups_weigh_the_same():
    np.testing.assert_allclose(figures.entropy_of(np.full((5, 2, 8), 1 / 8)), 1)


def test_the_loss_is_a_running_mean_that_leaves_gaps_out():
    errors = np.array([1.0, 3.0, np.nan, 5.0])
    assert by_name(figures.loss(errors, errors))["noise error"].y.tolist() == [1, 2, 2, 3]
    long = np.repeat([1.0, 9.0], 100)
    smooth = by_name(figures.loss(long, long))["entropy term"].y
    assert smooth[99] == 1 and smooth[199] == 9 and smooth[110] == pytest.approx(1 + 8 * 11 / 25)


def test_a_long_search_sends_few_points():
    assert len(figures.loss(np.ones(50_000), np.ones(50_000)).data[0].y) <= 1000


def test_noise_errors_leave_out_what_was_not_measured():
    figure = figures.noise_errors(result(soft=np.full(4, np.nan)))
    assert sorted(by_name(figure)) == ["as kept", "hard groups"]
    np.testing.assert_allclose(by_name(figure)["hard groups"].y, [20, 40, 80, 160], rtol=1e-6)


def test_yardsticks_are_means_in_percent_and_the_learned_one_stands_out():
    (bars,) = figures.yardsticks(result()).data
    assert dict(zip(bars.y, bars.x, strict=True)) == pytest.approx({"shared": 150, "learned": 37.5})
    assert bars.marker.color[0] != bars.marker.color[1]


def test_the_live_view_follows_the_snapshot():
    shot = SearchSnapshot(
        phase="Search",
        done=1,
        total=2,
        step=0,
        error=0.1,
        penalty=0.1,
        importance=LEFT,
        entropy=figures.entropy_of(LEFT),
        visits=np.array([1, 0, 0, 0]),
    )
    weights, unsure = figures.live(shot)
    np.testing.assert_allclose(weights.data[0].y, LEFT.mean(0)[:, 0], rtol=1e-6)
    assert by_name(unsure)["times used"].y.tolist() == [1, 0, 0, 0]
