"""What dmq takes on a device at real size, beside plain sampling: seconds, memory and bytes of each
phase.

    python -m bench.device [--size sd15] [--device cuda] [--dtype float16] [--offload group] [--phases capture fisher]

A pipeline with random weights is saved as a folder in half precision, and goes through sampling,
capture, groups, simulation, execution, sensitivities (Fisher), export in 4 bits, and the export
loaded again. Every phase is a process of its own, so that its peak of memory is its own; libraries
and Python are part of it. Seconds a step are medians of all steps but the first; where two are
compared, both were made in turn in one process, and the ratio is printed. With --out, phases that
the file has of the same settings are not measured again, so a stopped bench goes on; with --work,
the model and its capture stay."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.sizes.phases import PHASES, Job
from dmq.cli.doctor import devices, processor
from dmq.errors import DmqError
from dmq.models.placement import AUTO, DTYPES, OFFLOADS, VARIABLES, Placement


ROOT = Path(__file__).resolve().parent.parent
SIDES = {"tiny": 16, "sd15": 512, "sdxl": 1024}
Figures = dict[str, Any]


# --- one phase ------------------------------------------------------------------------------------


def run(name: str, job: Job, environment: dict[str, str]) -> Figures:
    """The figures of a phase, or "failed" and why."""
    command = [sys.executable, "-m", "bench.sizes.phases", name, json.dumps(asdict(job))]
    made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8")
    if made.returncode == 0:
        return json.loads(made.stdout.splitlines()[-1])
    if made.returncode < 0:
        return {"failed": f"killed by signal {-made.returncode}, most likely for want of memory"}
    return {"failed": made.stderr.strip().rpartition("\n")[2] or f"ended with {made.returncode}"}


def needed(name: str, work: Path) -> list[str]:
    """Phases that must come before `name`, since `work` lacks what they make."""
    before = [] if name == "make" or (work / "model").is_dir() else ["make"]
    if name in ("groups", "simulate", "execute", "fisher", "export", "reload"):
        before += [] if (work / "runs" / "captures").is_dir() else ["capture"]
    return before + ([] if name != "reload" or (work / "w4").is_dir() else ["export"])


def measured(
    phases: list[str], job: Job, placement: Placement, results: Figures, keep: Any
) -> Iterator[str]:
    """Run the phases that `results` lacks, and what they need; yield the name of each that is
    there.
    """
    work = Path(job.work)
    environment = os.environ | {VARIABLES[name]: value for name, value in asdict(placement).items()}
    environment["DMQ_RUNS"] = str(work / "runs")
    for wanted in phases:
        if wanted in results:
            yield wanted
            continue
        for name in (*needed(wanted, work), wanted):
            found = run(name, job, environment)
            results[name] = found
            if "failed" not in found:
                keep()
            yield name
            if "failed" in found:
                break


# --- what is printed ------------------------------------------------------------------------------


def line(name: str, found: Figures) -> str:
    """A row of the table."""
    if "failed" in found:
        return f"{name:<10}failed: {found['failed']}"
    memory = [
        f"{size / 1e9:>9.2f}" if size else f"{'-':>9}"
        for size in (found["peak"], found["device peak"])
    ]
    return f"{name:<10}{found['took']:>8.1f}{''.join(memory)}  {'; '.join(words(found))}"


def words(found: Figures) -> Iterator[str]:
    """The figures of a phase, in words."""
    if "numbers" in found:
        yield ", ".join(f"{part} {count / 1e6:,.0f} M" for part, count in found["numbers"].items())
    for key in ("place", "layers"):
        if key in found:
            yield f"{found[key]} layers" if isinstance(found[key], int) else found[key]
    for key, what in (("load", "loaded"), ("made", "made"), ("seconds", "done")):
        if key in found:
            yield f"{what} in {found[key]:.1f} s"
    for way, took in found.get("step", {}).items():
        ratio = (
            ""
            if len(found["step"]) == 1 or found["ratio"][way] == 1
            else f" ({found['ratio'][way]:.2f} x)"
        )
        yield f"{way} {took:.3g} s a step{ratio}, the first after {found['start'][way]:.1f} s"
    if "decode" in found:
        yield f"decoded in {found['decode']:.1f} s"
    for key, size in found.items():
        if key.endswith("bytes") or key == "files":
            yield f"{key} {size:,}"


def machine(placement: Placement) -> str:
    """Where this runs, in a line; what `dmq doctor` says of the machine."""
    from importlib.metadata import version

    found = [finding.said for part in (processor, devices) for finding in part()]
    asked = ", ".join(f"{name} {value}" for name, value in asdict(placement).items())
    return (
        f"{'; '.join(found)}; torch {version('torch')}, diffusers {version('diffusers')}; {asked}"
    )


# --- the command line -----------------------------------------------------------------------------


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIDES, default="sd15")
    parser.add_argument(
        "--tiny", action="store_const", const="tiny", dest="size", help="the same as --size tiny"
    )
    parser.add_argument("--side", type=int, help="of images, in pixels; default: the model's own")
    parser.add_argument("--steps", type=int, default=3, help="of sampling, at least 2")
    parser.add_argument(
        "--rounds", type=int, default=2, help="of what is done in turn, each in another order"
    )
    parser.add_argument(
        "--phases",
        nargs="+",
        choices=PHASES,
        default=list(PHASES),
        metavar="NAME",
        help=f"of {', '.join(PHASES)}; default: all",
    )
    parser.add_argument("--device", default=AUTO)
    parser.add_argument("--dtype", default=AUTO, choices=DTYPES)
    parser.add_argument("--offload", default="none", choices=OFFLOADS)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="JSON of all figures, to quote and to go on from"
    )
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER", help="where model and capture stay; else temporary"
    )
    return parser


def opened(file: Path | None, asked: Figures) -> Figures:
    """Phases that `file` has.

    Raises DmqError if they were measured with other settings, or it is something else.
    """
    if file is None or not file.is_file():
        return {}
    try:
        held = json.loads(file.read_text("utf-8"))
        then, phases = held["asked"], held["phases"]
    except (ValueError, KeyError, TypeError):
        raise DmqError(
            f"{file}: not a file of this bench. Give another --out, or delete it."
        ) from None
    if then != asked:
        other = next(name for name in asked if then.get(name) != asked[name])
        raise DmqError(
            f"{file}: was measured with another {other}. Give another --out, or delete it."
        )
    return phases


@contextmanager
def place(folder: Path | None) -> Iterator[Path]:
    """`folder`, which stays, or a temporary one."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="dmq-device-") as made:
        yield Path(made)


def main(arguments: list[str] | None = None) -> None:
    chosen = options().parse_args(arguments)
    try:
        if chosen.steps < 2 or chosen.rounds < 1:
            raise DmqError(
                "--steps must be at least 2, since the first is not timed, and --rounds at least 1."
            )
        placement = Placement(device=chosen.device, dtype=chosen.dtype, offload=chosen.offload)
        side = chosen.side or SIDES[chosen.size]
        settings = {
            "size": chosen.size,
            "side": side,
            "steps": chosen.steps,
            "rounds": chosen.rounds,
        }
        asked = settings | asdict(placement)
        results = opened(chosen.out, asked)
        where = machine(placement)
        print(f"{chosen.size}, {side} x {side}, {chosen.steps} steps, guidance; {where}")
        print(f"{'phase':<10}{'s':>8}{'GB host':>9}{'device':>9}", flush=True)
        failed = False
        with place(chosen.work) as work:

            def keep() -> None:
                whole = {name: found for name, found in results.items() if "failed" not in found}
                write(chosen.out, {"machine": where, "asked": asked, "phases": whole})

            for name in measured(
                chosen.phases, Job(**settings, work=str(work)), placement, results, keep
            ):
                print(line(name, results[name]), flush=True)
                failed |= "failed" in results[name]
    except DmqError as error:
        sys.exit(f"error: {error}")
    if failed:
        sys.exit(1)


def write(file: Path | None, held: Figures) -> None:
    """Write `held` as JSON, whole or not at all."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".part-{file.name}")
        part.write_text(json.dumps(held, indent=1), encoding="utf-8")
        part.replace(file)


if __name__ == "__main__":
    main()
