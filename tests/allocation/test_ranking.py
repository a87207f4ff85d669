"""Losses of an order: least where it is right, and with gradients; figures of an order, against
their definitions.
"""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from dmq.allocation.ranking import ndcg, ndcg_loss, rank_loss, soft_ranks, spearman, srcc_loss
from dmq.allocation.ridge import PENALTIES, ridge


@pytest.mark.parametrize("loss", [srcc_loss, ndcg_loss])
@pytest.mark.parametrize("top", [5.0, 50.0])
def test_the_right_order_has_the_least_loss_and_swaps_cost(loss, top):
    relevance = torch.tensor([0.0, 0.1, 0.35, 0.6, 1.0], dtype=torch.float64) * top
    values = torch.tensor([1.0, 1.5, 1.6, 3.0, 4.0], dtype=torch.float64)
    found = {order: loss(values[list(order)], relevance).item() for order in permutations(range(5))}
    right = found[tuple(range(5))]
    assert np.isfinite(list(found.values())).all()
    assert all(cost > right for order, cost in found.items() if order != tuple(range(5)))
    for k in range(4):  # neighbours in the wrong order
        order = list(range(5))
        order[k], order[k + 1] = order[k + 1], order[k]
        assert found[tuple(order)] > right


def test_losses_of_a_right_order_are_small_and_of_a_wrong_one_large():
    relevance = torch.arange(6.0)
    for loss in (srcc_loss, ndcg_loss):
        assert loss(relevance * 10, relevance) < 0.1 < 0.3 < loss(-relevance, relevance)


@pytest.mark.parametrize("kind", ["srcc", "ndcg", "hybrid"])
def test_gradients_lead_to_the_right_order(kind):
    relevance = torch.tensor([3.0, 1.0, 0.0, 2.0])
    values = torch.zeros(4).add(torch.tensor([0.0, 0.1, 0.2, 0.3])).requires_grad_()
    optimizer = torch.optim.Adam([values], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        rank_loss(kind, values, relevance).backward()
        optimizer.step()
    assert values.argsort().tolist() == relevance.argsort().tolist()


def test_equal_values_have_equal_ranks_and_a_finite_gradient():
    values = torch.ones(5, requires_grad=True)
    assert soft_ranks(values).tolist() == pytest.approx([2.0] * 5)
    rank_loss("hybrid", values, torch.arange(5.0)).backward()
    assert values.grad.isfinite().all()


def test_soft_ranks_are_ranks_where_values_are_far_apart():
    assert soft_ranks(torch.tensor([3.0, 9.0, -4.0])).tolist() == pytest.approx([1, 2, 0], abs=0.1)


def test_spearman_with_ties_and_without_any_order():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 40).astype(float), rng.normal(size=40)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert spearman(np.ones(4), np.arange(4.0)) == 0


def test_ndcg_is_the_share_of_the_best_gain():
    assert ndcg(np.array([3.0, 2.0, 1.0]), np.array([2.0, 1.0, 0.0])) == 1
    worst = ndcg(np.array([1.0, 2.0, 3.0]), np.array([2.0, 1.0, 0.0]))
    gains, discount = np.array([3.0, 1.0, 0.0]), 1 / np.log2([2.0, 3.0, 4.0])
    assert worst == pytest.approx((gains[::-1] * discount).sum() / (gains * discount).sum())


def test_ridge_chooses_the_penalty_with_the_least_error_of_rows_left_out():
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(30, 8))
    target = columns @ rng.normal(size=8) + rng.normal(size=30)
    taught = np.arange(30) < 24
    predicted, weights = ridge(columns, target, taught, scaled=False)
    x, y = columns[taught] - columns[taught].mean(0), target[taught] - target[taught].mean()

    def fit(rows, penalty):
        own = x[rows] - x[rows].mean(0)
        return np.linalg.solve(
            own.T @ own + penalty * np.eye(8), own.T @ (y[rows] - y[rows].mean())
        )

    unit = np.linalg.eigvalsh(x @ x.T).mean()

    def left_out(penalty):
        total = 0.0
        for n in range(24):
            rows = np.delete(np.arange(24), n)
            total += (y[n] - y[rows].mean() - (x[n] - x[rows].mean(0)) @ fit(rows, penalty)) ** 2
        return total

    best = min(PENALTIES * unit, key=left_out)
    np.testing.assert_allclose(weights, fit(np.arange(24), best), rtol=1e-6)
    np.testing.assert_allclose(
        predicted, (columns - columns[taught].mean(0)) @ weights + target[taught].mean()
    )


def test_ridge_with_more_columns_than_rows_finds_what_was_planted():
    rng = np.random.default_rng(1)
    columns = rng.normal(size=(60, 200))
    target = 3 * columns[:, 5]
    weights = ridge(columns, target, np.ones(60, bool))[1]
    assert np.abs(weights).argmax() == 5
