"""Random mixes, and what labels are made into."""

import numpy as np
import pytest

from dmq.allocation.labels import average_bits, leave_out, relevance, sample_mixes
from dmq.recipe import Predictor, parse_format


PAPER = Predictor().choices


def test_mixes_spread_over_all_average_bits():
    mixes = sample_mixes(PAPER, 200, 400, 0)
    share = (np.array([choice.bits for choice in PAPER])[mixes] == 3).mean(1)
    # p ~ U(0, 1) for each mix: deciles hold a tenth each; one coin for each layer would put all of
    # them at one half
    counts = np.histogram(share, 10, (0, 1))[0]
    assert counts.min() > 20 and counts.max() < 65
    for bits in (3, 4):  # the quantizers of the same bits are as likely
        same = [n for n, choice in enumerate(PAPER) if choice.bits == bits]
        counts = np.array([(mixes == n).sum() for n in same])
        assert counts.min() > 0.95 * counts.mean()


def test_more_mixes_begin_with_the_same_ones():
    np.testing.assert_array_equal(sample_mixes(PAPER, 30, 5, 3), sample_mixes(PAPER, 30, 9, 3)[:5])
    assert (sample_mixes(PAPER, 30, 5, 3) != sample_mixes(PAPER, 30, 5, 4)).any()


def test_three_kinds_of_bits_have_shares_of_their_own():
    choices = tuple(map(parse_format, ("UAQ-4", "KMC-3", "UAQ-2", "KMA-2")))
    bits = np.array([choice.bits for choice in choices])[sample_mixes(choices, 300, 300, 0)]
    for kind in (2, 3, 4):
        share = (bits == kind).mean(1)
        assert share.mean() == pytest.approx(1 / 3, abs=0.04)
        assert share.min() < 0.05 and share.max() > 0.8


def test_average_bits_count_tables():
    sizes = np.array([[8, 4], [20, 10]])
    assert average_bits(np.array([[0, 1], [1, 0]]), sizes, np.array([8.0, 20.0])).tolist() == [
        8 * 18 / 28,
        8 * 24 / 28,
    ]


def test_relevance_starts_at_the_fifth_quantile_of_what_was_seen():
    seen = np.arange(11.0)
    made = relevance(np.array([-3.0, 2.0, 6.0, 10.0, 12.0]), seen)
    assert made.tolist() == [0, 0, 2.5, 5, 5]
    assert relevance(np.ones(3), np.ones(3)).tolist() == [0, 0, 0]


def test_what_bits_explain_is_taken_out():
    rng = np.random.default_rng(0)
    bits, rest = rng.uniform(3, 4, 50), rng.normal(size=50)
    left = leave_out(7 * bits + rest, bits)
    assert abs(np.corrcoef(left, bits)[0, 1]) < 1e-9
    np.testing.assert_allclose(left, leave_out(rest, bits), atol=1e-9)
