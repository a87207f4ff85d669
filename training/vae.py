"""emoji-sd, the autoencoder: 64x64 pictures to 16x16x4 latents and back."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor


def new_autoencoder() -> AutoencoderKL:
    """1.6 million weights, one layer a block, no attention: it has to be cheap on a CPU."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        sample_size=64,
        block_out_channels=(32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=16,
        mid_block_add_attention=False,
    )


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 (n, size, size, 3) to float (n, 3, size, size) in -1 to 1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def encode_all(autoencoder: AutoencoderKL, pictures: np.ndarray) -> np.ndarray:
    """Unscaled latent means (n, 4, 16, 16)."""
    parts = [autoencoder.encode(to_tensor(pictures[i : i + 64])).latent_dist.mean for i in range(0, len(pictures), 64)]
    return torch.cat(parts).numpy()


def load_encoder(cache: Path, start: Path | None) -> AutoencoderKL:
    """The autoencoder whose latents the U-Net learns: that of the pipeline `start`, or the one trained here."""
    return AutoencoderKL.from_pretrained(start or cache, subfolder="vae").float().eval()
