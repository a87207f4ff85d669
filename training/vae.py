"""emoji-sd, the autoencoder: 64x64 images to 16x16x4 latents and back."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from training.loop import Checkpoint, Schedule, train


BATCH = 8
COMPOSED = 1  # of each batch


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


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 (n, size, size, 3) to float (n, 3, size, size) in -1 to 1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def encode_all(autoencoder: AutoencoderKL, images: np.ndarray) -> np.ndarray:
    """Unscaled latent means (n, 4, 16, 16)."""
    parts = [
        autoencoder.encode(to_tensor(images[i : i + 64])).latent_dist.mean
        for i in range(0, len(images), 64)
    ]
    return torch.cat(parts).numpy()


@torch.no_grad()
def mean_psnr(autoencoder: AutoencoderKL, images: np.ndarray) -> float:
    """Mean over images of the peak signal-to-noise ratio (dB) of encoding and decoding them."""
    ratios = []
    for i in range(0, len(images), 64):
        clean = to_tensor(images[i : i + 64])
        out = autoencoder.decode(autoencoder.encode(clean).latent_dist.mean).sample.clamp(-1, 1)
        ratios.append(10 * torch.log10(4 / (out - clean).pow(2).mean((1, 2, 3))))
    return torch.cat(ratios).mean().item()


def edge_error(out: Tensor, clean: Tensor) -> Tensor:
    """Mean absolute error of the differences between neighbouring pixels: keeps outlines sharp."""
    return sum((out.diff(dim=d) - clean.diff(dim=d)).abs().mean() for d in (2, 3))


def reconstruction_loss(autoencoder: AutoencoderKL, clean: Tensor) -> tuple[Tensor, float]:
    """Negative PSNR in units of 10 dB (the measure, bounded at 60 dB), edges, slight KL; and the
    PSNR to log.
    """
    posterior = autoencoder.encode(clean).latent_dist
    out = autoencoder.decode(posterior.sample()).sample
    square = (out - clean).pow(2).mean((1, 2, 3))
    negative = torch.log10(square / 4 + 1e-6).mean()
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    return negative + edge_error(out, clean) + 1e-4 * kl, -10 * negative.item()


def open_run(cache: Path, seed: int, start: Path | None) -> tuple[AutoencoderKL, Checkpoint]:
    """The autoencoder and its checkpoint; a new run may start from the weights of a saved
    pipeline.
    """
    torch.manual_seed(seed)
    autoencoder = (
        AutoencoderKL.from_pretrained(start, subfolder="vae").float()
        if start
        else new_autoencoder()
    )
    autoencoder = autoencoder.to(memory_format=torch.channels_last)
    return autoencoder, Checkpoint(cache / "vae.safetensors", list(autoencoder.parameters()), seed)


def run(
    cache: Path, schedule: Schedule, images: tuple[np.ndarray, np.ndarray], start: Path | None
) -> None:
    """Train on images and compositions and save, with the latents' scaling factor, in
    `cache/vae`.
    """
    autoencoder, checkpoint = open_run(cache, schedule.seed, start)

    def loss_of(generator: torch.Generator) -> tuple[Tensor, float]:
        parts = []
        for kind, count in zip(images, (BATCH - COMPOSED, COMPOSED), strict=True):
            chosen = torch.randint(0, len(kind), (count,), generator=generator)
            parts.append(to_tensor(kind[chosen.numpy()]))
        return reconstruction_loss(
            autoencoder, torch.cat(parts).contiguous(memory_format=torch.channels_last)
        )

    train(checkpoint, schedule, loss_of)
    checkpoint.apply_average()
    autoencoder.register_to_config(
        scaling_factor=float(1 / encode_all(autoencoder, images[0]).std())
    )
    autoencoder.save_pretrained(cache / "vae")


def load(cache: Path) -> AutoencoderKL:
    """The autoencoder that `run` saved; its latents are what the U-Net learns."""
    return AutoencoderKL.from_pretrained(cache, subfolder="vae").float().eval()
