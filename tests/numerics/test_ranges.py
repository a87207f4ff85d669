import pytest
import torch

from dmq.numerics import ranges
from dmq.numerics.ranges import find_range, measure_squared_error
from dmq.recipe import MinMax, MseSearch, Percentile


@pytest.fixture
def rows():
    x = torch.randn(7, 301, generator=torch.Generator().manual_seed(0)) ** 3
    x[2] = x[2].abs()
    x[3] = 0
    x[4, 0] = -80  # one outlier
    return x


@pytest.fixture(params=[False, True], ids=["asymmetric", "symmetric"])
def symmetric(request):
    return request.param


def test_min_max_is_the_extremes(rows):
    low, high = find_range(MinMax(), rows, 8, False)
    assert torch.equal(low, rows.min(1).values) and torch.equal(high, rows.max(1).values)


@pytest.mark.parametrize("percent", [90.0, 99.0, 99.9, 100.0])
def test_percentile_equals_torch_quantile(rows, percent):
    low, high = find_range(Percentile(percent=percent), rows, 8, False)
    tail = (1 - percent / 100) / 2
    assert torch.allclose(low, rows.quantile(tail, dim=1), rtol=1e-4)
    assert torch.allclose(high, rows.quantile(1 - tail, dim=1), rtol=1e-4)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_search_is_never_worse_than_min_max(rows, bits, symmetric):
    found = measure_squared_error(
        rows, *find_range(MseSearch(), rows, bits, symmetric), bits, symmetric
    )
    full = measure_squared_error(
        rows, *find_range(MinMax(), rows, bits, symmetric), bits, symmetric
    )
    assert (found <= full).all()
    if bits <= 3:  # with many bits there is little to gain
        assert (found < full).sum() >= 5


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_search_comes_close_to_trying_everything(rows, bits):
    """An oracle that tries 40 x 40 ranges finds little that the search does not."""
    shares = torch.linspace(1 / 40, 1, 40)
    for row in rows[[0, 2, 4]]:
        every = [
            measure_squared_error(row[None], low[None], high[None], bits, False)
            for low, high in torch.cartesian_prod(
                shares * row.min().clamp(max=0), shares * row.max()
            )
        ]
        found = measure_squared_error(
            row[None], *find_range(MseSearch(candidates=128), row[None], bits, False), bits, False
        )
        assert found <= 1.35 * min(every)


def test_one_outlier_does_not_cost_both_sides():
    """Values within -1..1 and one at -4: the low end moves alone, and so beats whatever moves
    both ends.
    """
    row = torch.linspace(-1, 1, 301)[None].clone()
    row[0, 0] = -4
    low, high = find_range(MseSearch(), row, 3, False)
    together = [
        measure_squared_error(row, part * row.min(1).values, part * row.max(1).values, 3, False)
        for part in torch.linspace(1 / 64, 1, 64)
    ]
    assert measure_squared_error(row, low, high, 3, False) < 0.8 * min(together)
    assert low > -3 and high > 0.75


@pytest.mark.parametrize(
    "spec", [MinMax(), Percentile(percent=99.0), MseSearch()], ids=lambda s: type(s).__name__
)
def test_rows_do_not_know_each_other(rows, spec, symmetric, monkeypatch):
    """Together, one by one, or in small chunks: the same ranges."""
    low, high = find_range(spec, rows, 4, symmetric)
    alone = [find_range(spec, row[None], 4, symmetric) for row in rows]
    assert torch.equal(low, torch.cat([a for a, _ in alone])) and torch.equal(
        high, torch.cat([b for _, b in alone])
    )
    monkeypatch.setattr(ranges, "chunk_size", lambda device: 64)
    chunked_low, chunked_high = find_range(spec, rows, 4, symmetric)
    assert torch.allclose(chunked_low, low, rtol=0.1) and torch.allclose(
        chunked_high, high, rtol=0.1
    )
