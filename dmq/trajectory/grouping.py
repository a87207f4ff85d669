"""Where the time axis is cut: one function for each spec of `recipe.Grouping`."""

from functools import singledispatch
from itertools import pairwise
from typing import Any

import numpy as np

from ..errors import DmqError
from ..recipe import LearnedGroups, ManualGroups, OptimalGroups, PerStep, SharedRange, UniformGroups
from ..results import Groups
from .errors import ErrorTable


@singledispatch
def group_timesteps(spec: Any, table: ErrorTable) -> Groups:
    """The partition that `spec` asks for.

    Raises DmqError where the number of steps does not allow it.
    """
    raise TypeError(f"no grouping is written for {type(spec).__name__}")


@group_timesteps.register
def shared(spec: SharedRange, table: ErrorTable) -> Groups:
    """All steps in one group."""
    return _common((), table)


@group_timesteps.register
def per_step(spec: PerStep, table: ErrorTable) -> Groups:
    """Every step a group."""
    return _common(tuple(range(1, table.steps)), table)


@group_timesteps.register
def uniform(spec: UniformGroups, table: ErrorTable) -> Groups:
    """Groups whose lengths differ by one step at most."""
    if spec.count > table.steps:
        raise DmqError(
            f"grouping.count is {spec.count}, but there are only {table.steps} steps; use "
            f"{table.steps} or fewer."
        )
    return _common(uniform_boundaries(spec.count, table.steps), table)


@group_timesteps.register
def manual(spec: ManualGroups, table: ErrorTable) -> Groups:
    """The groups that begin at the given steps."""
    for boundary in spec.boundaries:
        if not 1 <= boundary < table.steps:
            raise DmqError(
                f"grouping.boundaries: {boundary} is no boundary of {table.steps} steps; use 1 to "
                f"{table.steps - 1}."
            )
    return _common(spec.boundaries, table)


@group_timesteps.register
def optimal(spec: OptimalGroups, table: ErrorTable) -> Groups:
    """The partition of smallest total error: the mean over sites of the relative error, or that
    of each site alone.
    """
    if spec.count * spec.min_length > table.steps:
        raise DmqError(
            f"grouping asks for {spec.count} groups of at least {spec.min_length} steps, but there "
            f"are only {table.steps} steps; lower count or min_length."
        )
    if not len(table.quantized):
        return _common(
            uniform_boundaries(spec.count, table.steps), table
        )  # nothing can be wrong: any will do
    costs = table.segment_costs()
    if not spec.per_layer:
        return _common(
            optimal_boundaries(_mean(table)[None], spec.count, spec.min_length)[0], table
        )
    cuts = np.zeros((len(table.sites), spec.count - 1), int)
    cuts[:] = uniform_boundaries(spec.count, table.steps)
    cuts[table.quantized] = optimal_boundaries(costs[table.quantized], spec.count, spec.min_length)
    slot = (np.arange(table.steps) >= cuts[:, :, None]).sum(1)
    return Groups(sites=table.sites, slot=slot.astype(np.int16))


@group_timesteps.register
def _refuse_learned(spec: LearnedGroups, table: ErrorTable) -> Groups:
    """Refused: statistics alone do not tell these groups."""
    raise DmqError(
        "learned groups come from a search, not from statistics. Run the search first: dmq search "
        "RECIPE."
    )


def error_against_count(table: ErrorTable, counts: tuple[int, ...]) -> dict[str, list[float]]:
    """Total relative error of the "uniform" and of the "optimal" common partition for each number
    of groups.

    Comes from `segment_costs`, with one dynamic program for all counts. Counts must lie in 1..T
    (ValueError)."""
    if not all(1 <= count <= table.steps for count in counts):
        raise ValueError(f"counts must lie in 1 to {table.steps}, got {list(counts)}")
    if not len(table.quantized):
        return {"uniform": [0.0] * len(counts), "optimal": [0.0] * len(counts)}
    cost = _mean(table)
    best = lowest_costs(cost[None], max(counts, default=1), 1)[0][:, 0, -1]
    bounds = [[0, *uniform_boundaries(count, table.steps), table.steps] for count in counts]
    return {
        "uniform": [
            float(sum(cost[a, e] for a, e in pairwise(ends)) / table.steps) for ends in bounds
        ],
        "optimal": [float(best[count] / table.steps) for count in counts],
    }


def uniform_boundaries(count: int, steps: int) -> tuple[int, ...]:
    """The first step of each group but the first one.

    >>> uniform_boundaries(4, 10)
    (2, 5, 7)
    """
    return tuple(steps * k // count for k in range(1, count))


def lowest_costs(cost: np.ndarray, count: int, min_length: int) -> tuple[np.ndarray, np.ndarray]:
    """`lowest[g, n, e]`: the least cost of g groups over the first e steps of problem n; `last[g,
    n, e]`: where the last of these groups begins.

    Shapes: `cost` [N, T+1, T+1] to two arrays [count + 1, N, T+1]; impossible entries are infinite.
    Source: adp_dm, "optimal": D[g, e] = min over a of D[g-1, a] + cost(a, e).
    """
    problems, ends = cost.shape[:2]
    start, end = np.indices((ends, ends))
    cost = np.where(end - start >= min_length, cost.astype(np.float64), np.inf)
    lowest = np.full((count + 1, problems, ends), np.inf)
    last = np.zeros((count + 1, problems, ends), int)
    lowest[0, :, 0] = 0
    for g in range(1, count + 1):
        through = lowest[g - 1][:, :, None] + cost
        last[g] = through.argmin(1)
        lowest[g] = through.min(1)
    return lowest, last


def optimal_boundaries(cost: np.ndarray, count: int, min_length: int) -> np.ndarray:
    """The first step of each group but the first, of the cheapest partition: [N, T+1, T+1] to
    [N, count - 1].
    """
    _, last = lowest_costs(cost, count, min_length)
    cuts = np.zeros((len(cost), count - 1), int)
    end = np.full(len(cost), cost.shape[1] - 1)
    for g in range(count, 1, -1):
        end = last[g, np.arange(len(cost)), end]
        cuts[:, g - 2] = end
    return cuts


def _mean(table: ErrorTable) -> np.ndarray:
    """Segment costs [T+1, T+1], the mean over the quantized sites: their sum over T is
    `GroupErrors.total`.
    """
    return table.segment_costs()[table.quantized].mean(0, dtype=np.float64)


def _common(boundaries: tuple[int, ...], table: ErrorTable) -> Groups:
    slot = np.zeros(table.steps, np.int16)
    slot[list(boundaries)] = 1
    return Groups(
        sites=table.sites, slot=np.tile(slot.cumsum(dtype=np.int16), (len(table.sites), 1))
    )
