"""What a question costs that was asked before: python -m bench.journey [--beside CHECKOUT]

Prints calls of dmq's functions, moves from one of its files to another, and milliseconds of a warm
plan, and of the errors after a boundary has moved. `--beside` runs the same script of another
checkout in turns with this one, and prints the ratios."""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dmq
from dmq.recipe import ManualGroups
from dmq.workflow.answers import get_errors, get_plan


ROOT = Path(__file__).resolve().parent.parent
RECIPE = "PCR W4A8"
QUESTIONS = ("plan", "drag")


def count_calls(work: Callable[[], object]) -> tuple[int, int]:
    """Calls of functions of dmq inside `work`, and moves from file to file."""
    home, seen = str(Path(dmq.__file__).parent), list[str]()
    calls = 0

    def profile(frame, event, _) -> None:
        nonlocal calls
        back = frame if event == "call" else frame.f_back
        file = back.f_code.co_filename if back else ""
        if event in ("call", "return") and frame.f_code.co_filename.startswith(home):
            calls += event == "call"
            if file.startswith(home):
                seen.append(file)

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls, sum(a != b for a, b in itertools.pairwise(seen))


def measure(repeats: int) -> dict[str, tuple[int, int, float]]:
    """Calls, moves and milliseconds of each of QUESTIONS."""
    recipe, plain = dmq.load_recipe(RECIPE), dmq.load_recipe("W8A8, one range")
    at = iter(range(2, 10**6))

    def drag() -> object:
        boundary = 1 + next(at) % (plain.sampling.steps - 1)
        moved = dmq.load_recipe(plain, grouping=ManualGroups(boundaries=(boundary,)))
        return get_errors(moved)

    works = {"plan": lambda: get_plan(recipe), "drag": drag}
    found = {}
    for name, work in works.items():
        work()
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        found[name] = (*count_calls(work), 1e3 * statistics.median(seconds))
    return found


def ask_checkout(folder: Path, repeats: int) -> dict[str, list[float]]:
    """`measure` of another checkout, in a process of its own."""
    command = [sys.executable, "-m", "bench.journey", "--json", "--repeats", str(repeats)]
    env = os.environ | {"PYTHONPATH": str(folder)}
    made = subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
    return json.loads(made.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3, help="of both, in turns")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.json:
        print(json.dumps(measure(given.repeats)))
        return
    if not given.beside:
        for name, (calls, moves, spent) in measure(given.repeats).items():
            print(f"{name}: {calls:,} calls, {moves:,} moves, {spent:.2f} ms")
        return
    rounds = [
        [ask_checkout(folder.resolve(), given.repeats) for folder in (given.beside, ROOT)]
        for _ in range(given.rounds)
    ]
    for name in QUESTIONS:
        old, new = (rounds[0][side][name] for side in (0, 1))
        before, after = (min(pair[side][name][2] for pair in rounds) for side in (0, 1))
        print(
            f"{name}: {old[0]:,} calls before, {new[0]:,} now ({new[0] / old[0]:.2f} times); moves "
            f"{old[1]:,}, {new[1]:,}; {before:.2f} ms, {after:.2f} ms ({after / before:.2f} times)"
        )


if __name__ == "__main__":
    main()
