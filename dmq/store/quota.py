"""How much is kept: `$DMQ_RUNS_QUOTA`. What is oldest goes first when something is saved, and never
what is in use.

A piece is what is kept and removed as a whole: a run, a capture, a table, an export, a benchmark.
What ships lies elsewhere and is none."""

import contextlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from ..errors import DmqError
from ..public import is_public


PUBLIC = 4_000_000_000  # bytes, where nothing is said and everybody may save
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(I?)B?\s*")
KINDS = (
    "captures",
    "searches",
    "roundings",
    "trajectories",
    "tables",
    "exports",
    "benchmarks",
)  # folders of pieces
VISITORS = "visitors"  # in it, each visitor's own folder has runs and such folders again

_lock = threading.Lock()  # of what follows, and of removing
_held: list[set[Path]] = []  # the pieces that running jobs have written, a set for each
_process: set[Path] = set()  # the same for what no job says: kept as long as the process
_job: ContextVar[set[Path] | None] = ContextVar("job", default=None)


def quota() -> int | None:
    """Bytes that may be kept in the run folder; None for as many as there are. Raises DmqError if
    it is no size.

    >>> parse_size("2GB"), parse_size("1.5 MiB"), parse_size("700")
    (2000000000, 1572864, 700)
    """
    said = os.environ.get("DMQ_RUNS_QUOTA", "").strip()
    return parse_size(said) if said else PUBLIC if is_public() else None


def parse_size(said: str) -> int:
    """A size in bytes, such as "2GB" or "500 MiB". Raises DmqError for anything else."""
    found = SIZE.fullmatch(said.upper())
    if found is None:
        raise DmqError(
            f"$DMQ_RUNS_QUOTA is {said!r:.40}; write a number of bytes such as 500MB or 2GB."
        )
    number, unit, binary = found.groups()
    base = UNITS[unit]
    return int(float(number) * (1024 ** (("", "K", "M", "G", "T").index(unit)) if binary else base))


# --- who holds what -------------------------------------------------------------------------------


@contextlib.contextmanager
def job() -> Iterator[set[Path]]:
    """Work that a visitor started: what it writes stays until the block ends.

    Give what this yields to `working`.
    """
    held: set[Path] = set()
    with _lock:
        _held.append(held)
    try:
        yield held
    finally:
        with _lock:
            _held[:] = [other for other in _held if other is not held]


@contextlib.contextmanager
def working(held: set[Path]) -> Iterator[None]:
    """What is written while the block lasts is written for the job `held`."""
    before = _job.set(held)
    try:
        yield
    finally:
        _job.reset(before)


def hold(home: Path, folder: Path) -> None:
    """Keep the piece that `folder` is, or lies in, as long as whoever writes it now is at work."""
    if (piece := piece_of(home, folder)) is not None:
        held = _job.get()
        with _lock:
            (_process if held is None else held).add(piece)


def piece_of(home: Path, folder: Path) -> Path | None:
    """The piece of `home` that `folder` is or lies in; None if half written or elsewhere."""
    home, folder = home.resolve(), folder.resolve()
    if not folder.is_relative_to(home):
        return None
    parts = folder.relative_to(home).parts
    skip = 2 if parts[:1] == (VISITORS,) else 0
    count = skip + (2 if parts[skip : skip + 1] and parts[skip] in KINDS else 1)
    if len(parts) < count or any(part.startswith(".") for part in parts[:count]):
        return None
    return home.joinpath(*parts[:count])


# --- making room ----------------------------------------------------------------------------------


def pieces(home: Path) -> list[Path]:
    """Every piece that is kept in the run folder `home`."""
    found: list[Path] = []
    for root in (home, *_folders(home / VISITORS)):
        for folder in _folders(root):
            if folder.name in KINDS:
                found += _folders(folder)
            elif folder.name != VISITORS:
                found.append(folder)
    return [piece.resolve() for piece in found]


def _folders(place: Path) -> list[Path]:
    """The folders in `place`, without links and what is half written (a dot at the front)."""
    try:
        with os.scandir(place) as entries:
            return [
                Path(entry)
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and entry.name[:1] != "."
            ]
    except OSError:  # removed meanwhile, or never there
        return []


def weigh(piece: Path) -> tuple[int, float]:
    """Bytes of a piece, and when something in it was written last."""
    size, last = 0, 0.0
    for folder, _, files in os.walk(piece):
        for file in (Path(folder) / name for name in files):
            with contextlib.suppress(OSError):  # removed meanwhile
                seen = file.lstat()
                size, last = size + seen.st_size, max(last, seen.st_mtime)
    return size, last


def make_room(home: Path) -> list[Path]:
    """Remove the oldest pieces until what is kept in `home` is within the quota; returns what was
    removed.

    What running jobs have written stays, and the newest piece, even if it is larger than the quota
    by itself."""
    most = quota()
    if most is None:
        return []
    with _lock:
        weighed = sorted(
            ((weigh(piece), piece) for piece in pieces(home)), key=lambda item: item[0][1]
        )
        kept = sum(size for (size, _), _ in weighed)
        held, removed = set().union(_process, *_held), []
        for (size, _), piece in weighed[:-1]:
            if kept <= most:
                break
            if piece not in held and _remove(piece):
                kept -= size
                removed.append(piece)
    return removed


def _remove(piece: Path) -> bool:
    """Whether `piece` could be taken away: at once for whoever looks, since it is renamed first."""
    try:
        old = Path(tempfile.mkdtemp(prefix=".old-", dir=piece.parent))
        try:
            piece.rename(old / "was")
        finally:
            shutil.rmtree(old, ignore_errors=True)
        if piece.parent.parent.name == VISITORS:
            piece.parent.rmdir()  # a visitor's folder that is empty now
    except OSError:
        return not piece.exists()
    return True
