"""A device that runs out of memory in the middle: one clear error, and one more try with less at
a time.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

import torch

from ..errors import DmqError
from .placement import OFFLOADS, Place, free_memory


T = TypeVar("T")


class OutOfMemory(DmqError):
    """The device of a model has too little memory for what was asked of it at a time."""

    @classmethod
    def at(cls, place: Place, model: str, rows: int) -> "OutOfMemory":
        """The error of `model` with `rows` images at a time at `place`."""
        ways = OFFLOADS[OFFLOADS.index(place.offload) + 1 :] if place.kind != "cpu" else ()
        hints = ["fewer images at a time", *(f"--offload {way}" for way in ways[:1])]
        hints += ["--dtype bfloat16"] if place.dtype == "float32" else []
        free = free_memory(place.device) / 1e9
        return cls(
            f"{model}: {place.device} ran out of memory with {rows} images at a time in "
            f"{place.dtype} ({free:.1f} GB "
            f"are free now); try {', or '.join(hints)}."
        )


def release_memory() -> None:
    """Give memory that torch keeps for later back to the devices."""
    for kind in (torch.cuda, torch.xpu, torch.mps):
        if kind.is_available():
            kind.empty_cache()


def in_parts(
    work: Callable[[Sequence[Any]], Generator[Any, None, T]], items: Sequence[Any]
) -> Generator[Any, None, list[tuple[Sequence[Any], T]]]:
    """Do `work` on all of `items` at once or, if the device has too little memory, once more in two
    halves.

    Yields what `work` yields; returns each part that was done with its result. Raises OutOfMemory
    if a half is too much as well, or a single item."""
    try:
        return [(items, (yield from work(items)))]
    except OutOfMemory:
        if len(items) < 2:
            raise
    release_memory()
    middle = (len(items) + 1) // 2
    done = []
    for part in (items[:middle], items[middle:]):
        done.append((part, (yield from work(part))))
    return done
