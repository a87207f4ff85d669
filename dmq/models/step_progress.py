"""A pipeline call as an iterator over its steps: diffusers calls back, but a stage wants to yield.

Runs are the only place where torch uses several threads. Its OpenMP keeps a team for every thread
that ever did, and with more of them than cores it puts a team to sleep at each barrier: a run
beside a second team is three times slower. So whatever else computes with torch (loading, range
searches, metrics) does so under `numerics.threads.one_thread`."""

import contextvars
import queue
import threading
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from torch import Tensor

from ..numerics.memory import keep_freed_memory


R = TypeVar("R")
OnStep = Callable[[int, float, Tensor], None]


class Cancelled(Exception):
    """Raised inside a pipeline run whose reader has gone."""


def yield_steps(run: Callable[[Callable[..., None]], R]) -> Generator[tuple, None, R]:
    """Yield what `run(on_step)` reports, such as (i, t, latents), and return what it returns;
    errors come through.

    `run` works in a thread of its own. Closing the generator cancels: the next report raises inside
    `run`, and close() returns when `run` has ended, so nothing goes on in the dark."""
    keep_freed_memory()
    reports: queue.Queue[Any] = queue.Queue()
    gone = threading.Event()
    outcome: dict[str, Any] = {}

    def on_step(*report: Any) -> None:
        if gone.is_set():
            raise Cancelled
        reports.put(report)

    def work() -> None:
        try:
            outcome["result"] = run(on_step)
        except BaseException as error:  # handed to the reader, who raises it
            outcome["error"] = error
        reports.put(None)

    # In the reader's context: what is saved in there is kept for the same visitor.
    worker = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
    worker.start()
    try:
        while (report := reports.get()) is not None:
            yield report
    finally:
        gone.set()
        worker.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]
