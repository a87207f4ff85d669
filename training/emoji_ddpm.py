"""emoji-ddpm: an unconditional pixel-space model of 32x32 emoji, the setting of the CIFAR-10 diffusion experiments."""

from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor

from training import pictures
from training.compositions import is_plain_subject
from training.loop import Checkpoint, Schedule, train
from training.noise import noise_loss


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


def open_run(cache: Path, seed: int) -> tuple[UNet2DModel, Checkpoint]:
    """The network and its checkpoint, new or as left by an earlier run."""
    torch.manual_seed(seed)
    unet = new_unet().to(memory_format=torch.channels_last)
    return unet, Checkpoint(cache / "emoji-ddpm.safetensors", list(unet.parameters()), seed)


def plain_pictures(cache: Path) -> np.ndarray:
    """The 903 things, animals, plants, dishes and faces at 32x32; flags, people, signs and clocks are left out.

    Half of the pictures means twice as many showings of each in the same time, and those left out differ in details
    that 32x32 pixels hardly show.
    """
    all_pictures, names, texts = pictures.load(cache)
    fit = [i for i, name in enumerate(names) if is_plain_subject(name, texts[i])]
    return pictures.shrink(all_pictures[fit], SIZE)


def run(cache: Path, schedule: Schedule) -> None:
    """Train the U-Net up to `schedule.steps`, from the checkpoint in `cache` if there is one."""
    unet, checkpoint = open_run(cache, schedule.seed)
    clean = torch.from_numpy(plain_pictures(cache)).permute(0, 3, 1, 2).float() / 127.5 - 1
    abar = new_scheduler().alphas_cumprod

    def loss_of(generator: torch.Generator) -> tuple[Tensor, float]:
        batch = clean[torch.randperm(len(clean), generator=generator)[:BATCH]]
        return noise_loss(lambda noisy, t: unet(noisy, t).sample, batch, abar, generator)

    train(checkpoint, schedule, loss_of)
