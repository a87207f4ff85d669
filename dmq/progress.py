"""What everything long yields, how it is handed on, and how it is run to its end.

Closing a generator keeps what is finished: `relay` closes the inner one with the outer one, so that
all of them do."""

import contextlib
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar


if TYPE_CHECKING:
    import numpy as np

Value = TypeVar("Value")
FLOAT_NAME = "float"  # what the float model is called beside recipes


@dataclass(frozen=True)
class Progress:
    """How far a stage is; `seconds_left` is None until there is something to estimate from."""

    stage: str
    done: int
    total: int
    seconds_left: float | None = None
    snapshot: Any = field(
        default=None, compare=False, repr=False
    )  # what there is to see by now, in some stages

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", about {self.seconds_left:.0f} s left"
        return f"{self.stage}: {self.done} of {self.total}{left}"


@dataclass(frozen=True)
class GeneratedImage:
    """An image that has been generated: finished, or seen on the way at `step` (a position in
    sampling order).
    """

    recipe: str  # FLOAT_NAME for the float model
    index: int  # position among the comparison's (prompt, seed) pairs, prompts outermost
    prompt: str
    seed: int
    pixels: "np.ndarray"  # uint8 [H, W, 3]
    step: int | None = None


def relay(
    work: Generator[Any, None, Value], convert: Callable[..., Any]
) -> Generator[Any, None, Value]:
    """Yield `convert` of each item that `work` yields, and return the value of `work`; a tuple is
    its arguments.

    Closing this generator, and an error in `convert`, closes `work`.

    >>> def count():
    ...     yield 1, 2
    ...     yield 2, 2
    ...     return "counted"
    >>> run_to_end(relay(count(), lambda done, total: print(f"{done}/{total}")))
    1/2
    2/2
    'counted'
    """
    return relay_each(work, lambda *item: (convert(*item),))


def relay_each(
    work: Generator[Any, None, Value], convert: Callable[..., Iterable[Any]]
) -> Generator[Any, None, Value]:
    """Like `relay`, with any number of items for each one of `work`."""
    with contextlib.closing(work):
        while True:
            try:
                item = next(work)
            except StopIteration as end:
                return end.value
            yield from convert(*item) if type(item) is tuple else convert(item)


OnProgress = Callable[[Progress], None] | None
OnImage = Callable[[GeneratedImage], None] | None


def run_to_end(
    work: Generator[Any, None, Value], progress: OnProgress = None, on_image: OnImage = None
) -> Value:
    """Run `work` to its end and return its value; `progress` and `on_image` get what it yields of
    their kind.

    If one of them raises, or at Ctrl-C, `work` is closed and can be resumed by the same call.
    """
    with contextlib.closing(work):
        while True:
            try:
                item = next(work)
            except StopIteration as end:
                return end.value
            if progress is not None and isinstance(item, Progress):
                progress(item)
            if on_image is not None and isinstance(item, GeneratedImage):
                on_image(item)


def progress_timer(stage: str, already: int = 0) -> Callable[[int, int], Progress]:
    """A function (done, total) -> Progress whose estimate extends the speed so far; `already`
    was done before.
    """
    start = time.monotonic()

    def at(done: int, total: int) -> Progress:
        spent, new = time.monotonic() - start, done - already
        return Progress(stage, done, total, spent / new * (total - done) if new else None)

    return at
