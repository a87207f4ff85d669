"""emoji-sd, the autoencoder: 64x64 pictures to 16x16x4 latents and back.

It is trained whole once. Then the encoder is frozen, because the U-Net learns its latents, and the decoder
goes on alone.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from training import pictures
from training.loop import Checkpoint, Schedule, train


BATCH = 8
COMPOSED = 1  # of each batch of the decoder


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
    parts = [autoencoder.encode(to_tensor(images[i : i + 64])).latent_dist.mean for i in range(0, len(images), 64)]
    return torch.cat(parts).numpy()


@torch.no_grad()
def mean_psnr(autoencoder: AutoencoderKL, images: np.ndarray) -> float:
    """Mean over pictures of the peak signal-to-noise ratio (dB) of encoding and decoding them."""
    ratios = []
    for i in range(0, len(images), 64):
        clean = to_tensor(images[i : i + 64])
        out = autoencoder.decode(autoencoder.encode(clean).latent_dist.mean).sample.clamp(-1, 1)
        ratios.append(10 * torch.log10(4 / (out - clean).pow(2).mean((1, 2, 3))))
    return torch.cat(ratios).mean().item()


def edge_error(out: Tensor, clean: Tensor) -> Tensor:
    """Mean absolute error of the differences between neighbouring pixels: keeps outlines sharp."""
    return sum((out.diff(dim=d) - clean.diff(dim=d)).abs().mean() for d in (2, 3))


def whole_loss(autoencoder: AutoencoderKL, clean: Tensor) -> tuple[Tensor, float]:
    """Pixel, edge and (slight) KL terms of a whole autoencoder, and the mean squared error to log."""
    posterior = autoencoder.encode(clean).latent_dist
    out = autoencoder.decode(posterior.sample()).sample
    square = (out - clean).pow(2).mean()
    pixel = (out - clean).abs().mean() + square + 0.5 * edge_error(out, clean)
    return pixel + 1e-4 * posterior.kl().mean() / (4 * 256), square.item()


def run(cache: Path, schedule: Schedule) -> None:
    """Train encoder and decoder together and save them, with the latents' scaling factor, in `cache/vae`."""
    torch.manual_seed(schedule.seed)
    autoencoder = new_autoencoder().to(memory_format=torch.channels_last)
    checkpoint = Checkpoint(cache / "vae.safetensors", list(autoencoder.parameters()), schedule.seed)
    images = pictures.load(cache)[0]
    clean = to_tensor(images)

    def loss_of(generator: torch.Generator) -> tuple[Tensor, float]:
        batch = clean[torch.randint(0, len(clean), (BATCH,), generator=generator)]
        shift = torch.randint(-4, 5, (2,), generator=generator).tolist()
        return whole_loss(autoencoder, batch.roll(shift, (2, 3)).contiguous(memory_format=torch.channels_last))

    train(checkpoint, schedule, loss_of)
    checkpoint.apply_average()
    autoencoder.register_to_config(scaling_factor=float(1 / encode_all(autoencoder, images).std()))
    autoencoder.save_pretrained(cache / "vae")


def load(cache: Path, start: Path | None) -> AutoencoderKL:
    """The autoencoder whose latents the U-Net learns: that of the pipeline `start`, or the one trained here."""
    return AutoencoderKL.from_pretrained(start or cache, subfolder="vae").float().eval()


def open_decoder(cache: Path, seed: int, start: Path | None) -> tuple[AutoencoderKL, Checkpoint]:
    """The autoencoder with a frozen encoder, and the checkpoint of its decoder."""
    autoencoder = load(cache, start).to(memory_format=torch.channels_last)
    weights = [*autoencoder.post_quant_conv.parameters(), *autoencoder.decoder.parameters()]
    return autoencoder, Checkpoint(cache / "decoder.safetensors", weights, seed)


def decoder_loss(autoencoder: AutoencoderKL, latents: Tensor, clean: Tensor) -> tuple[Tensor, float]:
    """The negative PSNR in units of 10 dB (the measure itself, bounded at 60 dB) plus an edge term, and the PSNR."""
    out = autoencoder.decode(latents.contiguous(memory_format=torch.channels_last)).sample
    square = (out - clean).pow(2).mean((1, 2, 3))
    negative = torch.log10(square / 4 + 1e-6).mean()
    return negative + edge_error(out, clean), -10 * negative.item()


def run_decoder(
    cache: Path, schedule: Schedule, start: Path | None, latents: tuple[Tensor, Tensor], images: tuple[np.ndarray, ...]
) -> None:
    """Train the decoder alone on the unscaled latents of pictures and compositions, half of them slightly noisy."""
    autoencoder, checkpoint = open_decoder(cache, schedule.seed, start)
    noise_scale = 0.03 / autoencoder.config.scaling_factor

    def loss_of(generator: torch.Generator) -> tuple[Tensor, float]:
        parts, clean = [], []
        for kind, count in zip((0, 1), (BATCH - COMPOSED, COMPOSED), strict=True):
            chosen = torch.randint(0, len(images[kind]), (count,), generator=generator)
            parts.append(latents[kind][chosen])
            clean.append(to_tensor(images[kind][chosen.numpy()]))
        z = torch.cat(parts)
        z[::2] += noise_scale * torch.randn(z[::2].shape, generator=generator)
        return decoder_loss(autoencoder, z, torch.cat(clean))

    train(checkpoint, schedule, loss_of)
