"""How many threads torch uses, for the duration of a block."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
