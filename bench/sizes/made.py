"""Pipelines of real size with random weights, made of diffusers' and transformers' own classes.

Modules are laid out on the meta device and get their numbers tensor by tensor, in half precision:
nothing is held twice. Layers keep the size of what goes through them, so that samples stay finite
however deep a model is."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
)

from dmq.models.published import build_published
from dmq.models.tiny import calm, ddim_scheduler, letters, tiny_sd


# random numbers that are repeated; a prime, so that no two rows of a weight are alike
BLOCK = 1_000_003
SHARD = "1GB"
TOKENS = 77
WORDS = {
    "vocab_size": 49408,
    "max_position_embeddings": TOKENS,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}


def sd15() -> DiffusionPipeline:
    """Stable Diffusion 1.5: a U-Net of 0.86 billion weights, images of 512 x 512."""
    return StableDiffusionPipeline(
        vae=filled(partial(_vae, 512, 0.18215)),
        text_encoder=filled(partial(CLIPTextModel, _text(768, 12))),
        tokenizer=_tokenizer(),
        unet=filled(partial(build_published, "sd-1.5")),
        scheduler=ddim_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> DiffusionPipeline:
    """Stable Diffusion XL: a U-Net of 2.6 billion weights, images of 1024 x 1024."""
    wide = _text(1280, 32, projection_dim=1280)
    return StableDiffusionXLPipeline(
        vae=filled(partial(_vae, 1024, 0.13025)),
        text_encoder=filled(partial(CLIPTextModel, _text(768, 12))),
        text_encoder_2=filled(partial(CLIPTextModelWithProjection, wide)),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        unet=filled(partial(build_published, "sdxl")),
        scheduler=ddim_scheduler(),
    )


def tiny() -> DiffusionPipeline:
    """As small as it gets, to see that everything runs."""
    pipe = tiny_sd()
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.half()
    return pipe


SIZES: dict[str, tuple[Callable[[], DiffusionPipeline], int]] = {  # with the side of its images
    "tiny": (tiny, 16),
    "sd15": (sd15, 512),
    "sdxl": (sdxl, 1024),
}


def write(size: str, folder: Path) -> dict[str, int]:
    """Save the pipeline of that size in `folder`, in half precision and shards; its numbers by
    part.
    """
    pipe = calm(SIZES[size][0]())
    pipe.save_pretrained(folder, safe_serialization=True, max_shard_size=SHARD)
    parts = ((name, part) for name, part in pipe.components.items() if isinstance(part, nn.Module))
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts}


def filled(build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` makes, in float16 and with random weights: rows of length about 1, norms of
    1, biases of 0.
    """
    with torch.device("meta"):
        model = build()
    model = model.half().to_empty(device="cpu")
    block = torch.randn(BLOCK, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1:
                some = block * p[0].numel() ** -0.5
                for part in p.view(-1).split(BLOCK):
                    part.copy_(some[: len(part)])
            else:
                p.fill_(1.0 if name.endswith("weight") else 0.0)
    return model


def _vae(side: int, scale: float) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=side,
        scaling_factor=scale,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )


def _text(width: int, layers: int, **more: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        **WORDS,
        **more,
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    made = letters()
    made.model_max_length = TOKENS
    return made
