"""Intervals: how often they hold the truth, on distributions that are known; what belongs
together stays together.
"""

import numpy as np
import pytest

from dmq.metrics import intervals, sets


def test_the_bootstrap_holds_the_mean_as_often_as_it_says():
    """80 prompts with 3 seeds that share most of their prompt's value: images generated alone
    would promise too much.
    """
    rng, held, naive = np.random.default_rng(0), 0, 0
    clusters = np.repeat(np.arange(80), 3)
    for k in range(400):
        values = np.repeat(rng.standard_normal(80), 3) + 0.3 * rng.standard_normal(240)
        low, high = intervals.bootstrap(values, clusters, repeats=400, seed=k)
        held += low <= 0 <= high
        low, high = intervals.bootstrap(values, np.arange(240), repeats=400, seed=k)
        naive += low <= 0 <= high
    assert 0.90 < held / 400 < 0.98 and naive / 400 < 0.85


def test_the_same_images_give_the_same_interval_and_prompts_may_have_unequal_numbers():
    values, clusters = np.arange(7.0), np.array([0, 0, 1, 2, 2, 2, 5])
    first = intervals.bootstrap(values, clusters)
    assert first == intervals.bootstrap(values, clusters)
    many = np.random.default_rng(0).standard_normal(50)
    assert intervals.bootstrap(many, np.arange(50)) != intervals.bootstrap(
        many, np.arange(50), seed=1
    )
    assert 0 <= first[0] <= values.mean() <= first[1] <= 6
    assert intervals.bootstrap(np.full(4, 2.5), np.arange(4)) == (2.5, 2.5)
    assert np.isnan(intervals.bootstrap(values[:2], clusters[:2])).all(), "one prompt"
    assert intervals.bootstrap(np.array([30.0, 31.0, np.inf]), np.arange(3))[1] == np.inf


def test_the_jackknife_of_a_mean_is_the_textbook_interval():
    values = np.random.default_rng(1).standard_normal(20)
    low, high = intervals.jackknife(lambda rows: values[rows].mean(), np.arange(20))
    half = 2.093024 * values.std(ddof=1) / np.sqrt(20)  # Student's t for 19 degrees of freedom
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half))


def test_the_jackknife_of_a_set_distance_holds_the_truth():
    """Unbiased MMD^2 of two Gaussians one apart, whose mean over many generates is the truth."""

    def both(seed):
        rng = np.random.default_rng(seed)
        return rng.standard_normal((30, 3)), rng.standard_normal((30, 3)) + 0.5

    truth = np.mean([sets.kid(*both(k)) for k in range(1000, 2000)])
    held = 0
    for k in range(150):
        a, b = both(k)
        low, high = intervals.jackknife(
            lambda rows, a=a, b=b: sets.kid(a[rows], b[rows]), np.arange(30)
        )
        held += low <= truth <= high
    assert 0.88 < held / 150


def test_what_the_jackknife_leaves_out_are_whole_prompts():
    clusters, left = np.repeat(np.arange(5), 2), []
    intervals.jackknife(
        lambda rows: float(left.append(set(range(10)) - set(rows.tolist())) or 0), clusters
    )
    assert (
        sorted(map(sorted, left[:-1])) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
        and left[-1] == set()
    )
    assert np.isnan(intervals.jackknife(lambda rows: 1.0, np.zeros(4))).all()
