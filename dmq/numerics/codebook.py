"""One-dimensional k-means for many rows at once, each row with a codebook of its own.

Rows are sorted once. A cluster is then a run of neighbours, whose sum is a difference of two prefix sums, so that a
Lloyd step looks at the borders between clusters alone: O(k log n) for a row of n values. Source: qua2sedimo,
"Linear-cost implementation".
"""

import torch
from torch import Tensor


CHUNK = 2**22  # values sorted together: 16 MB, and as prefix sums twice that


def kmeans(rows: Tensor, k: int, iterations: int, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Codes uint8 [R, n] and rising centroids float32 [R, k] for `rows` [R, n]; k is at most 256.

    The squared error never rises with `iterations`. A row with k or fewer different values is met exactly; where
    there are fewer than k, the last centroid stands several times. `start` [k] or [R, k], if given, is what the
    centroids are before the first step; the result is never worse than it. All values must be finite.

    >>> codes, centroids = kmeans(torch.tensor([[0.0, 9.0, 1.0, 10.0]]), 2, iterations=10)
    >>> codes.tolist(), centroids.tolist()
    ([[0, 1, 0, 1]], [[0.5, 9.5]])
    """
    if not 1 <= k <= 256:
        raise ValueError(f"k must be 1 to 256, got {k}")
    rows = rows.float()
    size = max(1, CHUNK // rows.shape[1])
    begun = [None] * len(rows) if start is None else start.expand(len(rows), k)
    parts = [(rows[n : n + size], begun[n : n + size]) for n in range(0, len(rows), size)]
    centroids = torch.cat([_fitted(part, k, iterations, None if start is None else at) for part, at in parts])
    return nearest(rows, centroids), centroids


def nearest(rows: Tensor, centroids: Tensor) -> Tensor:
    """The number of the nearest centroid, uint8 [R, n], for `rows` [R, n] and rising `centroids` [R, k]."""
    return torch.searchsorted(_midpoints(centroids).contiguous(), rows.contiguous(), out_int32=True).to(torch.uint8)


def looked_up(codes: Tensor, centroids: Tensor) -> Tensor:
    """The values [R, n] that `codes` [R, n] stand for among `centroids` [R, k]."""
    return centroids.gather(1, codes.long())


def _midpoints(centroids: Tensor) -> Tensor:
    return (centroids[:, 1:] + centroids[:, :-1]) / 2


def _fitted(rows: Tensor, k: int, iterations: int, start: Tensor | None) -> Tensor:
    ordered = rows.sort(1).values
    sums = _prefix(ordered)
    centroids = _quantiles(ordered, k) if start is None else start.to(rows).double().sort(1).values
    for _ in range(iterations):
        moved = _step(ordered, sums, centroids)
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return _few(ordered, centroids.float())


def _prefix(ordered: Tensor) -> Tensor:
    sums = ordered.new_zeros(len(ordered), ordered.shape[1] + 1, dtype=torch.float64)
    torch.cumsum(ordered, 1, dtype=torch.float64, out=sums[:, 1:])
    return sums


def _quantiles(ordered: Tensor, k: int) -> Tensor:
    places = (torch.arange(k, device=ordered.device) + 0.5) * ordered.shape[1] / k
    return ordered[:, places.long()].double()


def _step(ordered: Tensor, sums: Tensor, centroids: Tensor) -> Tensor:
    """Each centroid as the mean of the values that are nearest to it; where there are none, it stays."""
    borders = torch.searchsorted(ordered, _midpoints(centroids).to(ordered.dtype))
    ends = borders.new_zeros(len(ordered), 1), borders.new_full((len(ordered), 1), ordered.shape[1])
    borders = torch.cat([ends[0], borders, ends[1]], 1)
    count = borders.diff(dim=1)
    return (sums.gather(1, borders).diff(dim=1) / count.clamp(min=1)).where(count > 0, centroids)


def _few(ordered: Tensor, centroids: Tensor) -> Tensor:
    """`centroids`, except that rows with at most that many different values get just these."""
    new = ordered[:, 1:] != ordered[:, :-1]
    some = (new.sum(1) < centroids.shape[1]).nonzero()[:, 0]
    if not len(some):
        return centroids
    place = torch.zeros_like(ordered[some], dtype=torch.long)
    torch.cumsum(new[some], 1, out=place[:, 1:])
    exact = ordered[some, -1:].expand(-1, centroids.shape[1]).clone().scatter_(1, place, ordered[some])
    return centroids.index_copy(0, some, exact)
