"""One choice for every row, at least cost, within so many bytes: a multiple-choice knapsack, solved exactly.

A price mu for a byte makes the rows independent: each takes the choice of least cost + mu * bytes. As the price falls,
a row walks along the lower convex hull of its (bytes, cost) points, so all that prices can reach is one list of steps
in order of what they save for a byte, and the price that a budget ends at is that of the first step it cannot pay
(`Steps`; finding it by bisection on mu would give the same). Paying part of that step gives the Lagrangian bound:
nothing within the budget costs less. What prices cannot reach is searched exactly (`best`), over the choices that the
bound does not rule out, by dynamic programming: in whole bytes, which no solver's tolerance can overrun, and mostly in
milliseconds, so that a slider can follow. Tests hold it to scipy's integer programming and to trying everything.
"""

from dataclasses import dataclass

import numpy as np


STATES = 4000  # partial choices that are remembered at a time; usual are a few hundred
SAME = 1e-9  # relative to the largest cost: two costs closer than this are the same
CLOSE = 1e-6  # and this close to the bound is close enough where there are too many states to be exact


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Changes of single rows, each from its choice before, in order of the cost that they save for a byte. K steps."""

    start: np.ndarray  # [R] the choice with the fewest bytes, of several the cheapest
    bytes: int  # of the start
    cost: float
    row: np.ndarray  # [K]
    to: np.ndarray  # [K] the row's new choice
    rate: np.ndarray  # [K] float64: cost saved for a byte, never rising
    more: np.ndarray  # [K] int64: bytes
    less: np.ndarray  # [K] float64: cost saved


@dataclass(frozen=True, kw_only=True)
class Solution:
    """A choice for every row, with what is known of the best one."""

    chosen: np.ndarray  # [R]
    bytes: int
    cost: float
    bound: float  # no choice within the budget costs less
    price: float  # cost that a byte more would save; 0 where the budget pays for all that saves anything


def price_steps(taken: np.ndarray, cost: np.ndarray) -> Steps:
    """The lower convex hulls of all rows as one list. Both are [R, C]; a cost of nan is no choice.

    Raises ValueError if a row has no choice at all.
    """
    every = np.arange(len(cost))
    start = smallest(taken, cost)
    at, rate = start.copy(), np.full(len(cost), np.inf)
    walked: list[tuple[np.ndarray, ...]] = []
    while True:
        more = taken - taken[every, at, None]
        less = cost[every, at, None] - cost
        better = (more > 0) & (less > 0)  # never where a cost is nan
        # A hull's steps save less and less; rounding must not turn two of them round.
        rates = np.minimum(np.divide(less, more, out=np.zeros_like(cost), where=better), rate[:, None])
        steepest = rates.max(1)
        to = np.where(better & (rates == steepest[:, None]), more, -1).argmax(1)
        go = np.flatnonzero(steepest > 0)
        if not len(go):
            break
        walked.append((go, to[go], steepest[go], more[go, to[go]], less[go, to[go]]))
        rate, at = steepest, np.where(steepest > 0, to, at)
    parts = [np.concatenate(part) for part in zip(*walked, strict=True)] or [np.zeros(0, int)] * 5
    order = np.argsort(-parts[2], kind="stable")  # stable: the steps of a row stay in order
    row, to, rates, more, less = (part[order] for part in parts)
    return Steps(start=start, **totals(taken, cost, start), row=row, to=to, rate=rates, more=more, less=less)


def smallest(taken: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """[R] the choice with the fewest bytes in each row, of several the cheapest."""
    size = np.where(np.isfinite(cost), taken.astype(float), np.inf)
    if not np.isfinite(size).any(1).all():
        raise ValueError("a row has no choice")
    return np.where(size == size.min(1, keepdims=True), cost, np.inf).argmin(1)


def totals(taken: np.ndarray, cost: np.ndarray, chosen: np.ndarray) -> dict[str, int | float]:
    """Bytes and cost of a choice for every row, by name."""
    every = np.arange(len(chosen))
    return {"bytes": int(taken[every, chosen].sum()), "cost": float(cost[every, chosen].sum())}


def priced(steps: Steps, taken: np.ndarray, cost: np.ndarray, budget: int) -> Solution:
    """What prices alone reach within `budget` bytes, and the bound that they prove. `budget` pays for the start."""
    paid = int(np.searchsorted(steps.bytes + np.cumsum(steps.more), budget, side="right"))
    chosen = steps.start.copy()
    chosen[steps.row[:paid]] = steps.to[:paid]  # of several steps of a row, numpy keeps the last
    found = totals(taken, cost, chosen)
    bound, price = found["cost"], 0.0
    if paid < len(steps.row):
        price = float(steps.rate[paid])
        bound -= price * (budget - found["bytes"])
    return Solution(chosen=chosen, **found, bound=bound, price=price)


def filled(known: Solution, taken: np.ndarray, cost: np.ndarray, budget: int) -> Solution:
    """Spend what is left: as long as a change of one row fits and saves cost, make the one that saves most."""
    every, chosen = np.arange(len(cost)), known.chosen.copy()
    while True:
        room = budget - int(taken[every, chosen].sum())
        less = cost[every, chosen, None] - cost
        fits = (taken - taken[every, chosen, None] <= room) & (less > 0)
        if not fits.any():
            break
        row, to = np.unravel_index(np.where(fits, less, 0).argmax(), less.shape)
        chosen[row] = to
    return _solution(known, chosen, taken, cost)


def best(known: Solution, taken: np.ndarray, cost: np.ndarray, budget: int, states: int = STATES) -> Solution:
    """The choice of least cost within `budget` bytes, at least as good as `known`, a solution with its bound.

    At the price of the bound a choice is dearer than its row's cheapest by some amount; where bound and amount
    together exceed what is known already, the choice is part of nothing better. What is left is solved row by row. A
    state is what the rows so far take and cost beyond their cheapest choices at the price, which the rows to come are
    meant to keep. It is dropped if another one takes and costs no more, or if even the most efficient changes to come
    could not make it fit, or not better than what is known. Exact, unless more than `states` states are left (tables
    in which many choices are worth about the same for their bytes): then the most promising ones go on.
    """
    gap, scale = known.cost - known.bound, max(float(np.nanmax(np.abs(cost))), abs(known.cost))
    if gap <= SAME * scale:
        return known
    core = _core(known, taken, cost, budget, gap)
    used, paid, enough = np.zeros(1, dtype=np.int64), np.zeros(1), SAME * scale
    steps = []
    for k, row in enumerate(core.rows):
        options = core.options[k]
        used_now = (used + core.more[row, options, None]).ravel()
        paid_now = (paid + core.extra[row, options, None]).ravel()
        promise, finished = core.promise(k, used_now, paid_now)
        gap = min(gap, finished.min(initial=np.inf))
        keep = np.flatnonzero((promise <= gap + SAME * scale) & (used_now + core.shrink[k] <= core.room))
        keep = keep[np.lexsort((paid_now[keep], used_now[keep]))]
        lowest = np.minimum.accumulate(paid_now[keep])
        keep = keep[np.append(True, paid_now[keep][1:] < lowest[:-1])[: len(keep)]]
        if len(keep) > states:
            keep, enough = keep[np.argsort(promise[keep], kind="stable")[:states]], CLOSE * scale
        steps.append((row, options[keep // len(used)], keep % len(used)))
        used, paid = used_now[keep], paid_now[keep]
        if gap <= enough or not len(keep):
            break
    made = _solution(known, core.walked_back(used, paid, steps), taken, cost)
    return made if made.bytes <= budget and made.cost < known.cost else known


@dataclass(frozen=True, kw_only=True)
class _Core:
    """What the bound leaves to decide: K rows, the most efficient ones first, so that what is to come gets poorer."""

    price: float
    base: np.ndarray  # [R] the choice at the price, of several the smallest
    room: int  # bytes that these leave of the budget
    more: np.ndarray  # [R, C] bytes beyond the base
    extra: np.ndarray  # [R, C] cost beyond the base
    rows: np.ndarray  # [K]
    options: tuple[np.ndarray, ...]  # of each of these rows, its base first
    fill: np.ndarray  # [K] least that rows to come pay for using up a byte, above its price
    save: np.ndarray  # [K] least that they pay for saving a byte, above its price
    shrink: np.ndarray  # [K] bytes that they can save together, negative

    def promise(self, k: int, used: np.ndarray, paid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far above the bound states after row k must end at least, and would end as they are (inf: too large)."""
        spare = self.room - used
        ahead = paid + self.price * used
        to_come = np.where(spare < 0, -spare * self.save[k], spare * min(self.price, self.fill[k]))
        return ahead + to_come, np.where(spare >= 0, ahead + self.price * spare, np.inf)

    def walked_back(self, used: np.ndarray, paid: np.ndarray, steps: list[tuple]) -> np.ndarray:
        """The choices [R] of the cheapest state that fits; the base where none is left."""
        chosen, fits = self.base.copy(), np.flatnonzero(used <= self.room)
        at = fits[paid[fits].argmin()] if len(fits) else None
        for row, option, before in reversed(steps) if len(fits) else ():
            chosen[row], at = option[at], before[at]
        return chosen


def _core(known: Solution, taken: np.ndarray, cost: np.ndarray, budget: int, gap: float) -> _Core:
    every = np.arange(len(cost))
    at_price = cost + known.price * taken
    dearer = at_price - np.nanmin(at_price, axis=1, keepdims=True)
    base = np.where(dearer <= 0, taken, np.iinfo(np.int64).max).argmin(1)
    more, extra = taken - taken[every, base, None], cost - cost[every, base, None]
    left = dearer <= gap * (1 + SAME)  # a comparison with nan is false
    left[every, base] = False
    rate = np.where(left, dearer / np.maximum(np.abs(more), 1), np.inf)
    rows = np.flatnonzero(left.any(1))
    rows = rows[np.argsort(rate[rows].min(1), kind="stable")]
    return _Core(
        price=known.price, base=base, room=budget - int(taken[every, base].sum()), more=more, extra=extra, rows=rows,
        options=tuple(np.array([base[row], *np.flatnonzero(left[row])]) for row in rows),
        fill=_to_come(np.minimum, np.where(more > 0, rate, np.inf)[rows].min(1), np.inf),
        # Where nothing can be saved, a byte too many is already more than all that there is to win.
        save=_to_come(np.minimum, np.where(more < 0, rate, np.inf)[rows].min(1), 2 * gap),
        shrink=_to_come(np.add, np.where(left, more, 0)[rows].min(1), 0),
    )  # fmt: skip


def _to_come(join: np.ufunc, values: np.ndarray, end: float) -> np.ndarray:
    """For each of some rows: `join` over the values of those that come after it; `end` behind the last."""
    return join.accumulate(np.append(values, end)[::-1])[::-1][1:]


def _solution(known: Solution, chosen: np.ndarray, taken: np.ndarray, cost: np.ndarray) -> Solution:
    return Solution(chosen=chosen, **totals(taken, cost, chosen), bound=known.bound, price=known.price)
