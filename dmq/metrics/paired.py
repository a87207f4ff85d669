"""Paired measures: how far each quantized image is from the float one of the same prompt, seed
and sampler.
"""

from collections.abc import Sequence

import numpy as np

from . import pixel


def pixels(ours: Sequence[np.ndarray], floats: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """PSNR in dB (inf where equal) and SSIM of every pair of images uint8 [H, W, 3], each [N]
    float64.

    Raises ValueError unless there are as many of both.
    """
    pairs = list(zip(ours, floats, strict=True))
    return {
        "psnr": np.array([pixel.psnr(a, b) for a, b in pairs], np.float64),
        "ssim": np.array([pixel.ssim(a, b) for a, b in pairs], np.float64),
    }


def relative_error(ours: np.ndarray, floats: np.ndarray) -> np.ndarray:
    """||ours - floats||^2 / ||floats||^2 of every row, [N] float64, for arrays [N, ...]: of
    finished samples.

    >>> relative_error(np.array([[3.0, 4.0], [0.0, 2.0]]), np.array([[3.0, 4.0], [0.0, 1.0]])).tolist()
    [0.0, 1.0]
    """
    a, b = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (ours, floats))
    return ((a - b) ** 2).sum(1) / (b**2).sum(1)


def feature_distance(ours: np.ndarray, floats: np.ndarray) -> np.ndarray:
    """||ours - floats|| / ||floats|| of every row [N] float64, for features [N, D]: what a
    network sees differ.
    """
    return np.sqrt(relative_error(ours, floats))
