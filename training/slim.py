"""Rewrites run folders in the form that dmq writes now: `python -m training.slim SOURCE TARGET`,
for assets/runs.

Nothing is computed anew. Each folder is written by the function that would write it today, read
back and compared: only extremes of channels may differ, by as little as `dmq.store.extremes` says.
`--plans` compares the plans of all recipes that ship, before and after. The table that it prints
counts bytes."""

import argparse
import dataclasses
import json
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from dmq.artifacts import store
from dmq.artifacts.of_recipe import ask_ranges
from dmq.errors import DmqError
from dmq.recipe import PerTensor
from dmq.results import ActivationStats, Plan
from dmq.store import captures, folders, learned
from dmq.store.arrays import save_arrays
from dmq.store.codec import open_arrays
from dmq.store.extremes import INPUT_BITS, OTHER_BITS
from dmq.workflow.answers import get_plan
from tools.golden import shipped_cases


# Files of one set of arrays each: by name, what their metadata is called.
KINDS = {
    "rounding.safetensors": "rounding",
    "search.safetensors": "search",
    "predictor.safetensors": "predictor",
    "table.safetensors": "table",
    "windows.safetensors": "windows",
    "answer.safetensors": "answer",
}
SEARCH = re.compile(r"^.*-search-")


def same(a: Any, b: Any) -> bool:
    """Equal all the way down: arrays in shape, type and bits, dataclasses field by field."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and (a.dtype, a.shape, a.tobytes()) == (
            b.dtype,
            b.shape,
            b.tobytes(),
        )
    if type(a) is not type(b):
        return False
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(x, b[key]) for key, x in a.items())
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def check_stats(old: ActivationStats, new: ActivationStats, seen: set[int]) -> None:
    """Raise ValueError unless `new` is `old`, but for extremes of channels that grew a little, or
    of sites in `seen`.

    Counts may be in a narrower type.
    """
    for f in dataclasses.fields(old):
        a, b = getattr(old, f.name), getattr(new, f.name)
        if f.name == "counts":
            if not all(map(np.array_equal, a, b)):
                raise ValueError("counts differ")
        elif f.name not in ("channel_min", "channel_max") and not same(a, b):
            raise ValueError(f"{f.name} differs")
    for s, site in enumerate(old.sites):
        part = 2.0 ** -(INPUT_BITS if site.point == "input" else OTHER_BITS)
        for sign, name in ((-1, "channel_min"), (1, "channel_max")):
            a, b = sign * getattr(old, name)[s], sign * getattr(new, name)[s]
            exact = np.array_equal(a.max(1), b.max(1)) and (
                s in seen or np.array_equal(a.max(0), b.max(0))
            )
            if not exact or (b < a).any() or (s not in seen and (b - a > part * np.abs(a)).any()):
                raise ValueError(f"{site.label}: extremes of channels differ")


def slim_capture(source: Path, target: Path) -> None:
    """Write a capture anew; the recorded calls, if any, are copied."""
    old, info = captures.load_stats(source), captures.load_info(source)
    calls = (source / "trajectory.safetensors").is_file()
    captures.save_stats(target, old, info, captures.load_trajectory(source) if calls else None)
    check_stats(old, captures.load_stats(target), set())
    if captures.load_info(target) != info:
        raise ValueError("the model's description differs")


def slim_progressive(source: Path, target: Path, by_channel: bool) -> None:
    """Write progressive ranges anew, without what their capture, which is beside them, holds."""
    capture = capture_of(source)
    base, slim, info = (
        captures.load_stats(capture),
        captures.load_stats(target.parent / capture.name),
        captures.load_info(capture),
    )
    old = learned.load_progressive(source, base)
    unlike = old.stats.unlike(base)
    made = dataclasses.replace(old, stats=slim.updated(old.stats.only(unlike)))
    learned.save_progressive(target, made, slim, by_channel=by_channel, splits=info and info.splits)
    new = learned.load_progressive(target, slim)
    check_stats(old.stats, new.stats, set() if by_channel else set(unlike))
    if not same(dataclasses.replace(old, stats=new.stats), new):
        raise ValueError("ranges differ")


def capture_of(progressive: Path) -> Path:
    """The folder of the capture that progressive ranges were set beside.

    Raises ValueError if it is not there.
    """
    seen = json.loads((progressive / "stats" / "capture.json").read_text("utf-8"))
    for file in sorted(progressive.parent.glob("*/capture.json")):
        plain = json.loads(file.read_text("utf-8"))
        if all(
            plain[name] == seen[name] for name in ("fingerprint", "sampler", "timesteps", "subset")
        ):
            return file.parent
    raise ValueError("its capture is not there")


def slim_arrays(source: Path, target: Path) -> None:
    """Write a folder of arrays anew; what else is in it is copied."""
    with folders.write_folder(target) as part:
        for file in sorted(source.iterdir()):
            if file.name not in KINDS:
                copy(file, part / file.name)
                continue
            old = open_arrays(file, KINDS[file.name])
            save_arrays(part / file.name, KINDS[file.name], old[1], old[0])
            if not same(old, open_arrays(part / file.name, KINDS[file.name])):
                raise ValueError(f"{file.name} differs")


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder."""
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)


def slim(source: Path, target: Path) -> None:
    """Write all run folders of `source` anew into `target`, which keeps what it has of them.

    Raises DmqError if a folder cannot be read, ValueError if it reads differently afterwards.
    """
    whole = {place.name for place in progressives() if place.parent == source}
    # Captures come first: what was set along quantized trajectories is kept beside them.
    for folder in sorted(
        source.glob("*-*"), key=lambda folder: (kind_of(folder) != "captures", folder.name)
    ):
        if (place := target / folder.name).exists():
            continue
        try:
            if kind_of(folder) == "captures":
                slim_capture(folder, place)
            elif kind_of(folder) == "progressive":
                slim_progressive(folder, place, by_channel=folder.name not in whole)
            else:
                slim_arrays(folder, place)
        except ValueError as error:
            shutil.rmtree(place, ignore_errors=True)
            raise ValueError(f"{folder}: {error}") from None


def progressives() -> list[Path]:
    """Where progressive ranges of recipes that ship are, if those are of whole tensors."""
    chosen = [
        r
        for _, r in shipped_cases()
        if r.progressive and isinstance(r.activations.granularity, PerTensor)
    ]
    return [store.place(ask_ranges(recipe)) for recipe in chosen]


def kind_of(folder: Path) -> str:
    """What is in a run folder, one word."""
    return (
        "captures"
        if (folder / "capture.json").is_file()
        else SEARCH.sub("search-", folder.name).partition("-")[0]
    )


def plans_of(place: Path) -> dict[str, Plan]:
    """The plans of all recipes that ship for all embedded models, with the run folders in `place`
    for those that ship.

    Meant for a process of its own: what was read from elsewhere would be remembered.
    """
    with tempfile.TemporaryDirectory() as home:
        os.environ["DMQ_RUNS"] = str(Path(home) / "runs")
        (Path(home) / "runs").mkdir()
        (Path(home) / "assets").mkdir()
        for name in ("recipes", "prompts", "models"):
            (Path(home) / "assets" / name).symlink_to(folders.ASSETS / name)
        (Path(home) / "assets" / "runs").symlink_to(place.resolve())
        folders.ASSETS = Path(home) / "assets"
        return {name: get_plan(recipe) for name, recipe in shipped_cases()}


def check_plans(source: Path, target: Path) -> int:
    """How many plans there are, all equal before and after; raises ValueError if one is not."""
    before, after = (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")).submit(plans_of, place)
        for place in (source, target)
    )
    for which, plan in before.result().items():
        if not same(plan, after.result()[which]):
            raise ValueError(f"{which}: another plan")
    return len(before.result())


def weigh(*places: Path) -> str:
    """A table: bytes by kind of run folder in each of `places`, and the largest file."""
    rows: dict[str, list[int]] = defaultdict(lambda: [0] * len(places))
    largest = [0] * len(places)
    for n, place in enumerate(places):
        for folder in place.glob("*-*"):
            sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
            rows[kind_of(folder)][n] += sum(sizes)
            largest[n] = max(largest[n], *sizes)
    table = [*sorted(rows.items(), key=lambda row: -row[1][0])]
    table += [
        ("all", [sum(row[n] for row in rows.values()) for n in range(len(places))]),
        ("largest file", largest),
    ]
    return "\n".join(
        f"{kind:14}" + "".join(f"{size:14,}" for size in sizes) for kind, sizes in table
    )


def main() -> int:
    given = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    given.add_argument("source", type=Path)
    given.add_argument("target", type=Path)
    given.add_argument(
        "--plans", action="store_true", help="compare the plans of all recipes that ship, too"
    )
    chosen = given.parse_args()
    if not chosen.source.is_dir():
        print(f"training.slim: no folder {chosen.source}", file=sys.stderr)
        return 1
    try:
        slim(chosen.source.resolve(), chosen.target)
        if chosen.plans:
            print(f"{check_plans(chosen.source, chosen.target)} plans are equal")
    except (DmqError, ValueError) as error:
        print(f"training.slim: {error}", file=sys.stderr)
        return 1
    print(f"{'bytes':14}{'before':>14}{'after':>14}")
    print(weigh(chosen.source, chosen.target))
    return 0


if __name__ == "__main__":
    sys.exit(main())
