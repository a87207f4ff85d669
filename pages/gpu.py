"""ZeroGPU: handlers that run a model borrow a GPU for as long as they say they need; elsewhere they just run.

There a handler works in another process, made from this one, that sees the GPU. What it says comes back, and what it
keeps in the run folder stays; what it remembers otherwise (loaded models, prepared plans) may be gone the next time.
"""

import math
from collections.abc import Callable
from typing import Any

from dmq.errors import DmqError


try:
    import spaces  # before anything that touches CUDA: it takes the place of some of torch
except ImportError:
    spaces = None

# Seconds that are asked for. A visitor has about two minutes a day: shorter is served earlier, and what is longer than
# is left is refused. What a handler could not finish in the time goes on from what it kept.
LEAST, MOST = 20, 120


def on_gpu(handler: Callable, seconds: Callable[..., float] | None = None) -> Callable:
    """`handler`, on a Space with ZeroGPU in a process with a GPU, for as long as `seconds(*its arguments)` says.

    Both are functions of the same arguments. Without `seconds`, or where they cannot be told, it is the least.
    """
    if spaces is None:
        return handler

    def duration(*args: Any, **kwargs: Any) -> int:
        try:
            wanted = seconds(*args, **kwargs) if seconds is not None else LEAST
        except DmqError:  # which the handler says better
            wanted = LEAST
        return math.ceil(min(max(wanted, LEAST), MOST))

    return spaces.GPU(handler, duration=duration)
