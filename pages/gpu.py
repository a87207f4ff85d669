"""ZeroGPU: handlers that run a model borrow a GPU for as long as they say they need; elsewhere they
just run.

There a handler works in another process, made from this one, that sees the GPU. What it says comes
back, and what it keeps in the run folder stays; what it remembers otherwise (loaded models,
prepared plans) may be gone the next time."""

import functools
import inspect
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

from dmq.errors import DmqError


try:
    import spaces  # before anything that touches CUDA: it takes the place of some of torch
except ImportError:
    spaces = None

# Seconds asked for, and where nobody can tell. A visitor has about two minutes a day: what is
# shorter is served earlier, what is longer than is left is refused. What was not finished in the
# time goes on from what was kept.
MIN_SECONDS, MAX_SECONDS, UNKNOWN_SECONDS = 20, 120, 60


def on_gpu(handler: Callable, seconds: Callable[..., float] | None = None) -> Callable:
    """`handler`, on a Space with ZeroGPU in a process with a GPU, for as long as `seconds(*its
    arguments)` says.

    Both are functions of the same arguments.
    """
    if spaces is None:
        return handler

    def duration(*args: Any, **kwargs: Any) -> int:
        try:
            estimate = seconds(*args, **kwargs) if seconds is not None else UNKNOWN_SECONDS
        except DmqError:  # which the handler says better
            estimate = MIN_SECONDS
        return math.ceil(min(max(estimate, MIN_SECONDS), MAX_SECONDS))

    return spaces.GPU(_on_its_device(handler), duration=duration)


def has_zero_gpu() -> bool:
    """Does this process lend GPUs to its handlers?"""
    return spaces is not None and os.environ.get("SPACES_ZERO_GPU", "").lower() in (
        "1",
        "t",
        "true",
    )


def _on_its_device(handler: Callable) -> Callable:
    """`handler` for the process that has the GPU: what it loads, it loads there."""
    server = os.getpid()

    def placed() -> None:
        if has_zero_gpu() and os.getpid() != server:
            os.environ["DMQ_DEVICE"] = "cuda"  # of that process alone

    @functools.wraps(handler)
    def function(*args: Any, **kwargs: Any) -> Any:
        placed()
        return handler(*args, **kwargs)

    @functools.wraps(handler)
    def generator(*args: Any, **kwargs: Any) -> Iterator[Any]:
        placed()
        work = handler(*args, **kwargs)
        try:
            yield from work
        finally:
            work.close()

    return generator if inspect.isgeneratorfunction(handler) else function
