"""Joins the trained parts into pipelines that `DiffusionPipeline.from_pretrained` loads: fp16,
files under 10 MB.
"""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DiffusionPipeline,
    PixArtAlphaPipeline,
    StableDiffusionPipeline,
)

from training import emoji_ddpm, emoji_dit, emoji_sd, vae


def save_half(pipe: DiffusionPipeline, folder: Path) -> None:
    """Write a pipeline in fp16, with the ordinary memory layout and files that everyone may
    read.
    """
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.to(torch.float16, memory_format=torch.contiguous_format)
    pipe.save_pretrained(folder, max_shard_size="9MB")
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)


def pack_emoji_sd(cache: Path, folder: Path) -> None:
    """Write emoji-sd from the averaged weights of its checkpoints."""
    lessons = emoji_sd.Lessons(cache)
    encoder, unet, checkpoint = emoji_sd.open_run(cache, 0, lessons, None)
    checkpoint.apply_average()
    pipe = StableDiffusionPipeline(
        vae=vae.load(cache),
        text_encoder=encoder,
        tokenizer=lessons.tokenizer,
        unet=unet,
        scheduler=emoji_sd.new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    save_half(pipe, folder)


def pack_emoji_ddpm(cache: Path, folder: Path) -> None:
    """Write emoji-ddpm from the averaged weights of its checkpoint."""
    unet, checkpoint = emoji_ddpm.open_run(cache, 0)
    checkpoint.apply_average()
    save_half(DDIMPipeline(unet=unet, scheduler=emoji_ddpm.new_scheduler()), folder)


def pack_emoji_dit(cache: Path, models: Path) -> None:
    """Write emoji-dit from the averaged weights of its checkpoint and emoji-sd's autoencoder."""
    lessons = emoji_sd.Lessons(cache)
    encoder, transformer, checkpoint = emoji_dit.open_run(cache, models, 0, lessons)
    checkpoint.apply_average()
    pipe = PixArtAlphaPipeline(
        vae=AutoencoderKL.from_pretrained(models / "emoji-sd", subfolder="vae"),
        text_encoder=encoder,
        tokenizer=lessons.tokenizer,
        transformer=transformer,
        scheduler=emoji_dit.new_scheduler(),
    )
    save_half(pipe, models / "emoji-dit")
