"""Which choice each layer gets for a budget of bytes, why, and how much better anything could be.

What prices for a byte leave to decide is decided by integer programming, `scipy.optimize.milp`
(`knapsack.best`). Costs of layers are taken to add up. Layers influence each other, so the model
that comes out has to be measured as a whole; `greedy`, `random_allocation` and `uniform` are what
it has to be measured against, at equal bytes."""

import math
from dataclasses import replace

import numpy as np

from ..errors import DmqError
from ..recipe import Budget, Rule, format_name, parse_format
from ..results import Allocation, SensitivityTable
from .knapsack import Solution, best, fill, price_steps, smallest, solve_priced
from .reasons import reasons
from .rules import Problem, problem


def allocate(table: SensitivityTable, budget: Budget) -> Allocation:
    """The choice for every layer that costs least within the budget, with reasons and a bound
    (Qua²SeDiMo, budgeted).

    A layer that a rule leaves in float takes 4 bytes a weight and costs nothing. Raises DmqError
    for rules that cannot be kept, and for a budget below the smallest or above the largest
    allocation, with both ends."""
    made = problem(table, budget.rules)
    found = _solve(made, budget_bytes(table, budget))
    return _allocation(made, found, reasons(made, found))


def limits(table: SensitivityTable, rules: tuple[Rule, ...] = ()) -> tuple[int, int]:
    """Bytes of the smallest and of the largest allocation that `rules` allow."""
    return _ends(problem(table, rules))


def pareto(
    table: SensitivityTable, rules: tuple[Rule, ...] = (), points: int = 33
) -> list[Allocation]:
    """Good allocations for `points` budgets from the smallest to the largest, even in bytes;
    without reasons.

    Made by prices alone, at once for any table; `Allocation.bound` says how far below them the best
    may be. Costs never rise. Fewer come back where the ends are closer together than that."""
    made = problem(table, rules)
    steps = price_steps(made.bytes, made.cost)
    front: list[Solution] = []
    for budget in sorted({round(at) for at in np.linspace(*_ends(made), points).tolist()}):
        known = fill(
            solve_priced(steps, made.bytes, made.cost, budget), made.bytes, made.cost, budget
        )
        if front and front[-1].cost < known.cost:  # what a smaller budget paid for is still there
            known = replace(front[-1], bound=known.bound, price=known.price)
        front.append(known)
    return [_allocation(made, found, ("",) * len(table.layers)) for found in front]


def greedy(table: SensitivityTable, budget: Budget) -> Allocation:
    """From the smallest choices up, always the change of one layer that saves most cost for a
    byte and still fits.
    """
    made = problem(table, budget.rules)
    room = _within(made, budget_bytes(table, budget))
    chosen = smallest(made.bytes, made.cost)
    every = np.arange(len(chosen))
    while True:
        more = made.bytes - made.bytes[every, chosen, None]
        less = made.cost[every, chosen, None] - made.cost
        fits = (more > 0) & (more <= room - made.bytes[every, chosen].sum()) & (less > 0)
        if not fits.any():
            return _control(made, chosen, "greedy: most cost saved for a byte first")
        rate = np.divide(less, more, out=np.zeros_like(less), where=fits)
        row, to = np.unravel_index(rate.argmax(), rate.shape)
        chosen[row] = to


def random_allocation(table: SensitivityTable, budget: Budget, seed: int) -> Allocation:
    """Random choices, changed at random until they fit and nothing larger fits any more: as many
    bytes, no thought.
    """
    made = problem(table, budget.rules)
    room = _within(made, budget_bytes(table, budget))
    rng = np.random.default_rng(seed)
    every = np.arange(len(made.bytes))
    chosen = np.where(made.open, rng.random(made.bytes.shape), -1).argmax(1)
    while True:
        more = made.bytes - made.bytes[every, chosen, None]
        spare = room - int(made.bytes[every, chosen].sum())
        changes = made.open & ((more < 0) if spare < 0 else (more > 0) & (more <= spare))
        rows = np.flatnonzero(changes.any(1))
        if not len(rows):
            return _control(made, chosen, "at random")
        row = rng.choice(rows)
        chosen[row] = rng.choice(np.flatnonzero(changes[row]))


def uniform(table: SensitivityTable, label: str) -> Allocation:
    """The same choice in all layers, whatever it takes.

    Raises DmqError if the table does not have it everywhere.
    """
    made = problem(table)
    label = format_name(parse_format(label))
    if label not in made.labels:
        raise DmqError(f"the table has no {label}; its choices are {', '.join(made.labels)}.")
    column = made.labels.index(label)
    unknown = np.flatnonzero(~made.open[:, column])
    if len(unknown):
        raise DmqError(
            f"{table.layers[unknown[0]].name}: the cost of {label} is not known; finish the table "
            "first."
        )
    return _control(made, np.full(len(made.bytes), column), "the same everywhere")


def budget_bytes(table: SensitivityTable, budget: Budget) -> int:
    """The budget in bytes of all layers of `table`."""
    if budget.bytes is not None:
        return budget.bytes
    if budget.bits is None or not math.isfinite(budget.bits):
        raise DmqError(f"budget.bits is {budget.bits}; give a number of bits a weight, such as 4.")
    # A thousandth of a byte: bits that were computed from whole bytes must give these bytes again.
    return math.floor(budget.bits * table.num_weights / 8 + 1e-3)


def _ends(made: Problem) -> tuple[int, int]:
    low = np.where(made.open, made.bytes, np.iinfo(np.int64).max).min(1)
    return int(low.sum()), int(np.where(made.open, made.bytes, 0).max(1).sum())


def _within(made: Problem, room: int) -> int:
    """`room` itself.

    Raises DmqError if it is below the smallest or above the largest allocation.
    """
    low, high = _ends(made)
    if not low <= room <= high:
        # Bits are rounded inwards, so that what is said can be given.
        ends = (
            math.ceil(8000 * low / made.table.num_weights) / 1000,
            math.floor(8000 * high / made.table.num_weights) / 1000,
        )
        rules = " under these rules" if made.rules else ""
        raise DmqError(
            f"budget: {room:,} bytes ({8 * room / made.table.num_weights:.3f} bits a weight) is "
            f"{'below the smallest' if room < low else 'above the largest'} possible; the layers "
            f"take {low:,} to "
            f"{high:,} bytes ({ends[0]:g} to {ends[1]:g} bits){rules}."
        )
    return room


def _solve(made: Problem, room: int) -> Solution:
    _within(made, room)
    steps = price_steps(made.bytes, made.cost)
    known = fill(solve_priced(steps, made.bytes, made.cost, room), made.bytes, made.cost, room)
    return best(known, made.bytes, made.cost, room)


def _control(made: Problem, chosen: np.ndarray, why: str) -> Allocation:
    none = float("nan")
    found = Solution(chosen=chosen, bytes=0, cost=0.0, bound=none, price=none)
    said = [f"fixed by the rule for {fixed}" if fixed else why for fixed in made.fixed]
    return _allocation(made, found, tuple(said))


def _allocation(made: Problem, found: Solution, why: tuple[str, ...]) -> Allocation:
    every, columns = np.arange(len(made.row)), found.chosen[made.row]
    taken = int(made.layer_bytes[every, columns].sum())
    cost = math.fsum(made.layer_cost[every, columns])
    return Allocation(
        layers=tuple(layer.name for layer in made.table.layers),
        choices=tuple(made.choices[column] for column in columns),
        bytes=taken,
        average_bits=8 * taken / made.table.num_weights,
        cost=cost,
        reasons=why,
        bound=min(found.bound, cost),  # where they are equal, rounding must not turn them round
        fingerprint=made.table.fingerprint,
    )
