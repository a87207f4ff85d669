"""One-dimensional k-means for many rows at once, each row with a codebook of its own.

Rows are sorted once. A cluster is then a run of neighbours, whose sum is a difference of two prefix
sums, so that all there is to find are the borders between clusters, and a step costs O(k log n) for
a row of n values. What a cluster explains is its sum squared over its count; the squared error is
the power of the row less what its clusters explain.

    start       centroids as dense as the cube root of the density: nearly the best ones where a row has many values
    windows     borders moved all at once, each among places around it, to the best of all combinations (exact, by
                dynamic programming): what leads out of the local optima that rows of few values are full of
    steps       Lloyd's

Source: qua2sedimo, "Linear-cost implementation", but for the start, which there are quantiles of
the row: with 16 centroids their error is nearly twice the least one, and that of this way within
one percent of it."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .devices import chunk_size


QUANTILES = 128  # of a row that its density is estimated from
SPANS = (2.0, 1.0, 0.2)  # of the windows, as parts of the width of a cluster, one after another
PLACES = 8  # of a border on either side of where it is
# windows are looked at in so many rows at a time on a CPU: tables of 0.3 MB, which stay in the
# cache
ROWS = 256
CHUNK = 2**22  # values sorted at a time there: 16 MB, and as prefix sums twice that
COMPARED = (
    32  # up to so many centroids, comparing with all borders is faster than searching among them
)


def kmeans(
    rows: Tensor, k: int, iterations: int, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Codes uint8 [R, n] and rising centroids float32 [R, k] for `rows` [R, n]; k is at most 256.

    The squared error never rises with `iterations`, which are steps of Lloyd's at the end. A row
    with k or fewer different values is met exactly; where there are fewer than k, the last centroid
    stands several times. `start` [k] or [R, k], if given, is what the centroids are before the
    first step, and no windows are looked at: the result is never worse than it. All values must be
    finite.

    >>> codes, centroids = kmeans(torch.tensor([[0.0, 9.0, 1.0, 10.0, 9.5]]), 2, iterations=10)
    >>> codes.tolist(), centroids.tolist()
    ([[0, 1, 0, 1, 1]], [[0.5, 9.5]])
    """
    if not 1 <= k <= 256:
        raise ValueError(f"k must be 1 to 256, got {k}")
    rows = rows.detach().float()
    if rows.device.type == "mps":  # has no float64
        codebook, codes = kmeans(rows.cpu(), k, iterations, None if start is None else start.cpu())
        return codebook.to(rows.device), codes.to(rows.device)
    size = max(1, min(_rows_at_once(rows.device), chunk_size(rows.device, CHUNK) // rows.shape[1]))
    parts = rows.split(size)
    starts = (
        [None] * len(parts) if start is None else start.to(rows).expand(len(rows), k).split(size)
    )
    centroids = torch.cat(
        [_fit(part, k, iterations, at) for part, at in zip(parts, starts, strict=True)]
    )
    return nearest(rows, centroids), centroids


def nearest(rows: Tensor, centroids: Tensor) -> Tensor:
    """The number of the nearest centroid, uint8 [R, n], for `rows` [R, n] and rising `centroids`
    [R, k].
    """
    borders = (centroids[:, 1:] + centroids[:, :-1]) / 2
    if centroids.shape[1] > COMPARED:
        return torch.searchsorted(borders, rows.contiguous(), out_int32=True).to(torch.uint8)
    codes = torch.zeros_like(rows, dtype=torch.uint8)
    size = _rows_at_once(rows.device)
    for own, x, border in zip(
        codes.split(size), rows.split(size), borders.split(size), strict=True
    ):
        for column in border.T:
            own += x > column[:, None]
    return codes


def look_up(codes: Tensor, centroids: Tensor) -> Tensor:
    """The values [R, n] that `codes` [R, n] stand for among `centroids` [R, k]."""
    return centroids.gather(1, codes.long())


def _rows_at_once(device: torch.device) -> int:
    return ROWS * (chunk_size(device) // chunk_size(torch.device("cpu")))


def _fit(rows: Tensor, k: int, iterations: int, start: Tensor | None) -> Tensor:
    ordered = _sort(rows)
    if rows.shape[1] <= k:
        return _exact_where_few(ordered, ordered[:, -1:].repeat(1, k))
    # Sums of what is left beside the mean keep their digits where all values are far from zero.
    middle = ordered.mean(1, keepdim=True, dtype=torch.float64)
    sums = torch.zeros(
        len(ordered), ordered.shape[1] + 1, dtype=torch.float64, device=ordered.device
    )
    torch.cumsum(ordered - middle, 1, out=sums[:, 1:])
    centroids = _compand(ordered, k) if start is None else start.double().sort(1).values
    borders = _borders(ordered, centroids)
    for span in SPANS if start is None and k > 1 else ():
        borders = _better(sums, borders, _in_windows(sums, borders, span))
    for _ in range(iterations):
        centroids = _means(sums, middle, borders, centroids)
        moved = _better(sums, borders, _borders(ordered, centroids))
        if torch.equal(moved, borders):
            break
        borders = moved
    return _exact_where_few(ordered, _means(sums, middle, borders, centroids).float())


def _sort(rows: Tensor) -> Tensor:
    if rows.is_cpu:  # numpy sorts many times faster than torch does
        return torch.from_numpy(np.sort(rows.numpy(), axis=1))
    return rows.sort(1).values


def _compand(ordered: Tensor, k: int) -> Tensor:
    """Centroids whose density is the cube root of that of the values (Panter and Dite, 1951)."""
    last = ordered.shape[1] - 1
    place = torch.linspace(0, last, min(QUANTILES, last) + 1, device=ordered.device).round().long()
    values = ordered[:, place].double()
    share = values.diff(dim=1) ** (2 / 3) * place.diff() ** (
        1 / 3
    )  # of the centroids between two quantiles
    share += share.mean(1, keepdim=True) / 1000 + torch.finfo(torch.float32).tiny
    below = torch.cat([torch.zeros_like(share[:, :1]), share.cumsum(1)], 1)
    wanted = below[:, -1:] * (torch.arange(k, device=ordered.device) + 0.5) / k
    after = torch.searchsorted(below, wanted).clamp(1, len(place) - 1)
    part = (wanted - below.gather(1, after - 1)) / share.gather(1, after - 1)
    return torch.lerp(values.gather(1, after - 1), values.gather(1, after), part)


def _borders(ordered: Tensor, centroids: Tensor) -> Tensor:
    """Where in each row clusters begin, and the end of the last one, [R, k + 1]: values go to
    the nearest centroid.
    """
    middles = ((centroids[:, 1:] + centroids[:, :-1]) / 2).to(ordered.dtype)
    inner = torch.searchsorted(ordered, middles)
    return F.pad(F.pad(inner, (1, 0)), (0, 1), value=ordered.shape[1])


def _means(sums: Tensor, middle: Tensor, borders: Tensor, centroids: Tensor) -> Tensor:
    """The means of the clusters, rising; an empty cluster keeps its centroid."""
    count = borders.diff(dim=1)
    means = sums.gather(1, borders).diff(dim=1) / count.clamp(min=1) + middle
    return means.where(count > 0, centroids).sort(1).values


def _explain_variance(sums: Tensor, borders: Tensor) -> Tensor:
    return (sums.gather(1, borders).diff(dim=1).square() / borders.diff(dim=1).clamp(min=1)).sum(
        1, keepdim=True
    )


def _better(sums: Tensor, borders: Tensor, others: Tensor) -> Tensor:
    """For each row that of both which leaves the smaller error; `borders` where they are equal."""
    return others.where(_explain_variance(sums, others) > _explain_variance(sums, borders), borders)


def _in_windows(sums: Tensor, borders: Tensor, span: float) -> Tensor:
    """Borders that explain most of all combinations of some places around them, evenly spaced.

    Places reach `span` times the mean width of the two clusters to either side, and are at least
    one value apart."""
    end = sums.shape[1] - 1
    stride = ((borders[:, 2:] - borders[:, :-2]) * (span / 2 / PLACES)).ceil().clamp(min=1).long()
    offsets = torch.arange(-PLACES, PLACES + 1, device=borders.device)
    place = (borders[:, 1:-1, None] + offsets * stride[:, :, None]).clamp_(
        0, end
    )  # [R, k - 1, places]
    # What is left of float32 is enough to choose by; the choice is checked in float64.
    total, count = sums.gather(1, place.flatten(1)).view(place.shape).float(), place.float()
    best = total[:, 0].square() / count[:, 0].clamp(min=1)  # by place of the first border
    chosen = []
    for b in range(1, place.shape[1]):
        width = count[:, b, :, None] - count[:, b - 1, None, :]
        part = (total[:, b, :, None] - total[:, b - 1, None, :]).square_().div_(width.clamp(min=1))
        best, before = part.masked_fill_(width < 0, -torch.inf).add_(best[:, None, :]).max(2)
        chosen.append(before)
    best = best + (sums[:, -1:].float() - total[:, -1]).square() / (end - count[:, -1]).clamp(min=1)
    at = best.argmax(1, keepdim=True)
    found = [borders[:, -1:], place[:, -1].gather(1, at)]
    for b in range(len(chosen) - 1, -1, -1):
        at = chosen[b].gather(1, at)
        found.append(place[:, b].gather(1, at))
    return torch.cat([borders[:, :1], *found[:0:-1], found[0]], 1)


def _exact_where_few(ordered: Tensor, centroids: Tensor) -> Tensor:
    """`centroids`, except that rows with at most that many different values get just these."""
    new = ordered[:, 1:] != ordered[:, :-1]
    some = (new.sum(1) < centroids.shape[1]).nonzero()[:, 0]
    if not len(some):
        return centroids
    place = F.pad(new[some].cumsum(1), (1, 0))
    exact = ordered[some, -1:].repeat(1, centroids.shape[1]).scatter_(1, place, ordered[some])
    return centroids.index_copy(0, some, exact)
