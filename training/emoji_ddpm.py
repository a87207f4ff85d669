"""emoji-ddpm: an unconditional pixel-space model of 32x32 emoji, the setting of the CIFAR-10 diffusion experiments."""

from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor

from training import pictures
from training.loop import Checkpoint, Schedule, train


SIZE = 32
BATCH = 32


def new_unet() -> UNet2DModel:
    """4.3 million weights, attention at 8x8 (and in the middle block)."""
    return UNet2DModel(
        sample_size=SIZE,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(32, 64, 128, 128),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
        norm_num_groups=16,
    )


def new_scheduler() -> DDIMScheduler:
    """Linear betas and 1,000 steps, as in DDPM (arXiv:2006.11239), sampled by DDIM."""
    return DDIMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, clip_sample=True)


def noise_loss(unet: UNet2DModel, clean: Tensor, abar: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
    """The min-SNR weighted loss (gamma 5, arXiv:2303.09556) and the plain noise error of one batch."""
    t = torch.randint(0, len(abar), (len(clean),), generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    a = abar[t][:, None, None, None]
    noisy = (a.sqrt() * clean + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
    error = (unet(noisy, t).sample - noise).pow(2).mean((1, 2, 3))
    snr = abar[t] / (1 - abar[t])
    return (snr.clamp(max=5) / snr * error).mean(), error.mean().item()


def open_run(cache: Path, seed: int) -> tuple[UNet2DModel, Checkpoint]:
    """The network and its checkpoint, new or as left by an earlier run."""
    torch.manual_seed(seed)
    unet = new_unet().to(memory_format=torch.channels_last)
    return unet, Checkpoint(cache / "emoji-ddpm.safetensors", list(unet.parameters()), seed)


def run(cache: Path, schedule: Schedule) -> None:
    """Train the U-Net up to `schedule.steps`, from the checkpoint in `cache` if there is one."""
    unet, checkpoint = open_run(cache, schedule.seed)
    small = pictures.shrink(pictures.load(cache)[0], SIZE)
    clean = torch.from_numpy(small).permute(0, 3, 1, 2).float() / 127.5 - 1
    abar = new_scheduler().alphas_cumprod

    def loss_of(generator: torch.Generator) -> tuple[Tensor, float]:
        return noise_loss(unet, clean[torch.randint(0, len(clean), (BATCH,), generator=generator)], abar, generator)

    train(checkpoint, schedule, loss_of)
