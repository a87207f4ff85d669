"""The directional bars: what the papers lead one to expect of a finished table, and whether it
is so.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

from .results import Row


TIAR_SECONDS = 120
HALF = 1e-6  # what rounding to half precision takes from a cosine


def bars(table: str, rows: list[Row]) -> Iterator[tuple[str, bool]]:
    """What should hold in a table of one model and setting, and whether it does; nothing where
    no bar is set.
    """
    if not rows:
        return
    weights, activations = map(int, re.findall(r"\d+", rows[0]["setting"]))
    if table == "grouping" and activations <= 6:
        yield from grouping_bars({row["name"].split()[0]: row for row in rows})
    if table == "time":
        yield from time_bars({row["name"]: row for row in rows}, weights, rows[0]["model"])


def grouping_bars(rows: dict[str, Row]) -> Iterator[tuple[str, bool]]:
    """Finer is not worse, in the plain and in the geometric mean over the steps; learned near
    exact cuts or better.
    """
    for figure, words in (("noise", "noise error"), ("typical", "geometric mean")):
        order = [name for name in ("shared", "uniform", "learned", "per") if name in rows]
        for coarse, fine in pairwise(order):
            a, b = _value(rows[coarse], figure), _value(rows[fine], figure)
            sign, holds = (">", a > b) if coarse == "shared" else (">=", a >= b)
            yield (
                f"{words}: {rows[coarse]['name']} {a:.2e} {sign} {rows[fine]['name']} {b:.2e}",
                holds,
            )
        if "learned" in rows and "exact" in rows:
            a, b = _value(rows["learned"], figure), _value(rows["exact"], figure)
            yield (
                f"{words}: learned {a:.2e} <= 1.1 * exact {b:.2e} ({100 * (a / b - 1):+.1f} %)",
                a <= 1.1 * b,
            )


def time_bars(rows: dict[str, Row], weights: int, model: str) -> Iterator[tuple[str, bool]]:
    """Of W4 the cosines after TIAR; at every setting the caches, the bytes of ranges per step
    and TIAR's seconds.
    """
    if "TIAR" in rows and weights == 4:
        cosine = rows["TIAR"]["cosine"]
        yield f"smallest cosine after TIAR {cosine:.5f} > 0.995", cosine > 0.995
    if "cache 16" in rows:
        cosine = rows["cache 16"]["cosine"]
        yield (
            f"smallest cosine with a 16-bit cache {cosine:.8f} = 1 up to {HALF:g}",
            cosine > 1 - HALF,
        )
    if "TIAR+FSC (tib)" in rows:
        share = rows["TIAR+FSC (tib)"]["fsc_share"]
        yield f"table of FSC (tib) {100 * share:.3f} % of the plan < 1 %", share < 0.01
    if "TIAR" in rows and model == "emoji-sd":
        seconds = rows["TIAR"]["seconds"]
        yield f"TIAR {seconds:.0f} s <= {TIAR_SECONDS} s", seconds <= TIAR_SECONDS


def _value(row: Row, figure: str) -> float:
    """An error that was not finite is the largest of all."""
    return float("inf") if row[figure] is None else row[figure]
