"""emoji-ddpm: an unconditional pixel-space model of 32x32 emoji, the setting of the CIFAR-10
diffusion experiments.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor

from training import labels, pictures
from training.loop import Checkpoint, Schedule, train
from training.noise import diffusion_loss


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
    """Linear betas and 1,000 steps, as in DDPM (arXiv:2006.11239), sampled by DDIM; the U-Net
    predicts velocities.

    Where nearly all is noise, a small error of a predicted noise is a wrong image, while a
    velocity there is the image itself: a short training gets clean backgrounds from it."""
    return DDIMScheduler(
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        clip_sample=True,
        prediction_type="v_prediction",
    )


def open_run(cache: Path, seed: int) -> tuple[UNet2DModel, Checkpoint]:
    """The network and its checkpoint, new or as left by an earlier run."""
    torch.manual_seed(seed)
    unet = new_unet().to(memory_format=torch.channels_last)
    return unet, Checkpoint(cache / "emoji-ddpm.safetensors", list(unet.parameters()), seed)


def is_lesson(group: str, subgroup: str) -> bool:
    """Whether emoji-ddpm learns a group: faces, animals, plants, food and drink."""
    return "face" in subgroup or group in ("Animals & Nature", "Food & Drink")


def lessons(cache: Path) -> np.ndarray:
    """Faces, animals, plants, food and drink at 32x32, (n, 32, 32, 3) uint8.

    A few hundred images instead of 1,922: each is seen more often in the same time.
    """
    chosen = set().union(*(found for key, found in labels.read().items() if is_lesson(*key)))
    all_pictures, _, texts = pictures.load(cache)
    fit = [i for i, text in enumerate(texts) if text.replace("\ufe0f", "") in chosen]
    return pictures.shrink(all_pictures[fit], SIZE)


def run(cache: Path, schedule: Schedule) -> None:
    """Train the U-Net up to `schedule.steps`, from the checkpoint in `cache` if there is one."""
    unet, checkpoint = open_run(cache, schedule.seed)
    clean = torch.from_numpy(lessons(cache)).permute(0, 3, 1, 2).float() / 127.5 - 1
    abar = new_scheduler().alphas_cumprod

    def loss_of(generator: torch.Generator) -> tuple[Tensor, float]:
        batch = clean[torch.randperm(len(clean), generator=generator)[:BATCH]]
        return diffusion_loss(lambda noisy, t: unet(noisy, t).sample, batch, abar, generator, True)

    train(checkpoint, schedule, loss_of)
