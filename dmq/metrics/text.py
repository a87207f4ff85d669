"""How well images fit their prompts."""

import numpy as np


def clip_score(match: np.ndarray) -> np.ndarray:
    """CLIP scores [N] float64 of matches [N] (100 times the cosine of image and prompt): 0 where
    negative.

    Hessel et al., arXiv:2104.08718, eq. (1) with 100 in place of 2.5, as QDiffBench averages them
    over images.

    >>> clip_score(np.array([31.0, -2.0])).tolist()
    [31.0, 0.0]
    """
    return np.maximum(np.asarray(match, np.float64), 0.0)
