"""Distances between sets of features against closed forms, brute force, and what must not change
them.
"""

import numpy as np
import pytest

from dmq.errors import DmqError
from dmq.metrics import sets


def drawn(n, d, seed, shift=0.0, scale=1.0):
    return np.random.default_rng(seed).standard_normal((n, d)) * scale + shift


@pytest.mark.parametrize(("n", "d"), [(200, 5), (20, 64)], ids=["more-images", "more-features"])
def test_a_set_has_no_distance_to_itself_and_order_does_not_matter(n, d):
    a, b = drawn(n, d, 0), drawn(n, d, 1, 0.3, 1.4)
    power = np.cov(a.T).trace()
    assert sets.fid(a, a) <= 1e-10 * power and sets.cmmd(a, a) == 0
    for name, measure in sets.SET_MEASURES.items():
        assert measure(a, b) == pytest.approx(measure(b, a), rel=1e-9), name
        assert measure(a[::-1], b) == pytest.approx(measure(a, b), rel=1e-9), name
        assert measure(a, b) > measure(a, drawn(n, d, 2)) or name == "kid"


def test_the_frechet_distance_of_gaussians_has_a_closed_form():
    """For covariances that commute it is |m - n|^2 + sum (sqrt(s) - sqrt(r))^2 of their
    eigenvalues.
    """
    rng = np.random.default_rng(3)
    turn, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    s, r, m, n = (
        rng.uniform(0, 4, 6),
        rng.uniform(0, 4, 6),
        rng.standard_normal(6),
        rng.standard_normal(6),
    )
    s[0] = r[1] = 0  # singular ones as well
    found = sets.frechet(m, turn @ np.diag(s) @ turn.T, n, turn @ np.diag(r) @ turn.T)
    assert found == pytest.approx(((m - n) ** 2).sum() + ((s**0.5 - r**0.5) ** 2).sum(), rel=1e-7)
    # Of those that do not commute: 2 x 2, where Tr sqrt(M) = sqrt(Tr M + 2 sqrt(det M)).
    a, b = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[1.0, -0.4], [-0.4, 3.0]])
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    assert sets.frechet(m[:2], a, m[:2], b) == pytest.approx(np.trace(a + b) - 2 * root, rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(40, 6), (20, 64)], ids=["more-images", "more-features"])
def test_fid_is_the_frechet_distance_of_the_fitted_gaussians(n, d):
    a, b = drawn(n, d, 0), drawn(n + 5, d, 1, 0.5, 1.5)
    fitted = sets.frechet(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))
    assert sets.fid(a, b) == pytest.approx(fitted, rel=1e-6)
    large = sets.fid(drawn(20_000, 3, 0), drawn(20_000, 3, 1, 2.0, 3.0))
    assert large == pytest.approx(3 * 2.0**2 + 3 * (3 - 1) ** 2, rel=0.05)


def test_fid_is_biased_upwards_as_a_floor_shows_and_kid_is_not():
    pairs = [(drawn(24, 16, 2 * k), drawn(24, 16, 2 * k + 1)) for k in range(60)]
    kids = np.array([sets.kid(a, b) for a, b in pairs])
    assert abs(kids.mean()) < 3 * kids.std() / np.sqrt(60) and (kids < 0).any()
    small, more = (
        np.mean([sets.fid(a, b) for a, b in pairs]),
        sets.fid(drawn(5000, 16, 0), drawn(5000, 16, 1)),
    )
    assert small > 20 * more


def test_kid_and_cmmd_equal_sums_over_pairs():
    a, b = drawn(7, 4, 0), drawn(5, 4, 1, 0.5)

    def cubic(x, y):
        return (x @ y / 4 + 1) ** 3

    expected = np.mean([cubic(a[i], a[j]) for i in range(7) for j in range(7) if i != j])
    expected += np.mean([cubic(b[i], b[j]) for i in range(5) for j in range(5) if i != j])
    expected -= 2 * np.mean([cubic(x, y) for x in a for y in b])
    assert sets.kid(a, b) == pytest.approx(expected, rel=1e-12)
    u, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))

    def mean(x, y):
        return np.mean([np.exp(-((p - q) ** 2).sum() / 200) for p in x for q in y])

    assert sets.cmmd(a, b) == pytest.approx(
        1000 * (mean(u, u) + mean(v, v) - 2 * mean(u, v)), rel=1e-8
    )
    assert sets.cmmd(3 * a, b) == pytest.approx(sets.cmmd(a, b)), "only directions count"


@pytest.mark.parametrize(("name", "fewest"), [("fid", 16), ("kid", 2), ("cmmd", 2)])
def test_too_few_images_are_refused_with_the_minimum_and_the_reason(name, fewest):
    measure = sets.SET_MEASURES[name]
    assert np.isfinite(measure(drawn(fewest, 3, 0), drawn(fewest, 3, 1)))
    with pytest.raises(
        DmqError, match=rf"{name.upper()} needs at least {fewest} images, got {fewest - 1}: \w+"
    ):
        measure(drawn(fewest, 3, 0), drawn(fewest - 1, 3, 1))
    with pytest.raises(ValueError, match=r"\[N, D\]"):
        measure(drawn(20, 3, 0), drawn(20, 4, 1))
