"""How long the bit budget takes and how near it comes to its bound: python -m bench.budget
[--layers 100 1316]

On made-up tables of 100 and of 1,316 layers (SDXL's) with nine choices each, and on one whose
choices are all worth about the same for their bytes, which is the hardest kind. Prints, over
budgets from end to end: seconds of the answer with its reasons, of the answer alone (integer
programming on the core that prices leave), of prices and single changes alone (`lagrange`), and of
integer programming on the whole table (`milp`, a few budgets, at most 10 s each); how far costs are
above the Lagrangian bound, and above the bound that is given with the answer, in parts of it; and
the seconds of the whole front. Lines that name HighsMipSolverData are left over in scipy's solver.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from dmq.allocation.budget import allocate, limits, pareto
from dmq.allocation.knapsack import best, fill, price_steps, solve_priced
from dmq.recipe import Budget, parse_format
from dmq.results import Layer, SensitivityTable


LABELS = [f"{name}-{bits}" for bits in (4, 3, 2) for name in ("UAQ", "KMC", "KMA")]
OTHERS = 3
SECONDS = 10.0


def made_up(count: int, seed: int, alike: bool = False) -> SensitivityTable:
    """Layers of 2 thousand to 13 million weights; costs fall fourfold with a bit, and differ a
    lot between layers.
    """
    rng = np.random.default_rng(seed)
    side = np.exp(rng.uniform(np.log(45), np.log(3600), (2, count))).astype(int)
    layers = tuple(
        Layer(
            name=f"layers.{n}",
            kind="linear",
            role="other",
            block="layers",
            shape=(int(o), int(i)),
            bias=False,
        )
        for n, (o, i) in enumerate(side.T)
    )
    bits = np.array([parse_format(label).bits for label in LABELS])
    tables = np.stack(
        [
            {"UAQ": 4 * side[0], "KMC": 2 * 2**b * side[0], "KMA": 0 * side[0] + 2 * 2**b}[
                label[:3]
            ]
            for label, b in zip(LABELS, bits, strict=True)
        ],
        1,
    )
    taken = -(-side.prod(0)[:, None] * bits // 8) + tables
    cost = (
        np.exp(rng.normal(0, 2, (count, 1)))
        * 1e-4
        * 4.0**-bits
        * np.exp(rng.normal(0, 0.3, taken.shape))
    )
    if alike:
        cost = 1e-9 * (taken.max() - taken * rng.uniform(0.999, 1.001, taken.shape))
    return SensitivityTable(
        title="made up",
        kind="measured",
        unit="",
        model="",
        fingerprint="",
        layers=layers,
        choices=tuple(map(parse_format, LABELS)),
        bytes=taken,
        cost=cost,
        spread=0 * cost,
    )


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of this process's own computing, since others may be busy too, and the value."""
    start = time.process_time()
    value = work()
    return time.process_time() - start, value


def by_scipy(taken: np.ndarray, cost: np.ndarray, budget: int) -> float:
    """The least cost by integer programming alone; nan if it found nothing in its time."""
    count, choices = cost.shape
    one_hot = csr_array(
        (np.ones(cost.size), (np.repeat(np.arange(count), choices), np.arange(cost.size)))
    )
    scale = float((cost.max(1) - cost.min(1)).mean())
    answer = milp(
        c=cost.ravel() / scale,
        integrality=np.ones(cost.size),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_hot, 1, 1),
            LinearConstraint(csr_array(taken.reshape(1, -1) / 1e6), -np.inf, budget / 1e6),
        ],
        options={"mip_rel_gap": 1e-6, "time_limit": SECONDS},
    )
    return float("nan") if answer.fun is None else answer.fun * scale


def measure(name: str, table: SensitivityTable, count: int) -> None:
    """Print the figures of one table, at `count` budgets."""
    budgets = [round(at) for at in np.linspace(*limits(table), count).tolist()]
    taken, cost = table.bytes, table.cost
    others, whole, exact, prices, gaps, rough, open_ = [], [], [], [], [], [], []
    for budget in budgets:
        seconds, found = timed(lambda: allocate(table, Budget(bits=None, bytes=budget)))
        whole.append(seconds)
        seconds, known = timed(
            lambda: fill(
                solve_priced(price_steps(taken, cost), taken, cost, budget), taken, cost, budget
            )
        )
        prices.append(seconds)
        exact.append(seconds + timed(lambda: best(known, taken, cost, budget))[0])
        gaps.append(found.cost / known.bound - 1)
        rough.append(known.cost / known.bound - 1)
        open_.append(found.cost / found.bound - 1)
    for budget, gap in list(zip(budgets, gaps, strict=True))[1 : -1 : max(1, count // OTHERS)]:
        bound = solve_priced(price_steps(taken, cost), taken, cost, budget).bound
        seconds, value = timed(lambda: by_scipy(taken, cost, budget))
        others.append((seconds, value / bound - 1, gap))
    front, points = timed(lambda: pareto(table))
    print(f"\n{name}: {len(table.layers)} layers, {len(table.choices)} choices, {count} budgets")
    for what, seconds in (
        ("allocate, with reasons", whole),
        ("core by milp", exact),
        ("lagrange", prices),
        ("milp of everything", [seconds for seconds, *_ in others]),
    ):
        print(
            f"  {what:24} median {1e3 * statistics.median(seconds):7.1f} ms, most "
            f"{1e3 * max(seconds):7.1f} ms"
        )
    for what, parts in (
        ("above Lagrangian bound", gaps),
        ("  lagrange", rough),
        ("above the given bound", open_),
    ):
        print(f"  {what:24} median {statistics.median(parts):10.1e}, most {max(parts):10.1e}")
    for _, gap, own in others:
        print(f"  {'milp of everything':24} {gap:.3e} above the Lagrangian bound, ours {own:.3e}")
    print(f"  {'front':24} {len(points)} points in {1e3 * front:.0f} ms")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--layers", type=int, nargs=2, default=[100, 1316], help="of a small model, and of SDXL"
    )
    parser.add_argument("--budgets", type=int, default=17, help="from end to end")
    chosen = parser.parse_args(arguments)
    small, large = chosen.layers
    measure("a small model", made_up(small, 0), chosen.budgets)
    measure("as large as SDXL", made_up(large, 0), chosen.budgets)
    measure("hardest", made_up(small, 1, alike=True), chosen.budgets)


if __name__ == "__main__":
    main()
