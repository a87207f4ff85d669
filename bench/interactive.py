"""How long people wait on the Activations and Time groups tabs: python -m bench.interactive

Prints the median and the 95th percentile of what happens when a boundary moves, and the time of everything that is
computed once: on made-up statistics of 100 sites and 100 steps, and on the captures of the embedded models.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch


ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from dmq import runs  # noqa: E402
from dmq.recipe import (  # noqa: E402
    FLOAT,
    Activations,
    ManualGroups,
    MinMax,
    OptimalGroups,
    Percentile,
    PerChannel,
    PerStep,
)
from dmq.results import ActivationStats  # noqa: E402
from dmq.trajectory.errors import ErrorTable  # noqa: E402
from dmq.trajectory.grouping import error_against_count, group_timesteps, uniform_boundaries  # noqa: E402
from tests.helpers import random_stats  # noqa: E402


CHOICES = {
    "MseSearch, 8 bits": (8, Activations()),
    "MseSearch, 4 bits": (4, Activations()),
    "MinMax, 8 bits": (8, Activations(range=MinMax())),
    "Percentile, 8 bits": (8, Activations(range=Percentile())),
    "per channel, 8 bits": (8, Activations(granularity=PerChannel(), range=MinMax())),
}
MOVES = 40


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def moves(steps: int) -> Iterator[ManualGroups]:
    """Eight groups, one boundary of which is dragged about."""
    rng = np.random.default_rng(0)
    start = uniform_boundaries(8, steps)
    for _ in range(MOVES):
        k = rng.integers(len(start))
        low, high = (0, *start)[k] + 1, (*start, steps)[k + 1]
        yield ManualGroups(boundaries=(*start[:k], int(rng.integers(low, high)), *start[k + 1 :]))


def measure(name: str, stats: ActivationStats) -> None:
    kept = [site.point != "output" for site in stats.sites]
    print(f"\n{name}: {sum(kept)} quantized sites, {stats.steps} steps")
    columns = "build", "move p50", "move p95", "per step", "costs", "DP 8", "DP own", "curve"
    print(f"{'':22}" + "".join(f"{column:>10}" for column in columns))
    for label, (bits, spec) in CHOICES.items():
        made = []
        build = timed(lambda: made.append(ErrorTable(stats, spec, np.where(kept, bits, FLOAT))))  # noqa: B023
        table = made[0]
        waits = [timed(lambda: table.errors(group_timesteps(m, table))) for m in moves(stats.steps)]  # noqa: B023
        finest = timed(lambda: table.errors(group_timesteps(PerStep(), table)))  # noqa: B023
        costs = timed(table.segment_costs)
        common = timed(lambda: group_timesteps(OptimalGroups(count=8), table))  # noqa: B023
        own = timed(lambda: group_timesteps(OptimalGroups(count=8, per_layer=True), table))  # noqa: B023
        curve = timed(lambda: error_against_count(table, tuple(range(1, min(32, stats.steps) + 1))))  # noqa: B023
        p95 = statistics.quantiles(waits, n=20)[-1]
        row = (build, statistics.median(waits), p95, finest, costs, common, own, curve)
        print(f"{label:22}" + "".join(f"{seconds * 1000:7.0f} ms" for seconds in row))


def main() -> None:
    torch.set_num_threads(2)
    measure("made up", random_stats(sites=100, steps=100, seed=0, elements=300))
    for folder in sorted((ROOT / "assets" / "runs").glob("*/capture.json")):
        measure(folder.parent.name, runs.load_stats(folder.parent))


if __name__ == "__main__":
    main()
