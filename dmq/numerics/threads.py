"""How many threads torch uses, for the duration of a block."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor


LARGE = 2**24  # numbers in what is worked with, from which on single operations are worth several threads


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, for many small operations in a row.

    Threads that wait for each other after each of them cost far more than they save as soon as anything else, such as
    drawing pictures, keeps the processor busy. Other threads of the program keep their setting.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def few_threads(tensors: Iterable[Tensor]) -> Any:
    """`one_thread` for work on these tensors (a model's parameters), if it consists of small operations on the CPU.

    That is so unless they are large together, or on another device, where threads are not what computes.
    """
    size = 0
    for x in tensors:
        size += x.numel()
        if size >= LARGE or x.device.type not in ("cpu", "meta"):
            return nullcontext()
    return one_thread()
