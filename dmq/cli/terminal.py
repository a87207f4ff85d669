"""What commands do in a terminal: run long work with its progress, print tables, write files."""

import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from ..errors import DmqError
from ..progress import relay, run_to_end
from ..store import folders


LOG_SECONDS = 30  # between two lines of progress where there is no terminal


def show_progress(work: Generator[Any, None, Any], *, writes_runs: bool = True) -> Any:
    """Run a stage to its end, its progress on standard error; returns its value.

    On a terminal that is one line, written over and over; in a log it is a line now and then.
    Raises DmqError as soon as there is work to do that `writes_runs`, if the run folder cannot be
    written."""
    last, live, since = "", sys.stderr.isatty(), time.monotonic()

    def show(item: Any) -> None:
        nonlocal last, since, writes_runs
        if hasattr(item, "needed"):  # what the work will take: stays on screen
            print(f"dmq: {item}", file=sys.stderr, flush=True)
            return
        if writes_runs:
            folders.check_writable()
            writes_runs = False  # asked once
        if not hasattr(item, "total"):
            return
        line = str(item)
        if live:
            print("\r" + line.ljust(len(last)), end="", file=sys.stderr, flush=True)
            last = line
        elif time.monotonic() - since > LOG_SECONDS:
            print(line, file=sys.stderr, flush=True)
            since = time.monotonic()

    try:
        return run_to_end(relay(work, show))
    finally:
        if last:  # leave the line empty, for the result or for what went wrong
            print("\r" + " " * len(last) + "\r", end="", file=sys.stderr, flush=True)


def check_place(file: str, suffix: str = "") -> None:
    """Raise DmqError unless `file` could be written: said before anything is generated for it."""
    if not file.lower().endswith(suffix):
        raise DmqError(f"{file}: images are written as PNG; give a name that ends with {suffix}.")
    if not Path(file).parent.is_dir():
        raise DmqError(f"{file}: cannot be written, there is no folder {Path(file).parent}.")


def write(file: str, text: str) -> None:
    """Write a text file that a user named."""
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise DmqError(f"{file}: cannot be written ({error.strerror}).") from None


def print_table(head: list[str], rows: list[list[str]], *, left: int = 1) -> None:
    """Print texts in columns, the first `left` of them flush left, the others flush right."""
    table = [head, *rows]
    width = [max(len(row[n]) for row in table) for n in range(len(head))]
    for row in table:
        cells = (f"{cell:{'<' if n < left else '>'}{width[n]}}" for n, cell in enumerate(row))
        print("  ".join(cells).rstrip())
