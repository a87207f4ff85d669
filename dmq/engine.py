"""Many independent tasks: here, in several processes, or on a Dask cluster; each result is kept
once it is there.

A task is a small description that can be pickled, and what is done with it is a function of a
module: whoever works on it loads what it needs by name, once for all its tasks. So an interruption
loses only what was being worked on, and the next run is given what is missing. Nothing is retried
that failed by itself. A cluster is one's own: what Dask sends to and fro is believed, as whatever
comes from another process of this machine."""

import contextlib
import itertools
import logging
import queue
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import DmqError


if TYPE_CHECKING:
    from distributed import Client

Task = TypeVar("Task")
Result = TypeVar("Result")

PATIENCE = 30.0  # seconds to wait for a scheduler, and for a worker where there is none
POLL = 1.0  # seconds without a result after which the cluster is looked at


def run(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    kept: Callable[[Task, Result], Any],
    scheduler: str = "",
    workers: int = 1,
) -> Generator[tuple[int, int, Result], None, None]:
    """Yield (done, total, result) for `function(task)` of each task, in the order in which they are
    finished.

    `kept(task, result)` is called here before that. With `scheduler` ("tcp://host:port") the
    workers of that Dask cluster share the tasks, otherwise `workers` processes of this machine; 1
    means this process, task by task. Closing the generator gives up what is not finished. Raises
    DmqError, with what is kept, if a process dies, the scheduler goes away or no worker is left;
    what `function` raises comes through."""
    if workers < 1:
        raise DmqError(f"workers is {workers}; at least one is needed.")
    if scheduler:
        finished = _on_cluster(function, tasks, scheduler)
    elif workers > 1 and len(tasks) > 1:
        finished = _in_processes(function, tasks, min(workers, len(tasks)))
    else:
        finished = ((task, function(task)) for task in tasks)
    done = 0
    with contextlib.closing(finished):
        try:
            for task, result in finished:
                kept(task, result)
                done += 1
                yield done, len(tasks), result
        except _Gone as gone:
            raise DmqError(
                f"{gone} {done} of {len(tasks)} results are kept; run again to go on."
            ) from None


class _Gone(Exception):
    """Whoever worked is no longer there."""


# --- processes of this machine --------------------------------------------------------------------


def _in_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int
) -> Generator[tuple[Task, Result], None, None]:
    # Not joblib.Parallel, whose generators throw finished results away when a process dies.
    from joblib.externals.loky import ProcessPoolExecutor

    pool = ProcessPoolExecutor(workers, env={"OMP_NUM_THREADS": "1"})
    waiting, of = iter(tasks), dict[Future[Result], Task]()
    try:
        for task in itertools.islice(waiting, workers):
            of[pool.submit(function, task)] = task
        while of:
            for future in wait(of, return_when=FIRST_COMPLETED).done:
                task = of.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    raise _Gone("a worker process died, perhaps for want of memory.") from None
                for more in itertools.islice(waiting, 1):
                    of[pool.submit(function, more)] = more
                yield task, result
    finally:
        # loky stumbles over tasks that it has not handed on yet when it is closed. There are no more
        # than workers, so all of them soon are.
        while not all(future.running() or future.done() for future in of):
            time.sleep(0.01)
        pool.shutdown(wait=True, kill_workers=True)


# --- a Dask cluster -------------------------------------------------------------------------------


def _on_cluster(
    function: Callable[[Task], Result], tasks: Sequence[Task], address: str
) -> Generator[tuple[Task, Result], None, None]:
    with _quiet(), _connected(address) as client:
        _check_workers(client, address, time.monotonic())
        of = dict(zip(client.map(function, tasks, pure=False), tasks, strict=True))
        finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for future in of:
            future.add_done_callback(finished.put)
        left, seen = set(of), time.monotonic()
        while left:
            try:
                future = finished.get(timeout=POLL)
            except queue.Empty:
                seen = _looked_after(client, address, seen)
                continue
            left.remove(future)
            seen = time.monotonic()
            yield of[future], _result(client, address, future, seen)
            future.release()


def _result(client: "Client", address: str, future: Any, seen: float) -> Any:
    from distributed import CancelledError, KilledWorker

    if future.status == "error":
        error = future.exception()
        if isinstance(error, KilledWorker):
            raise _Gone(f"{address}: one task killed several workers, perhaps for want of memory.")
        if isinstance(error, ImportError):
            raise DmqError(
                f"{address}: a worker lacks a package ({error}). Install the same dmq on all of "
                "them."
            )
        raise error
    while True:
        try:
            return future.result(timeout=POLL)
        except TimeoutError:  # whoever had it is gone, and it is made once more, or nobody is left
            seen = _looked_after(client, address, seen)
        except (CancelledError, OSError):
            raise _Gone(f"{address}: the scheduler went away.") from None


def _looked_after(client: "Client", address: str, seen: float) -> float:
    """When there was last a worker, `seen` unless there is one now; _Gone if nobody will ever
    answer.
    """
    if client.status != "running":
        raise _Gone(f"{address}: the scheduler went away.")
    try:
        workers = client.scheduler_info(n_workers=1)["workers"]
    except (OSError, TimeoutError):
        raise _Gone(f"{address}: the scheduler went away.") from None
    if workers:
        return time.monotonic()
    if time.monotonic() - seen > PATIENCE:
        raise _Gone(f"{address}: no worker is left; start one with `dask worker {address}`.")
    return seen


def _check_workers(client: "Client", address: str, start: float) -> None:
    while not client.scheduler_info(n_workers=1)["workers"]:
        if time.monotonic() - start > PATIENCE:
            raise DmqError(
                f"{address}: the scheduler has no workers; start one with `dask worker {address}`."
            )
        time.sleep(POLL / 10)


@contextlib.contextmanager
def _connected(address: str) -> Iterator["Client"]:
    try:
        from distributed import Client
    except ImportError:
        raise DmqError(
            "scheduler: Dask is not installed; `pip install -r requirements-cluster.txt`."
        ) from None
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        said = str(error).partition("\n")[0]
        raise DmqError(
            f"scheduler: none answers at {address!r} ({said}); start one with `dask scheduler`."
        ) from None
    try:
        yield client
    finally:
        client.close(timeout=POLL)  # also gives up the tasks that nobody wants any more


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Dask tells every lost connection at length, in several places; here one line is enough."""
    names = ("distributed", "distributed.client", "distributed.core", "tornado")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
