"""Memory that a run frees is kept for its next step instead of being given back to the system."""

import ctypes
import sys
from functools import cache


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of glibc's mallopt
_LARGEST = (
    32 * 2**20
)  # what glibc accepts at most as a threshold; larger buffers come from the system each time
_KEPT = 2**30


@cache
def keep_freed_memory() -> None:
    """Let the C library keep up to 1 GiB of freed buffers; does nothing where that library is not
    glibc.

    Each step allocates and frees the same activations. Given back, every page of them is cleared by
    the system and faulted in again: a capture spent a third of its time on that."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, value in (
            (_MMAP_THRESHOLD, _LARGEST),
            (_TRIM_THRESHOLD, _KEPT),
            (_TOP_PAD, 2 * _LARGEST),
        ):
            mallopt(option, value)
