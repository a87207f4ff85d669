"""How long people wait on the Activations and Time groups tabs: python -m bench.interactive
[--sites 100]

Prints the median and the 95th percentile of what happens when a boundary moves, and the time of
everything that is computed once: on made-up statistics of 100 sites and 100 steps, and on the
captures of the embedded models."""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from dmq.places import ASSETS
from dmq.recipe import (
    FLOAT,
    Activations,
    ManualGroups,
    MinMax,
    OptimalGroups,
    Percentile,
    PerChannel,
    PerStep,
)
from dmq.results import ActivationStats
from dmq.store import captures
from dmq.trajectory.errors import ErrorTable
from dmq.trajectory.grouping import error_against_count, group_timesteps, uniform_boundaries
from tests.helpers import random_stats


CHOICES = {
    "MseSearch, 8 bits": (8, Activations()),
    "MseSearch, 4 bits": (4, Activations()),
    "MinMax, 8 bits": (8, Activations(range=MinMax())),
    "Percentile, 8 bits": (8, Activations(range=Percentile())),
    "per channel, 8 bits": (8, Activations(granularity=PerChannel(), range=MinMax())),
}


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def moves(steps: int, count: int) -> Iterator[ManualGroups]:
    """Eight groups, one boundary of which is dragged about."""
    rng = np.random.default_rng(0)
    start = uniform_boundaries(8, steps)
    for _ in range(count):
        k = rng.integers(len(start))
        low, high = (0, *start)[k] + 1, (*start, steps)[k + 1]
        yield ManualGroups(boundaries=(*start[:k], int(rng.integers(low, high)), *start[k + 1 :]))


def measure(name: str, stats: ActivationStats, count: int) -> None:
    """Print what a boundary that is moved `count` times costs, and what is computed once."""
    kept = [site.point != "output" for site in stats.sites]
    print(f"\n{name}: {sum(kept)} quantized sites, {stats.steps} steps")
    columns = "build", "move p50", "move p95", "per step", "costs", "DP 8", "DP own", "curve"
    print(f"{'':22}" + "".join(f"{column:>10}" for column in columns))
    for label, (bits, spec) in CHOICES.items():
        made = []
        build = timed(lambda: made.append(ErrorTable(stats, spec, np.where(kept, bits, FLOAT))))
        table = made[0]
        waits = [
            timed(lambda: table.errors(group_timesteps(m, table)))
            for m in moves(stats.steps, count)
        ]
        finest = timed(lambda: table.errors(group_timesteps(PerStep(), table)))
        costs = timed(table.segment_costs)
        common = timed(lambda: group_timesteps(OptimalGroups(count=8), table))
        own = timed(lambda: group_timesteps(OptimalGroups(count=8, per_layer=True), table))
        curve = timed(lambda: error_against_count(table, tuple(range(1, min(32, stats.steps) + 1))))
        p95 = statistics.quantiles(waits, n=20)[-1]
        row = (build, statistics.median(waits), p95, finest, costs, common, own, curve)
        print(f"{label:22}" + "".join(f"{seconds * 1000:7.0f} ms" for seconds in row))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sites", type=int, default=100, help="of the statistics that are made up")
    parser.add_argument("--steps", type=int, default=100, help="of theirs")
    parser.add_argument("--moves", type=int, default=40, help="of a boundary")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--made-up", action="store_true", help="without the captures that ship")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    stats = random_stats(sites=chosen.sites, steps=chosen.steps, seed=0, elements=300)
    measure("made up", stats, chosen.moves)
    for folder in () if chosen.made_up else sorted((ASSETS / "runs").glob("*/capture.json")):
        measure(folder.parent.name, captures.load_stats(folder.parent), chosen.moves)


if __name__ == "__main__":
    main()
