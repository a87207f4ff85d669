import numpy as np
import pytest
import torch

from dmq.numerics.mergeable import BINS, SMALLEST, bin_counts, coarsen, fit_exponent, merge


def values(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3


def test_counts_are_those_of_numpy():
    x = values(2, 5000)
    k = fit_exponent(x.abs().amax(1))
    counts = bin_counts(x, k)
    for row in range(2):
        edges = np.arange(-512, 513) * 2.0 ** int(k[row])
        expected, _ = np.histogram(x[row].double().numpy(), edges)
        assert counts[row].tolist() == expected.tolist()


@pytest.mark.parametrize("x", [1e-38, 0.3, 0.5, 1.0, 511.99, 512.0, 7e4, 3e38])
def test_the_exponent_is_the_smallest_that_holds_both_signs(x):
    k = int(fit_exponent(torch.tensor(x)))
    x = float(torch.tensor(x))
    assert x < 512 * 2.0**k
    assert k == SMALLEST or x >= 512 * 2.0 ** (k - 1)
    if k > -120:
        assert bin_counts(torch.tensor([[x, -x]]), torch.tensor([k])).sum() == 2


def test_only_zeros_fall_into_the_bin_that_starts_at_zero():
    k = fit_exponent(torch.zeros(1))
    assert k.tolist() == [SMALLEST]
    assert bin_counts(torch.zeros(1, 3), k)[0, BINS // 2] == 3


@pytest.mark.parametrize("by", [0, 1, 2, 5, 9, 10, 40])
def test_coarse_counts_are_those_of_wide_bins(by):
    x = values(1, 4000)
    k = fit_exponent(x.abs().amax(1))
    assert torch.equal(coarsen(bin_counts(x, k), by), bin_counts(x, k + by))


def test_merging_equals_counting_at_once():
    a, b = values(1, 999, seed=1), values(1, 500, seed=2) * 40
    ka, kb = (fit_exponent(x.abs().amax(1)) for x in (a, b))
    assert kb > ka
    merged, k = merge(bin_counts(a, ka), int(ka), bin_counts(b, kb), int(kb))
    both = torch.cat([a, b], 1)
    assert k == int(fit_exponent(both.abs().amax(1))[0])
    assert torch.equal(merged, bin_counts(both, torch.tensor([k])))


def test_bins_cannot_be_split():
    with pytest.raises(ValueError, match="cannot be split"):
        coarsen(torch.ones(BINS), -1)
