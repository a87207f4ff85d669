"""What every long stage yields, and how its generator is run to the end."""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np


FLOAT_NAME = "float"
Value = TypeVar("Value")


@dataclass(frozen=True)
class Progress:
    """How far a stage is; `seconds_left` is None until there is something to estimate from."""

    stage: str
    done: int
    total: int
    seconds_left: float | None = None
    snapshot: Any = field(default=None, compare=False, repr=False)  # what there is to see by now, in some stages

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", about {self.seconds_left:.0f} s left"
        return f"{self.stage}: {self.done} of {self.total}{left}"


@dataclass(frozen=True)
class Picture:
    """A picture that has been drawn: finished, or seen on the way at `step` (a position in sampling order)."""

    recipe: str  # FLOAT_NAME for the float model
    index: int  # position among the comparison's (prompt, seed) pairs, prompts outermost
    prompt: str
    seed: int
    pixels: np.ndarray  # uint8 [H, W, 3]
    step: int | None = None


def finish(work: Generator[Any, None, Value]) -> Value:
    """Run a generator of this file to its end and return its value."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def clocked(stage: str, already: int = 0) -> Callable[[int, int], Progress]:
    """A function (done, total) -> Progress whose estimate extends the speed so far; `already` was done before."""
    start = time.monotonic()

    def at(done: int, total: int) -> Progress:
        spent, new = time.monotonic() - start, done - already
        return Progress(stage, done, total, spent / new * (total - done) if new else None)

    return at
