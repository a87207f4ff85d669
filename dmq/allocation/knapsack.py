"""One choice for every row, at least cost, within so many bytes: a multiple-choice knapsack, by
integer programming.

A price mu for a byte makes the rows independent: each takes the choice of least cost + mu * bytes.
As the price falls, a row walks along the lower convex hull of its (bytes, cost) points, so all that
prices can reach is one list of steps in order of what they save for a byte, and the price that a
budget ends at is that of the first step it cannot pay (`Steps`; finding it by bisection on mu would
give the same). Paying part of that step gives the Lagrangian bound: nothing within the budget costs
less. What prices cannot reach is left to `scipy.optimize.milp` (`best`), which sees only the
choices that the bound does not rule out, the core: mostly a few dozen of thousands, so that a
slider can follow. Tests hold it to integer programming without any such reduction and to trying
everything."""

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np


if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

MIN_CORE, CORE_GROWTH, MAX_CORE = (
    60,
    5,
    1500,
)  # choices in the first core, how many times as many in the next, and in the last
NODES = 50  # of a search: unlike a time limit, it gives the same answer on every machine
MAX_SECONDS = 3.0  # for a machine that is busy with other things
SAME = 1e-7  # relative to the largest cost: two costs closer than this are the same
CLOSE = 1e-6  # and this close to the bound is not worth a larger core
# the largest change of a row, in the solver's unit of bytes; its tolerance is a millionth of the
# unit
FINE = 100

_one_at_a_time = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Changes of single rows, each from its choice before, in order of the cost that they save
    for a byte. K steps.
    """

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
    # cost that a byte more would save; 0 where the budget pays for all that saves anything
    price: float


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
        rates = np.minimum(
            np.divide(less, more, out=np.zeros_like(cost), where=better), rate[:, None]
        )
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
    return Steps(
        start=start, **totals(taken, cost, start), row=row, to=to, rate=rates, more=more, less=less
    )


def smallest(taken: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """[R] the choice with the fewest bytes in each row, of several the cheapest."""
    size = np.where(np.isfinite(cost), taken.astype(float), np.inf)
    if not np.isfinite(size).any(1).all():
        raise ValueError("a row has no choice")
    return np.where(size == size.min(1, keepdims=True), cost, np.inf).argmin(1)


def totals(taken: np.ndarray, cost: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    """Bytes and cost of a choice for every row, by name."""
    every = np.arange(len(chosen))
    return {"bytes": int(taken[every, chosen].sum()), "cost": float(cost[every, chosen].sum())}


def solve_priced(steps: Steps, taken: np.ndarray, cost: np.ndarray, budget: int) -> Solution:
    """What prices alone reach within `budget` bytes, and the bound that they prove.

    `budget` pays for the start.
    """
    paid = int(np.searchsorted(steps.bytes + np.cumsum(steps.more), budget, side="right"))
    chosen = steps.start.copy()
    chosen[steps.row[:paid]] = steps.to[:paid]  # of several steps of a row, numpy keeps the last
    found = totals(taken, cost, chosen)
    bound, price = found["cost"], 0.0
    if paid < len(steps.row):
        price = float(steps.rate[paid])
        bound -= price * (budget - found["bytes"])
    return Solution(chosen=chosen, **found, bound=bound, price=price)


def fill(known: Solution, taken: np.ndarray, cost: np.ndarray, budget: int) -> Solution:
    """Spend what is left: as long as a change of one row fits and saves cost, make the one that
    saves most.
    """
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


def best(
    known: Solution, taken: np.ndarray, cost: np.ndarray, budget: int, most: int = MAX_CORE
) -> Solution:
    """The choice of least cost within `budget` bytes, at least as good as `known`, a solution with
    its bound.

    At the price of the bound a choice is dearer than its row's cheapest by some amount, and
    whatever holds it costs at least that much more than the bound. Integer programming gets the
    choices of the least amounts, the core; where the least amount left out is more than its
    solution costs above the bound, nothing else can be better. Otherwise the core grows, up to
    `most` choices. The answer is the best there is, unless that or NODES ends the search (tables in
    which many choices are worth about the same for their bytes). Its bound is what is proven, the
    Lagrangian bound or better."""
    every, scale = np.arange(len(cost)), max(float(np.nanmax(np.abs(cost))), abs(known.cost))
    at_price, lagrange = cost + known.price * taken, known.bound
    dearer = at_price - np.nanmin(at_price, axis=1, keepdims=True)
    base = np.where(dearer <= 0, taken, np.iinfo(np.int64).max).argmin(1)
    dearer[every, base] = np.nan
    order, count = (
        np.argsort(dearer, axis=None, kind="stable"),
        min(MIN_CORE, most),
    )  # nan comes last
    while (gap := known.cost - lagrange) > SAME * scale:
        inside = int((dearer < gap).sum())
        row, to = np.unravel_index(order[: min(count, inside)], cost.shape)
        core = _Core(
            row=row,
            more=taken[row, to] - taken[row, base[row]],
            dearer=dearer[row, to],
            price=known.price,
            room=budget - int(taken[every, base].sum()),
            unit=gap,
        )
        picked, proven = core.searched(SAME * scale / gap)
        chosen = base.copy()
        chosen[row[picked]] = to[picked]
        made = _solution(known, chosen, taken, cost)
        if made.bytes <= budget and made.cost < known.cost:
            known = made
        gap, left = (
            known.cost - lagrange,
            float(dearer.flat[order[count]]) if count < inside else np.inf,
        )
        known = replace(known, bound=max(known.bound, lagrange + min(proven, left, gap)))
        if min(proven, gap) <= left or gap <= CLOSE * scale or count >= most:
            break
        count = min(CORE_GROWTH * count, most)
    return known


@dataclass(frozen=True, kw_only=True)
class _Core:
    """N choices, at most one a row, to take instead of their rows' cheapest at the price."""

    row: np.ndarray  # [N]
    more: np.ndarray  # [N] bytes beyond the row's cheapest
    dearer: np.ndarray  # [N] cost at the price, beyond the row's cheapest
    price: float
    room: int  # bytes that the cheapest leave of the budget
    unit: float  # of the solver's costs: how far what is known is above the bound

    def searched(self, close: float) -> tuple[np.ndarray, float]:
        """Which to take, bool [N], within the room; and how far above the bound any of them must
        end at least.

        Taken are the best but for the part `close` of that distance, unless NODES or MAX_SECONDS ended
        the search."""
        room, answer = self.room, self._milp(self.room, close)
        proven = answer.mip_dual_bound
        while (
            over := int(self.more[self._picked(answer)].sum()) - self.room
        ) > 0 and answer.x is not None:
            room -= over  # so much the solver's tolerance has let through
            answer = self._milp(room, close)
        above = 0.0 if proven is None or not np.isfinite(proven) else max(0.0, proven * self.unit)
        return self._picked(answer), above

    def _milp(self, room: int, close: float) -> "OptimizeResult":
        """Least distance from the bound: what those taken are dearer, and the price of each byte
        that is left.

        Those bytes are a variable of their own, the last: without it costs would not be distances,
        and `close`, a part of the cost, not a part of the distance."""
        # Imported here: scipy takes a good part of the app's start.
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        rows, row = np.unique(self.row, return_inverse=True)
        size = np.abs(self.more).max(initial=1) / FINE
        one = csr_array(
            (np.ones(len(row)), (row, np.arange(len(row)))), shape=(len(rows), len(row) + 1)
        )
        with _silent():
            return milp(
                np.append(self.dearer, self.price * size) / self.unit,
                integrality=np.append(np.ones(len(row)), 0),
                bounds=Bounds(0, np.append(np.ones(len(row)), np.inf)),
                constraints=[
                    LinearConstraint(one, -np.inf, 1),
                    LinearConstraint(
                        csr_array(np.append(self.more / size, 1)[None]), room / size, room / size
                    ),
                ],
                options={"mip_rel_gap": close, "node_limit": NODES, "time_limit": MAX_SECONDS},
            )

    def _picked(self, answer: "OptimizeResult") -> np.ndarray:
        """None are taken where nothing was found: without them there always is a solution."""
        return np.zeros(len(self.row), bool) if answer.x is None else answer.x[:-1] > 0.5


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Nothing that is printed, also by C code, reaches standard output meanwhile.

    HiGHS 1.12, in scipy 1.17, has a printf left in it
    (HighsMipSolverData::transformNewIntegerFeasibleSolution). It prints, whatever `disp` says, when
    a solution of its presolved problem is off by more than its tolerance in the problem itself and
    is repaired. That hangs on the numbers: it was seen with and without presolve, with and without
    the variable for bytes left, and with bytes in units that differ a thousandfold, so that no
    option rules it out. HiGHS flushes what it prints before it returns. The price is that what
    other threads print meanwhile is lost too."""
    with _one_at_a_time:
        kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nothing, 1)
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)
            os.close(nothing)


def _solution(known: Solution, chosen: np.ndarray, taken: np.ndarray, cost: np.ndarray) -> Solution:
    return Solution(
        chosen=chosen, **totals(taken, cost, chosen), bound=known.bound, price=known.price
    )
