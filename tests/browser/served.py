"""The app as people get it, but its stages can be told to stand still, so that a Stop is never too
late.

    python -m tests.browser.served FILE serve --port 7860

While FILE is there, a stage that reaches what is written in it tells the same progress again and
again, as if its work took for ever. Nothing else differs: it is stopped, closed and gone on with as
usual."""

import contextlib
import functools
import importlib
import inspect
import json
import pkgutil
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from dmq import cli, evaluation, workflow
from dmq.progress import Progress


PAUSE = 0.3  # seconds


def stands(file: Path, progress: Any) -> bool:
    """Should a stage that told `progress` stand still?"""
    try:
        where = json.loads(file.read_text())
    except FileNotFoundError:
        return False
    if (
        not isinstance(progress, Progress)
        or progress.done < 1
        or where["stage"] not in progress.stage
    ):
        return False
    return progress.snapshot is not None or not where["snapshot"]


def holding(stage: Callable, file: Path) -> Callable:
    """`stage`, which stands still where `file` says."""

    @functools.wraps(stage)
    def run(*args: Any, **kwargs: Any) -> Generator[Any, None, Any]:
        with contextlib.closing(stage(*args, **kwargs)) as work:
            while True:
                try:
                    progress = next(work)
                except StopIteration as end:
                    return end.value
                yield progress
                while stands(file, progress):
                    time.sleep(PAUSE)
                    yield progress

    return run


if __name__ == "__main__":
    rooms = [evaluation, workflow]
    for room in rooms:
        found = pkgutil.iter_modules(room.__path__, f"{room.__name__}.")
        for module in [room, *(importlib.import_module(one.name) for one in found)]:
            for name, stage in vars(module).copy().items():
                if inspect.isgeneratorfunction(stage) and not name.startswith("_"):
                    setattr(module, name, holding(stage, Path(sys.argv[1])))
    sys.exit(cli.main(sys.argv[2:]))
