"""How well an order is predicted, as losses with gradients and as plain figures."""

import numpy as np
import torch
from torch import Tensor


SOFTNESS = 0.3  # of ranks, in standard deviations of what is ranked


def soft_ranks(values: Tensor) -> Tensor:
    """Ranks [N] with gradients: how many values each one is above, softly; 0 the lowest, N - 1 the
    highest.

    The rank of a value depends on all values and not on whose they are: whatever sum of products of
    ranks with other numbers is greatest in the right order, is so among all orders of the same
    values."""
    spread = (values - values.mean()) / values.std().clamp_min(1e-6)
    return torch.sigmoid((spread[:, None] - spread) / SOFTNESS).sum(1) - 0.5


def srcc_loss(values: Tensor, relevance: Tensor) -> Tensor:
    """1 - the correlation of `relevance` [N] with the soft ranks of `values` [N]: 0 to 2."""
    ranks, wanted = (x - x.mean() for x in (soft_ranks(values), relevance))
    return 1 - (ranks * wanted).sum() / (ranks.norm() * wanted.norm()).clamp_min(1e-6)


def ndcg_loss(values: Tensor, relevance: Tensor) -> Tensor:
    """1 - the discounted gain of the predicted order over that of the right one; gains 2^relevance,
    ranks are soft.

    Relevances of any size: gains are taken relative to the greatest.
    """
    gains = torch.exp2(relevance - relevance.max())
    places = len(values) - soft_ranks(values)  # 1: the best
    ideal = gains.sort(descending=True).values / torch.log2(torch.arange(len(gains)) + 2.0)
    return 1 - (gains / torch.log2(places + 1)).sum() / ideal.sum()


def rank_loss(kind: str, values: Tensor, relevance: Tensor) -> Tensor:
    """The loss of that name: "srcc", "ndcg", or their sum, "hybrid"."""
    srcc = srcc_loss(values, relevance) if kind in ("srcc", "hybrid") else values.new_zeros(())
    return srcc + (ndcg_loss(values, relevance) if kind in ("ndcg", "hybrid") else 0)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where one of them is constant.

    >>> spearman(np.array([1.0, 2.0, 9.0]), np.array([3.0, 4.0, 5.0]))
    1.0
    """
    from scipy.stats import rankdata

    x, y = (rankdata(values) - (len(values) + 1) / 2 for values in (a, b))
    length = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / length) if length > 0 else 0.0


def kendall(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's tau-b; nan where one of them is constant."""
    from scipy.stats import kendalltau

    return float(kendalltau(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else float("nan")


def ndcg(predicted: np.ndarray, relevance: np.ndarray) -> float:
    """The discounted gain of the predicted order over that of the right one; gains 2^relevance - 1.

    >>> ndcg(np.array([0.0, 1.0]), np.array([0.0, 3.0]))
    1.0
    """
    gains, discount = np.exp2(relevance) - 1, 1 / np.log2(np.arange(len(relevance)) + 2)
    ideal = (np.sort(gains)[::-1] * discount).sum()
    return (
        float((gains[np.argsort(-predicted, kind="stable")] * discount).sum() / ideal)
        if ideal > 0
        else 1.0
    )
