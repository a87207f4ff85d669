import numpy as np
import pytest
import torch

from dmq.numerics.codebook import COMPARED, kmeans, look_up, nearest


def draws(name, rows=6, n=60):
    """Rows of several shapes: with one peak, heavy tails, two far clusters, and far from zero."""
    x = torch.randn(rows, n, generator=torch.Generator().manual_seed(0))
    return {
        "normal": x,
        "tails": x**3,
        "two": x / 50 + (torch.arange(n) % 2),
        "far": x / 100 + 7.0,
    }[name]


SHAPES = ["normal", "tails", "two", "far"]


def error(rows, codes, centroids):
    """Of each row, in float64."""
    return (look_up(codes, centroids).double() - rows.double()).square().sum(1)


def least_error(row, k):
    """The error of the best of all partitions into k runs of neighbours, by dynamic programming
    over all borders.
    """
    x = np.sort(row.double().numpy())
    n = len(x)
    cost = np.full((n + 1, n + 1), np.inf)
    for i in range(n):
        for j in range(i + 1, n + 1):
            cost[i, j] = ((x[i:j] - x[i:j].mean()) ** 2).sum()
    best = cost[0]
    for _ in range(k - 1):
        best = np.minimum(best, (best[:, None] + cost).min(0))
    return best[n]


@pytest.mark.parametrize("k", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_error_is_nearly_that_of_the_best_partition(shape, k):
    rows = draws(shape)
    least = np.array([least_error(row, k) for row in rows])
    found = error(rows, *kmeans(rows, k, 30)).numpy()
    assert (found >= least * (1 - 1e-5)).all()
    assert (
        found.sum() <= (1.2 if shape == "tails" else 1.03) * least.sum()
    )  # quantiles of the row: 1.5 and more


@pytest.mark.parametrize("given", [False, True], ids=["own start", "given start"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_error_never_rises_with_iterations(shape, given):
    rows = draws(shape, rows=300, n=90)  # more rows than are looked at together
    start = torch.linspace(float(rows.min()), float(rows.max()), 8) if given else None
    errors = torch.stack(
        [error(rows, *kmeans(rows, 8, iterations, start)) for iterations in range(12)]
    )
    assert (errors.diff(dim=0) <= 1e-6 * errors[:-1] + 1e-9).all()
    assert not given or (errors[-1] < errors[0]).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_codebooks_of_channels_that_start_from_that_of_all_are_never_worse(shape):
    rows = draws(shape) * torch.arange(1, 7)[:, None]
    codes, shared = kmeans(rows.reshape(1, -1), 8, 30)
    of_all = error(rows, codes.view(rows.shape), shared.expand(len(rows), -1))
    for iterations in (0, 1, 30):
        assert (error(rows, *kmeans(rows, 8, iterations, shared)) <= of_all * (1 + 1e-6)).all()


@pytest.mark.parametrize("k", [4, 64, 256])
def test_few_different_values_are_met_exactly(k):
    """Rare ones included, and beside rows that have more of them."""
    few = torch.tensor([-3.0, 0.0, 1e-6, 4.0])[torch.arange(300) % 3 + (torch.arange(300) == 7)]
    rows = torch.stack([few, torch.zeros(300), torch.full((300,), 2.5), torch.linspace(0, 1, 300)])
    codes, centroids = kmeans(rows, k, 5)
    assert torch.equal(look_up(codes, centroids)[:3], rows[:3])
    assert 0 < error(rows, codes, centroids)[3] < 2
    assert centroids.isfinite().all() and (centroids.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_rows_may_be_shorter_than_the_codebook(n):
    rows = torch.randn(4, n, generator=torch.Generator().manual_seed(1))
    codes, centroids = kmeans(rows, 8, 3)
    assert centroids.shape == (4, 8) and torch.equal(look_up(codes, centroids), rows)


def test_rows_do_not_know_each_other():
    rows = draws("tails", rows=5)
    codes, centroids = kmeans(rows, 8, 30)
    for r in range(5):
        alone = kmeans(rows[r : r + 1], 8, 30)
        assert torch.equal(alone[0], codes[r : r + 1]) and torch.equal(
            alone[1], centroids[r : r + 1]
        )


@pytest.mark.parametrize("k", [2, COMPARED, COMPARED + 1, 256])
def test_codes_name_the_nearest_centroid(k):
    rows = draws("tails", rows=3, n=200)
    centroids = torch.randn(3, k, generator=torch.Generator().manual_seed(2)).sort(1).values
    away = (rows[:, :, None] - centroids[:, None, :]).abs()
    chosen = away.gather(2, nearest(rows, centroids).long()[:, :, None])[:, :, 0]
    assert torch.allclose(chosen, away.amin(2))


@pytest.mark.parametrize("k", [0, 257])
def test_other_numbers_of_centroids_are_refused(k):
    with pytest.raises(ValueError, match="k must be 1 to 256"):
        kmeans(torch.zeros(1, 4), k, 1)
