"""What the generating of images yields beside its progress (`dmq.progress`)."""

from dataclasses import dataclass

import numpy as np


FLOAT_NAME = "float"


@dataclass(frozen=True)
class GeneratedImage:
    """An image that has been generated: finished, or seen on the way at `step` (a position in
    sampling order).
    """

    recipe: str  # FLOAT_NAME for the float model
    index: int  # position among the comparison's (prompt, seed) pairs, prompts outermost
    prompt: str
    seed: int
    pixels: np.ndarray  # uint8 [H, W, 3]
    step: int | None = None
