"""Paired measures of images, uint8 [H, W, 3]: how far the quantized one is from the float one
of the same noise.
"""

import numpy as np
import torch

from ..numerics.threads import one_thread


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB; inf for equal images. Raises ValueError if the shapes
    differ.

    >>> round(psnr(np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)), 3)
    0.0
    """
    if a.shape != b.shape:
        raise ValueError(f"images differ in shape: {a.shape} and {b.shape}")
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity, 1 for equal images (Wang et al. 2004: Gaussian window 11 wide,
    sigma 1.5).
    """
    # Imported here: it takes a second, and the app opens without it.
    from torchmetrics.functional.image import structural_similarity_index_measure

    x, y = (torch.from_numpy(np.array(x)).permute(2, 0, 1)[None].float() / 255 for x in (a, b))
    with one_thread():
        similarity = structural_similarity_index_measure(x, y, data_range=1.0)
    assert isinstance(similarity, torch.Tensor)  # neither the map nor the contrast is asked for
    return float(similarity)
