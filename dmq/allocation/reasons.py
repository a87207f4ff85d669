"""Why each layer got its choice, one line each: by rule, or by what it saves against the price
of a byte.
"""

import numpy as np

from .knapsack import Solution, smallest
from .rules import Problem


ALIKE = (
    0.01  # costs that differ by less than this part of the layers' mean range are about the same
)


def reasons(made: Problem, found: Solution) -> tuple[str, ...]:
    """One line for each layer of the table, true by the numbers of `made` and the price of
    `found`.
    """
    every = np.arange(len(found.chosen))
    tight = bool((found.chosen == smallest(made.bytes, made.cost)).all() and found.price > 0)
    alike = ALIKE * float(np.mean(np.nanmax(made.cost, 1) - np.nanmin(made.cost, 1)))
    more = made.bytes - made.bytes[every, found.chosen, None]
    less = made.cost[every, found.chosen, None] - made.cost
    saved = np.divide(less, more, out=np.zeros_like(less), where=more != 0)
    # The change up that saves most for a byte, and the change down that costs least for one: -1
    # where there is none.
    up = _pick(np.where((more > 0) & (less > 0), saved, -np.inf))
    down = _pick(-np.where((more < 0) & (less < 0), saved, np.inf))
    count = made.open.sum(1)
    spread = np.nanmax(made.cost, 1) - np.nanmin(made.cost, 1)

    def row_line(r: int) -> str:
        label = made.labels[found.chosen[r]]
        if count[r] == 1:
            return f"{label} is the only choice that is known and allowed"
        if tight:
            return "the budget pays for nothing but the smallest choices"
        if up[r] < 0 and down[r] < 0:
            return "no other choice costs less or is smaller"
        if up[r] >= 0:
            if down[r] < 0 and spread[r] < alike:
                return "all choices cost about the same here, so the smallest"
            return _below(
                made.labels[up[r]], less[r, up[r]], more[r, up[r]], saved[r, up[r]], found.price
            )
        if not found.price:
            return "costs least, and the budget allows it"
        return _above(
            made.labels[down[r]],
            -less[r, down[r]],
            -more[r, down[r]],
            saved[r, down[r]],
            found.price,
        )

    lines = [row_line(r) for r in range(len(every))]
    first = np.full(len(every), -1)
    said = []
    for n, r in enumerate(made.row):
        if made.fixed[n]:
            said.append(f"fixed by the rule for {made.fixed[n]}")
        elif first[r] >= 0:
            said.append(
                f"same as {made.table.layers[first[r]].name}, by the rule for {made.tied[n]}"
            )
        else:
            said.append(lines[r])
        if first[r] < 0:
            first[r] = n
    together = np.bincount(made.row, minlength=len(every))
    return tuple(
        f"{line} (all {together[r]} layers of {made.tied[n]} together)"
        if together[r] > 1 and first[r] == n and not made.fixed[n]
        else line
        for n, (line, r) in enumerate(zip(said, made.row, strict=True))
    )


def _pick(values: np.ndarray) -> np.ndarray:
    """[R] the column of the largest value; -1 where none is finite."""
    return np.where(np.isfinite(values).any(1), values.argmax(1), -1)


def _below(other: str, dearer: float, saves: int, rate: float, price: float) -> str:
    """Why not the larger choice `other`."""
    line = f"costs {dearer:.2g} more than {other} and saves {size(saves)}"
    here, margin = f"{1000 * rate:.2g}", f"{1000 * price:.2g}"
    if rate <= price:
        return f"{line}; a saved kB costs {here} here, {margin} at the margin"
    return f"{line}; a saved kB costs {here} here, above the {margin} at the margin, but {other} does not fit as well"


def _above(other: str, dearer: float, saves: int, rate: float, price: float) -> str:
    """Why not the smaller choice `other`."""
    line = f"costs least; {other} would cost {dearer:.2g} more and save {size(saves)}"
    here, margin = f"{1000 * rate:.2g}", f"{1000 * price:.2g}"
    if rate >= price:
        return f"{line}: {here} for a saved kB, {margin} at the margin"
    return f"{line}: {here} for a saved kB, below the {margin} at the margin, but the budget has room for it"


def size(count: int) -> str:
    """Bytes in words, such as "12.4 kB"."""
    if count < 1000:
        return f"{count} bytes"
    return f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.2f} MB"
