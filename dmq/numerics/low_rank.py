"""A matrix as two thin factors and a rest that is easier to quantize: W = L1 L2 + R (SVDQuant)."""

from collections.abc import Callable

import torch
from torch import Tensor


EXACT = 512  # matrices whose smaller side is at most so long are decomposed exactly
OVERSAMPLING, POWER_STEPS = 16, 4  # of the randomised decomposition of larger ones


def compute_factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """L1 [O, rank] and L2 [rank, I], float32, whose product is nearest to `matrix` [O, I] among all
    of that rank.

    Both get the square roots of the singular values, which keeps half precision in range. Large
    matrices are decomposed by randomised iteration with a fixed seed, nearly as well."""
    if rank == 0:
        return matrix.new_zeros(len(matrix), 0), matrix.new_zeros(0, matrix.shape[1])
    u, values, v = _decompose(matrix, rank)
    root = values.sqrt()
    return u * root, (v * root).T


def _decompose(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    if min(matrix.shape) <= max(EXACT, rank + OVERSAMPLING):
        u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
        return u[:, :rank], values[:rank], vh[:rank].T
    # svd_lowrank generates from the global generator, which is left as it was.
    with torch.random.fork_rng(devices=[matrix.device] if matrix.is_cuda else []):
        torch.manual_seed(0)
        u, values, v = torch.svd_lowrank(matrix, rank + OVERSAMPLING, POWER_STEPS)
    return u[:, :rank], values[:rank], v[:, :rank]


def separate(
    matrix: Tensor,
    rank: int,
    rounds: int,
    rounded: Callable[[Tensor], Tensor],
    error: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Factors float16 [O, rank] and [rank, I] such that they and the rounded rest are near to
    `matrix` [O, I].

        L1 L2 = SVD(W - Q(R));   R = W - L1 L2;   starting from Q(R) = 0

    `rounded` is Q, `error` judges W - L1 L2 - Q(R); of all `rounds` the one with the least error is
    taken. Source: neighbours, "SVDQuant"."""
    rest, best, found = torch.zeros_like(matrix), torch.inf, (matrix, matrix)
    for n in range(rounds):
        left, right = (side.half() for side in compute_factors(matrix - rest, rank))
        product = left.float() @ right.float()
        rest = rounded(matrix - product)
        wrong = float(error(matrix - product - rest))
        if n == 0 or wrong < best:
            best, found = wrong, (left, right)
    return found
