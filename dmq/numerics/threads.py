"""How many threads torch uses, for the duration of a block."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor


LARGE = (
    2**24
)  # numbers in what is worked with, from which on single operations are worth several threads


_here = threading.local()  # `depth`: how many blocks this thread is inside of
_whole = torch.get_num_threads()  # threads of the process, when nobody asks for one


def process_threads() -> int:
    """How many threads torch uses outside of all these blocks: as many as the main thread was
    told last.
    """
    global _whole
    if threading.current_thread() is threading.main_thread() and not getattr(_here, "depth", 0):
        _whole = torch.get_num_threads()
    return _whole


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, for many small operations in a row.

    Threads that wait for each other after each of them cost far more than they save as soon as
    anything else, such as generating images, keeps the processor busy. Other threads of the program
    keep their setting."""
    # Not what this thread was told before: one that begins while another is in here is told "one",
    # and for good.
    threads = process_threads()
    _here.depth = getattr(_here, "depth", 0) + 1
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _here.depth -= 1
        if not _here.depth:
            torch.set_num_threads(threads)


def is_small(tensors: Iterable[Tensor]) -> bool:
    """Does work on these tensors (a model's parameters) consist of small operations on the CPU?

    It does unless they are large together, or on another device, where threads are not what
    computes."""
    size = 0
    for x in tensors:
        size += x.numel()
        if size >= LARGE or x.device.type not in ("cpu", "meta"):
            return False
    return True


def few_threads(tensors: Iterable[Tensor]) -> Any:
    """`one_thread` for work on these tensors if it `is_small`."""
    return one_thread() if is_small(tensors) else nullcontext()
