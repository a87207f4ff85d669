"""Where runs are kept, and how a folder is written so that it is either whole or not there."""

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .. import jsonio
from ..errors import ELSEWHERE, DmqError, disk_error
from ..places import ASSETS as ASSETS  # the other files of this room look it up here
from ..public import check_place, is_public, visitor
from . import quota


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,79}")
# Names of devices, which Windows keeps for itself, whatever follows them behind a dot.
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d) *(\..*)?", re.IGNORECASE)
# What is called by what it depends on: by kind, the folder that holds it, and the file that tells
# that an answer is complete.
ANSWERS = {
    "rounding": ("roundings", "rounding.safetensors"),
    "progressive": ("trajectories", "ranges.safetensors"),
    "windows": ("trajectories", "windows.safetensors"),
    "over-time": ("trajectories", "question.json"),
    "probe": ("trajectories", "question.json"),
    "sensitivity": ("tables", "table.safetensors"),
    "predictor": ("tables", "predictor.safetensors"),
    "labels": ("tables", ""),
    "shared-images": ("trajectories", ""),
}
PROMPTED = (
    "over-time",
    "probe",
    "shared-images",
)  # kinds that show the prompts that somebody wrote
MIN_FREE_BYTES = 32_000_000  # bytes of disk without which nothing long is begun
# An absolute path, up to the last part of it; addresses such as https://… are none.
PLACE = re.compile(r"(?<![\w:/.~])(?:~|[A-Za-z]:)?[/\\](?:[^/\\\s'\"“”<>:;,()]+[/\\])+(?=[^/\\\s])")


def home() -> Path:
    """Where runs are kept: `$DMQ_RUNS`, or `runs` in the current folder."""
    return Path(os.environ.get("DMQ_RUNS", "runs"))


def own_home() -> Path:
    """Where what has a name is kept, and what shows a prompt: `home()`, or in it the folder of the
    visitor at hand.

    What is called by its content (captures, searches, tables, …) holds nothing of anybody, and
    serves all."""
    name = visitor()
    return home() / quota.VISITORS / name if name else home()


def digest(asked: Any) -> str:
    """A name for plain data."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def answer_places(kind: str, *asked: Any) -> tuple[Path, Path]:
    """Where the answer of a `kind` of ANSWERS to `asked` is kept: plain data and specs it depends on.

    The user's place for it, and that of what ships.
    """
    name = f"{kind}-{digest([jsonio.to_data(one, as_key=True) for one in asked])[:16]}"
    return _answers_home(kind) / name, ASSETS / "runs" / name


def answer_folder(kind: str, *asked: Any, own: bool = False) -> Path:
    """The user's place of `answer_places`, unless only the one that ships is there and the user's
    `own` is not insisted on.
    """
    place, shipped = answer_places(kind, *asked)
    return shipped if shipped.is_dir() and not (own or place.is_dir()) else place


def find_answers(kind: str) -> list[Path]:
    """The folders of all answers of a kind: the user's, newest first, then those that ship.

    What the user has hides the same one that ships."""
    pattern = f"{kind}-*/{ANSWERS[kind][1]}"
    own = sorted(_answers_home(kind).glob(pattern), key=lambda file: -file.stat().st_mtime_ns)
    names = {file.parent.name for file in own}
    shipped = sorted((ASSETS / "runs").glob(pattern))
    return [file.parent for file in (*own, *(f for f in shipped if f.parent.name not in names))]


def _answers_home(kind: str) -> Path:
    return (own_home() if kind in PROMPTED else home()) / ANSWERS[kind][0]


def find_finished(room: str, key: str, file: str) -> Path | None:
    """The folder `key` that has `file`: the user's own in `room` before one that ships."""
    places = [home() / room / key, ASSETS / "runs" / key]
    return next((place for place in places if (place / file).is_file()), None)


def discard(folder: Path) -> None:
    """Delete what was kept in `folder` of unfinished work, if anything was."""
    if folder.is_dir():
        shutil.rmtree(folder)


def write_whole(file: Path, text: str) -> None:
    """Write a file so that a reader finds the old or the new one, never a half."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=".part-", dir=file.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as opened:
        opened.write(text)
    Path(part).chmod(0o644)
    Path(part).replace(file)


def hide_places(said: object) -> str:
    """A text as a visitor of a public app may read it: without the folders of this machine."""
    text = str(said)
    if not is_public():
        return text
    roots = (own_home(), home(), ASSETS, Path(tempfile.gettempdir()), Path.cwd())
    known = {str(made) for root in roots for made in (root, root.absolute(), root.resolve())}
    for place in sorted(known - {".", "/"}, key=len, reverse=True):
        text = re.sub(rf"(?<![\w./\\-]){re.escape(place)}(?:[/\\]|(?![\w.-]))", "", text)
    return PLACE.sub("", text)


def check_writable(folder: Path | None = None) -> None:
    """Raise DmqError unless `folder`, the run folder unless given, can be written or made, and has
    room.

    Said before a long stage, not after it. Nothing is left there, not even the folder.
    """
    folder = home() if folder is None else folder
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        why = (
            DmqError(f"{there}: is no folder; {ELSEWHERE}.")
            if there.is_file()
            else disk_error(error, there)
        )
        raise why or DmqError(
            f"{there}: cannot be written ({error.strerror}); {ELSEWHERE}."
        ) from None
    free = shutil.disk_usage(there).free
    if free < MIN_FREE_BYTES:
        raise DmqError(
            f"{there}: {free / 1e6:.1f} MB are free on its disk, at least {MIN_FREE_BYTES / 1e6:.0f} "
            f"are needed; make room, or {ELSEWHERE}."
        )


@contextlib.contextmanager
def write_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` if the block ends well, and disappears if it does
    not.

    Then the oldest of what is kept goes if it is more than the quota. Raises DmqError if the disk
    is full or may not be written, and in public mode for a folder outside the run folder; other
    errors of the block come through."""
    check_place(folder, home())
    quota.hold(home(), folder)
    try:
        with _rename_when_done(folder) as part:
            yield part
    except Exception as error:
        if (told := disk_error(error, folder)) is None:
            raise
        raise told from None
    if quota.piece_of(home(), folder) is not None:
        quota.make_room(home())


@contextlib.contextmanager
def _rename_when_done(folder: Path) -> Iterator[Path]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    try:
        yield part
        part.chmod(0o755)
        if folder.exists():
            # Two renames instead of remove-then-rename: a reader never finds half a folder.
            old = Path(tempfile.mkdtemp(prefix=".old-", dir=folder.parent))
            folder.rename(old / "was")
            part.rename(folder)
            shutil.rmtree(old)
        else:
            part.rename(folder)
    finally:
        if part.exists():
            shutil.rmtree(part)


def download_folder() -> Path:
    """A new folder for what a user takes away at once; all of them go when the process ends."""
    return Path(tempfile.mkdtemp(dir=_downloads().name))


@functools.cache
def _downloads() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="dmq-", ignore_cleanup_errors=True)


def fit_to_name(name: str) -> bool:
    """Can `name` be a folder's on every system? Windows loses a dot or space at the end."""
    return bool(NAME.fullmatch(name)) and name[-1] not in " ." and not DEVICES.fullmatch(name)


def free_stem(wanted: str, folder_of: Callable[[str], Path], nameless: str = "run") -> str:
    """`wanted` made fit to name a folder, numbered if `folder_of` it is there or reserved."""
    stem = re.sub(r"[^A-Za-z0-9 ._+-]+", "-", wanted).strip(" .-")[:60].rstrip(" .") or nameless
    return next(
        n for n in (stem, *(f"{stem} {k}" for k in range(2, 10_000))) if _is_free(n, folder_of)
    )


def _is_free(name: str, folder_of: Callable[[str], Path]) -> bool:
    try:
        return not folder_of(name).exists()
    except DmqError:  # reserved
        return False
