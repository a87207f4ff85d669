"""Executed int8 side by side, in one run: the float model, dmq's W8A8 and what else runs int8 on a
CPU.

    python -m bench.speed [--subjects unet emoji-sd emoji-dit] [--rows NAME ...] [--rounds 5] [--out FILE]

"unet" is one denoiser step of a U-Net as large as Stable Diffusion 1.5's, with random weights,
batch 2, 64 x 64 latents and a prompt of 77 x 768; any other subject is whole images of that
pipeline, prompt to pixels, with all of its steps and guidance. Peers come from
requirements-bench.txt; one that cannot run says why in its row.

Each row lives in a process of its own. In every round each of them works once, in turn, forwards
and backwards, so that whatever else the machine does meets all alike; rows that do not fit into
memory together have rounds of their own, always with "fp32 eager" among them. A ratio is that of a
round: seconds of fp32 eager over those of the row. Printed are medians over the rounds, with the
least and the greatest. Peak is of the process while it works, Python and libraries included; making
the model may take more, which the file tells. MB are 10^6 bytes, "file" those that the weights take
as that peer stores them. Distance: |y - y32|^2 / |y32|^2 over all rounds, of answers or finished
latents. Two rows are compared round by round, since one image that takes another turn outweighs
ten others."""

import argparse
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from dmq.errors import DmqError
from dmq.recipe import EMBEDDED


ROOT = Path(__file__).resolve().parent.parent
BASE = "fp32 eager"
ROWS: dict[str, tuple[str, dict[str, Any]]] = {  # name: module of bench.peers, settings
    BASE: ("plain", {"how": "eager"}),
    "bf16 eager (autocast)": ("plain", {"how": "autocast"}),
    "torch.compile fp32": ("plain", {"how": "compile"}),
    "dmq W8A8 simulated": ("simulated", {}),
    "dmq W8A8 static": ("executed", {"groups": 1}),
    "dmq W8A8 8 groups": ("executed", {"groups": 8}),
    "dmq W8A8 bf16 rest": ("executed", {"groups": 8, "rest": "bfloat16"}),
    "dmq W8A8 per token": ("executed", {"dynamic": "token"}),
    "dmq W8A8 per call": ("executed", {"dynamic": "call"}),
    "dmq per call, SDNQ's float": ("executed", {"dynamic": "call", "like": "sdnq"}),
    "dmq per call, quanto's float": ("executed", {"dynamic": "call", "like": "quanto"}),
    "dmq per token, torchao's float": ("executed", {"dynamic": "token", "like": "torchao"}),
    "dmq compiled static": ("executed", {"groups": 1, "compiling": True}),
    "dmq compiled 8 groups": ("executed", {"groups": 8, "compiling": True}),
    "dmq compiled bf16 rest": ("executed", {"groups": 8, "compiling": True, "rest": "bfloat16"}),
    "dmq compiled per call": ("executed", {"dynamic": "call", "compiling": True}),
    "OpenVINO int8": ("openvino", {"rest": "f32"}),
    "OpenVINO int8, bf16 rest": ("openvino", {"rest": "bf16"}),
    "SDNQ int8": ("sdnq", {}),
    "torchao int8 dynamic": ("torchao", {"compiled": False}),
    "torchao int8, compiled": ("torchao", {"compiled": True}),
    "optimum-quanto int8": ("quanto", {}),
}
# a peer, and the row of dmq nearest to it in layers and bits; most peers take the first and the
# last, too
EQUAL = {
    "OpenVINO int8": "dmq W8A8 per call",
    "OpenVINO int8, bf16 rest": "dmq W8A8 per call",
    "SDNQ int8": "dmq per call, SDNQ's float",
    "torchao int8 dynamic": "dmq per token, torchao's float",
    "optimum-quanto int8": "dmq per call, quanto's float",
}
PACKAGES = ("torch", "diffusers", "openvino", "nncf", "sdnq", "torchao", "optimum-quanto")
ROOM = 3  # times the peak of fp32 eager: what making another model may need
PATIENCE = 3600  # seconds that a row may take for one thing
HEADS = f"{'':<30}{'seconds':>25}{'times fp32':>23}{'peak MB':>9}{'file MB':>9}{'distance':>11}"


@dataclass
class Row:
    """What one worker said."""

    name: str
    failed: str = ""
    made: dict[str, Any] = field(
        default_factory=dict
    )  # seconds, bytes, note and peak of making the model
    seconds: list[float] = field(default_factory=list)  # of each round
    base: list[float] = field(default_factory=list)  # of fp32 eager in the same rounds
    peak: float = 0.0  # megabytes
    wrong: list[float] = field(default_factory=list)  # |y - y32|^2 of each round
    power: list[float] = field(default_factory=list)  # |y32|^2

    @property
    def ratios(self) -> list[float]:
        return [base / own for base, own in zip(self.base, self.seconds, strict=True)]

    @property
    def distance(self) -> float:
        return sum(self.wrong) / sum(self.power) if self.power else 0.0

    def data(self) -> dict[str, Any]:
        """All of it as plain data."""
        if self.failed:
            return {"name": self.name, "failed": self.failed}
        names = {"made": "making_seconds", "peak": "making_peak"}
        made = {names.get(key, key): value for key, value in self.made.items()}
        return {
            "name": self.name,
            "seconds": self.seconds,
            "base_seconds": self.base,
            "ratio": middle(self.ratios)[0],
            "peak": self.peak,
            "distance": self.distance if np.isfinite(self.distance) else None,
            "distances": [
                a / b if np.isfinite(a) else None
                for a, b in zip(self.wrong, self.power, strict=True)
            ],
        } | made

    def line(self) -> str:
        """The row as it is printed."""
        if self.failed:
            return f"{self.name:<30}  cannot run: {self.failed}"
        note = self.made["note"] and f"   {self.made['note']}"
        return (
            f"{self.name:<30}{_spread(self.seconds, '.3f'):>25}{_spread(self.ratios, '.2f'):>23}{self.peak:>9,.0f}"
            f"{self.made['bytes'] / 1e6:>9,.1f}{self.distance:>11.2e}{note}"
        )


class Worker:
    """A row at work in a process of its own; `row` gathers what it says.

    Answers are left in `out`.
    """

    def __init__(self, name: str, subject: str, work: Path, out: Path, threads: int) -> None:
        self.row, self.out = Row(name), out
        module, settings = ROWS[name]
        out.mkdir(parents=True)
        given = (subject, str(work), module, json.dumps(settings), str(out), str(threads))
        with (out / "log.txt").open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bench.peers.worker", *given],
                cwd=ROOT,
                env=_environment(work, threads),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
            )
        self.row.made = self._answer()

    def ask(self, n: int) -> None:
        """Let it work round `n`."""
        try:
            self.process.stdin.write(f"{n}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # why it is gone is what it answers
        said = self._answer()
        if not self.row.failed:
            self.row.seconds.append(said["seconds"])
            self.row.peak = said["peak"]

    def _answer(self) -> dict[str, Any]:
        heard, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        line = self.process.stdout.readline() if heard else ""
        said = json.loads(line) if line else {"failed": self._end(bool(heard))}
        self.row.failed = said.get("failed", "")
        return said

    def _end(self, gone: bool) -> str:
        if not gone:
            return f"not ready after {PATIENCE} s"
        code = self.process.wait()
        last = (
            (self.out / "log.txt").read_text("utf-8", errors="replace").strip().rpartition("\n")[2]
        )
        return (
            "killed, most likely for want of memory"
            if code == -9
            else f"ended with {code}: {last:.160}"
        )

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()


def measured(
    subject: str, names: list[str], rounds: int, threads: int, work: Path
) -> Iterator[Row]:
    """The rows of one subject, in order, each group of them as soon as it is done. `names` begins
    with BASE.

    Raises DmqError if the float model cannot run: without it there is nothing to compare to.
    """
    with tempfile.TemporaryDirectory(dir=work, prefix="answers-") as answers, ExitStack() as alive:

        def started(name: str) -> Worker:
            print(f"{subject}: making {name}", file=sys.stderr, flush=True)
            worker = Worker(name, subject, work, Path(answers) / str(names.index(name)), threads)
            alive.callback(worker.stop)
            return worker

        base = started(BASE)
        if base.row.failed:
            raise DmqError(f"{subject}: {BASE} cannot run: {base.row.failed}.")
        families = [list(some) for _, some in groupby(names[1:], family)]
        first = True
        while first or families:
            group: list[Worker] = []
            while families and (not group or _free() > ROOM * base.row.made["peak"]):
                group += map(started, families.pop(0))
            _work(base, group, rounds)
            yield from [base.row] * first + [worker.row for worker in group]
            first = False
            for worker in group:
                worker.stop()


def family(name: str) -> tuple[str, dict[str, Any]]:
    """What of a row those have in common that are timed against each other, in the same rounds."""
    module, settings = ROWS[name]
    return module, {key: value for key, value in settings.items() if key != "groups"}


def _work(base: Worker, group: list[Worker], rounds: int) -> None:
    """Let all of them work, in turn, forwards and backwards; one that fails is left out from
    then on.
    """
    base.row.seconds = []
    for n in range(rounds):
        for worker in [base, *group][:: 1 if n % 2 == 0 else -1]:
            if not worker.row.failed:
                worker.ask(n)
        if base.row.failed:
            raise DmqError(f"{BASE} failed: {base.row.failed}.")
        wanted = np.load(base.out / f"{n}.npy").astype(np.float64)
        for row, out in (
            (worker.row, worker.out) for worker in (base, *group) if not worker.row.failed
        ):
            row.wrong.append(float(np.square(np.load(out / f"{n}.npy") - wanted).sum()))
            row.power.append(float(np.square(wanted).sum()))
    for worker in (base, *group):
        worker.row.base = list(base.row.seconds)


def bars(subject: str, rows: dict[str, Row]) -> Iterator[tuple[str, bool]]:
    """What should hold of one subject, and whether it does; nothing where a row is missing."""
    rows = {name: row for name, row in rows.items() if not row.failed}
    own = [row for name, row in rows.items() if ROWS[name][0] == "executed"]
    least = {"unet": 3.5, "emoji-sd": 1.8}.get(subject)
    if own and least:
        best = max(own, key=lambda row: middle(row.ratios)[0])
        got = middle(best.ratios)[0]
        yield f"{best.name}: {got:.2f} times as fast as {BASE} >= {least}", got >= least
    for static, groups in (
        ("dmq W8A8 static", "dmq W8A8 8 groups"),
        ("dmq compiled static", "dmq compiled 8 groups"),
    ):
        if static in rows and groups in rows:
            pairs = zip(rows[static].seconds, rows[groups].seconds, strict=True)
            got = statistics.median(b / a for a, b in pairs)
            yield f"{groups}: {100 * (got - 1):+.1f} % of the time of static <= 2 %", got <= 1.02
    for name, ours in EQUAL.items():
        if name in rows and ours in rows:
            row, other = rows[ours], rows[name]
            got = statistics.median(a / b for a, b in zip(row.wrong, other.wrong, strict=True))
            words = f"{ours}: distance {row.distance:.2e}, {name} {other.distance:.2e}"
            yield f"{words}, median ratio of rounds {got:.2f} <= 1", got <= 1


def middle(values: list[float]) -> tuple[float, float, float]:
    """Median, least and greatest.

    >>> middle([3.0, 1.0, 2.0])
    (2.0, 1.0, 3.0)
    """
    return statistics.median(values), min(values), max(values)


def _spread(values: list[float], form: str) -> str:
    median, low, high = (format(value, form) for value in middle(values))
    return f"{median} ({low} to {high})"


def _free() -> float:
    """Megabytes of memory that could be had."""
    return (
        int(Path("/proc/meminfo").read_text("utf-8").partition("MemAvailable:")[2].split()[0])
        / 1000
    )


def _environment(work: Path, threads: int) -> dict[str, str]:
    caches = {"DMQ_RUNS": str(work / "runs"), "TORCHINDUCTOR_CACHE_DIR": str(work / "compiled")}
    return os.environ | caches | {"OMP_NUM_THREADS": str(threads)}


def machine(threads: int) -> dict[str, Any]:
    """Where this runs, as plain data."""
    found: dict[str, Any] = {"processor": _processor(), "cores": os.cpu_count(), "threads": threads}
    found |= {"memory": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6)}
    found |= {"load": os.getloadavg()[0], "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        "unknown",
    )


def prepare(subject: str, work: Path, small: bool, threads: int) -> None:
    """Have `work` hold all that the rows of `subject` open. Raises DmqError if it cannot be."""
    command = [
        sys.executable,
        "-m",
        "bench.peers.subjects",
        subject,
        str(work),
        "small" if small else "full",
    ]
    made = subprocess.run(
        command, cwd=ROOT, env=_environment(work, threads), capture_output=True, encoding="utf-8"
    )
    if made.returncode:
        raise DmqError(f"{subject}: {made.stderr.strip().rpartition(chr(10))[2]}")


@contextmanager
def place(folder: Path | None) -> Iterator[Path]:
    """`folder`, which stays, or a temporary one."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="dmq-speed-") as made:
        yield Path(made)


def write(file: Path | None, held: dict[str, Any]) -> None:
    """Write `held` as JSON, whole or not at all."""
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".part-") as part:
        made = Path(part) / file.name
        made.write_text(json.dumps(held, indent=1, allow_nan=False), encoding="utf-8")
        made.replace(file)


def chosen_rows(asked: list[str]) -> list[str]:
    """The rows asked for, or all of them, with BASE in front.

    Raises DmqError for a name that is none.
    """
    if unknown := [name for name in asked if name not in ROWS]:
        raise DmqError(f"--rows: {unknown[0]!r:.60} is none of {', '.join(ROWS)}.")
    return [name for name in ROWS if not asked or name in asked or name == BASE]


def check_subjects(subjects: list[str]) -> None:
    """Raise DmqError for one that is neither "unet" nor a pipeline."""
    for name in subjects:
        if name not in ("unet", *EMBEDDED) and not Path(name).is_dir():
            raise DmqError(
                f"--subjects: {name!r:.60} is no folder and none of unet, {', '.join(EMBEDDED)}."
            )


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--subjects",
        nargs="+",
        default=["unet", "emoji-sd", "emoji-dit"],
        metavar="NAME",
        help="unet, or a pipeline: an embedded name or a folder",
    )
    parser.add_argument(
        "--rows", nargs="+", metavar="NAME", default=[], help="only these, and fp32 eager"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of each row")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON of all that was measured")
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER", help="where the random U-Net and captures stay"
    )
    parser.add_argument(
        "--small", action="store_true", help="a tiny U-Net, to see that everything runs"
    )
    return parser


def main(arguments: list[str] | None = None) -> None:
    chosen = options().parse_args(arguments)
    try:
        names, held = chosen_rows(chosen.rows), {"machine": machine(chosen.threads), "subjects": {}}
        if min(chosen.rounds, chosen.threads) < 1:
            raise DmqError("--rounds and --threads must be at least 1.")
        check_subjects(chosen.subjects)
        print(
            ", ".join(
                f"{key} {value}" for key, value in held["machine"].items() if value is not None
            )
        )
        with place(chosen.work) as work:
            for subject in chosen.subjects:
                print(
                    f"\n{subject}{' (tiny)' if chosen.small and subject == 'unet' else ''}\n{HEADS}",
                    flush=True,
                )
                prepare(subject, work, chosen.small, chosen.threads)
                rows: dict[str, Row] = {}
                for row in measured(subject, names, chosen.rounds, chosen.threads, work):
                    rows[row.name] = row
                    print(row.line(), flush=True)
                    held["subjects"][subject] = [one.data() for one in rows.values()]
                    write(chosen.out, held)
                for words, holds in bars(subject, rows):
                    print(f"  {'holds' if holds else 'FAILS'}: {words}", flush=True)
    except DmqError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
