"""A generator of `dmq.stages` as a plain call."""

from collections.abc import Callable, Generator
from typing import Any, TypeVar

from ..progress import GeneratedImage, Progress


Value = TypeVar("Value")
OnProgress = Callable[[Progress], None] | None
OnImage = Callable[[GeneratedImage], None] | None


def run_to_end(
    work: Generator[Any, None, Value], progress: OnProgress = None, on_image: OnImage = None
) -> Value:
    """Run `work` to its end and return its value; `progress` and `on_image` get what it yields of
    their kind.

    If one of them raises, or at Ctrl-C, `work` is closed and can be resumed by the same call.
    """
    try:
        while True:
            item = next(work)
            if progress is not None and isinstance(item, Progress):
                progress(item)
            if on_image is not None and isinstance(item, GeneratedImage):
                on_image(item)
    except StopIteration as end:
        return end.value
    finally:
        work.close()
