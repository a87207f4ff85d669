"""The arithmetic of learned groups (ADP-DM): where it starts, which step is next, how it ends, a
yardstick.

Knows no layer and runs no model. S sites, T steps in sampling order, G groups; `slot` [S, T] is
each step's group."""

import math

import numpy as np
from torch import Tensor

from ..errors import DmqError
from ..recipe import LearnedGroups
from ..results import GroupErrors, Groups, SearchResult, Site
from .errors import ErrorTable
from .grouping import optimal_boundaries


START = 0.5  # the logit of a step's own group at the start, where the others have 0
ETA = 2.0 / (
    44 * math.log(8) / 8
)  # 2.0 a visit in the released code, on its scale of up to 44 ln(8) / 8 = 11.44


# --- what is learned ------------------------------------------------------------------------------


def ranges(centre: Tensor, log_width: Tensor) -> tuple[Tensor, Tensor]:
    """Low and high, min(c - e^u/2, 0) and max(c + e^u/2, 0), of ranges with centre c and log-width
    u.

    Differentiable; shapes alike. Source: adp_dm, "parameters".
    """
    half = log_width.exp() / 2
    return (centre - half).clamp(max=0), (centre + half).clamp(min=0)


def importance(logits: Tensor, temperature: float) -> Tensor:
    """The importance weights softmax(logits / temperature) over the last axis, the groups."""
    return (logits / temperature).softmax(-1)


def uncertainty(weights: Tensor) -> Tensor:
    """Entropy of importance weights over the last axis in units of ln G: 1 where all are equal, 0
    for a choice made.

    A single group has nothing to choose: 0.

    >>> import torch
    >>> uncertainty(torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0]])).tolist()
    [1.0, 0.0]
    """
    if weights.shape[-1] == 1:
        return weights.sum(-1) * 0
    # The clamp keeps 0 log 0 at 0, in the gradient too.
    return (weights * -weights.clamp(min=1e-12).log()).sum(-1) / math.log(weights.shape[-1])


# --- where it starts ------------------------------------------------------------------------------


def kmeans(points: np.ndarray, count: int, passes: int = 100) -> np.ndarray:
    """The cluster of every step: `points` [S, T, D] to int64 [S, T], each site on its own.

    Lloyd's algorithm from `count` equal runs of steps and from points far from each other,
    whichever ends better. An empty cluster takes the point that is farthest from its own centre,
    and stays empty only where there are fewer different points than clusters."""
    sites, steps, _ = points.shape
    found = [
        _lloyd_of_points(points, slot, count, passes)
        for slot in (
            np.tile(np.arange(steps) * count // steps, (sites, 1)),
            _far_apart(points, count),
        )
    ]
    centres = [
        np.take_along_axis(_centres(points, slot, count), slot[..., None], 1) for slot in found
    ]
    spread = [((points - centre) ** 2).sum((1, 2)) for centre in centres]
    return np.where((spread[0] <= spread[1])[:, None], *found)


def _far_apart(points: np.ndarray, count: int) -> np.ndarray:
    """Each step with the nearest of `count` steps, the next of which is always the one farthest
    from those before.
    """
    rows = np.arange(len(points))
    distance = [((points - points[:, :1]) ** 2).sum(-1)]
    while len(distance) < count:
        far = np.min(distance, axis=0).argmax(1)
        distance.append(((points - points[rows, far][:, None]) ** 2).sum(-1))
    return np.argmin(distance, axis=0)


def _lloyd_of_points(points: np.ndarray, slot: np.ndarray, count: int, passes: int) -> np.ndarray:
    for _ in range(passes):
        centre = _centres(points, slot, count)
        distance = ((points[:, :, None] - centre[:, None]) ** 2).sum(-1)
        nearest = _without_empty(distance, distance.argmin(-1))
        if (nearest == slot).all():
            break
        slot = nearest
    return slot


def _centres(points: np.ndarray, slot: np.ndarray, count: int) -> np.ndarray:
    member = slot[:, :, None] == np.arange(count)
    return np.einsum("stg,std->sgd", member, points) / np.maximum(member.sum(1), 1)[:, :, None]


def _without_empty(distance: np.ndarray, slot: np.ndarray) -> np.ndarray:
    count = distance.shape[-1]
    for s in np.flatnonzero([len(np.unique(row)) < count for row in slot]):
        own = distance[s, np.arange(slot.shape[1]), slot[s]]
        for g in np.setdiff1d(np.arange(count), slot[s]):
            crowd = np.bincount(slot[s], minlength=count)[slot[s]] > 1
            far = int(np.where(crowd, own, -1).argmax())
            if own[far] > 0:
                slot[s, far], own[far] = g, 0
    return slot


def runs_of_steps(points: np.ndarray, count: int) -> np.ndarray:
    """Like `kmeans` with neighbouring steps only, exactly: the cuts of least within-group variance.

    Source: within_group_cost by sum (x - mean)^2 = sum x^2 - (sum x)^2 / n, then dynamic
    programming."""
    steps = points.shape[1]
    sums = np.pad(points.cumsum(1), ((0, 0), (1, 0), (0, 0)))
    squares = np.pad((points**2).sum(-1).cumsum(1), ((0, 0), (1, 0)))
    length = np.maximum(np.arange(steps + 1)[None] - np.arange(steps + 1)[:, None], 1)
    between = ((sums[:, None] - sums[:, :, None]) ** 2).sum(-1) / length
    cuts = optimal_boundaries(squares[:, None] - squares[:, :, None] - between, count, 1)
    return (np.arange(steps) >= cuts[:, :, None]).sum(1)


def start_groups(spec: LearnedGroups, finest: GroupErrors, rows: list[int]) -> np.ndarray:
    """The group of every step [Q, T] at the sites `rows`, to start from: by the ranges that each
    step has when alone.

    `finest` are the errors of a range per step. Common to all sites unless `spec.per_layer`.
    """
    points = np.stack([finest.low[rows], finest.high[rows]], -1)
    points = points / np.maximum((points[..., 1] - points[..., 0]).max(1), 1e-30)[:, None, None]
    if not spec.per_layer:
        points = np.moveaxis(points, 0, 1).reshape(1, points.shape[1], -1)
    slot = (runs_of_steps if spec.contiguous else kmeans)(points, spec.count)
    return np.broadcast_to(slot, (len(rows), slot.shape[1])).copy()


def start_logits(slot: np.ndarray, count: int) -> np.ndarray:
    """Logits [S, T, G] float32: START for a step's own group, 0 for the others.

    Equal logits would have no gradient of the entropy and leave all groups alike for ever.
    """
    return np.where(slot[:, :, None] == np.arange(count), np.float32(START), np.float32(0))


# --- which step is next ---------------------------------------------------------------------------


def ucb(uncertain: np.ndarray, visits: np.ndarray) -> np.ndarray:
    """Hbar / (N + 1): uncertain steps, rarely used ones first. [T], [T] to [T]."""
    return uncertain / (visits + 1)


def linear(uncertain: np.ndarray, visits: np.ndarray) -> np.ndarray:
    """Hbar - ETA * N, the form of the released code. [T], [T] to [T]."""
    return uncertain - ETA * visits


SCORES = {"ucb": ucb, "linear": linear}


def next_step(score: np.ndarray, visits: np.ndarray) -> int:
    """The step of highest score; of equal ones that which was used least, then the noisiest."""
    best = np.flatnonzero(score >= score.max() - 1e-9)
    return int(best[visits[best].argmin()])


def similarity(features: np.ndarray) -> np.ndarray:
    """How alike the steps are: `features` [T, D], standardised over the steps, to K [T, T] with 1
    on the diagonal.

    A Gaussian of the distance, as wide as the median distance is. Source: adp_dm, "Optional MMD
    term"."""
    spread = features.std(0)
    z = (features - features.mean(0))[:, spread > 1e-12] / spread[spread > 1e-12]
    square = (z**2).sum(1)
    distance = np.maximum(square[:, None] + square[None] - 2 * z @ z.T, 0)
    apart = distance[np.triu_indices(len(distance), 1)]
    width = np.median(apart[apart > 1e-12]) if (apart > 1e-12).any() else 1.0
    return np.exp(-distance / (2 * width))


def discrepancy(alike: np.ndarray, visits: np.ndarray) -> float:
    """MMD^2 between the steps used, `visits` [T] times each, and all steps; 0 where all were
    used equally often.
    """
    share, all_steps = visits / visits.sum(), np.full(len(visits), 1 / len(visits))
    return float((share - all_steps) @ alike @ (share - all_steps))


def discrepancy_after(alike: np.ndarray, visits: np.ndarray) -> np.ndarray:
    """`discrepancy` [T] after one more use of each step in turn."""
    toward = alike @ visits
    used = visits @ toward + 2 * toward + alike.diagonal()
    n = visits.sum() + 1
    return used / n**2 - 2 * (alike.mean(1) @ visits + alike.mean(1)) / n + alike.mean()


# --- how it ends ----------------------------------------------------------------------------------


def harden(weights: np.ndarray, contiguous: bool) -> np.ndarray:
    """The group of every step, int64 [S, T], from importance weights [S, T, G]: the largest one.

    Where groups must be runs of steps, the groups never step back in time that have the largest
    product of weights: exact, by dynamic programming."""
    if not contiguous:
        return weights.argmax(-1)
    best = np.log(np.maximum(weights, 1e-30))
    sites, steps, count = best.shape
    for i in range(1, steps):
        best[:, i] += np.maximum.accumulate(best[:, i - 1], axis=-1)
    slot = np.empty((sites, steps), np.int64)
    allowed = np.full(sites, count - 1)
    for i in range(steps - 1, -1, -1):
        slot[:, i] = allowed = np.where(
            np.arange(count) <= allowed[:, None], best[:, i], -np.inf
        ).argmax(-1)
    return slot


def drop_empty_groups(slot: np.ndarray, *tables: np.ndarray) -> tuple[np.ndarray, ...]:
    """`slot` [S, T] numbered without gaps, and tables [S, G] in that order; what lies behind the
    last group is 0.

    Unused groups must not be stored or counted.
    """
    made, moved = np.empty_like(slot), [np.zeros_like(table) for table in tables]
    for s, row in enumerate(slot):
        used, made[s] = np.unique(row, return_inverse=True)
        for old, new in zip(tables, moved, strict=True):
            new[s, : len(used)] = old[s, used]
    width = int(made.max()) + 1
    return made, *(table[:, :width] for table in moved)


def groups_of(result: SearchResult, sites: tuple[Site, ...]) -> Groups:
    """The groups that a search found for all of `sites`; those it did not know, being in float,
    have one group.

    Raises DmqError if it searched a site that is not among them.
    """
    index = {site.label: s for s, site in enumerate(sites)}
    missing = [site.label for site in result.sites if site.label not in index]
    if missing:
        raise DmqError(
            f"the search knows {missing[0]}, the statistics do not. Capture anew, then search "
            "again."
        )
    slot = np.zeros((len(sites), len(result.timesteps)), np.int16)
    slot[[index[site.label] for site in result.sites]] = result.slot
    return Groups(sites=sites, slot=slot)


def measure_learned_groups(result: SearchResult, table: ErrorTable) -> GroupErrors:
    """The layer-local errors of groups and ranges that a search found.

    Raises DmqError if they are of other sites.
    """
    groups = groups_of(result, table.sites)
    index = {site.label: s for s, site in enumerate(table.sites)}
    rows = [index[site.label] for site in result.sites]
    missing = sorted(set(table.quantized.tolist()) - set(rows))
    if missing:
        raise DmqError(
            f"the search did not know {table.sites[missing[0]].label}, which is quantized. Search "
            "again."
        )
    low, high = np.zeros((2, *groups.slot.shape))
    low[rows], high[rows] = (
        np.take_along_axis(end, result.slot.astype(int), 1) for end in (result.low, result.high)
    )
    return table.errors_of(groups, low, high)


# --- a yardstick ----------------------------------------------------------------------------------


def lloyd(lost: np.ndarray, slot: np.ndarray) -> np.ndarray:
    """The group of every step, int64 [T]: from `slot` [T], best group and best range in turn until
    nothing gains.

    `lost` [T, R] is what each step loses on each of R ranges. The sum of what is lost never rises.
    """
    count, best = int(slot.max()) + 1, np.inf
    while True:
        sums = np.zeros((count, lost.shape[1]))
        np.add.at(sums, slot, lost)
        chosen = sums.argmin(1)
        moved = lost[:, chosen].argmin(1)
        total = lost[np.arange(len(lost)), chosen[moved]].sum()
        if not total < best * (1 - 1e-9):
            return slot
        slot, best = moved, total
