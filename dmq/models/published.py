"""Denoisers of well-known models with their true sizes and without values, on torch's meta device.

Byte counts and graphs need names and shapes only: these models take no memory and nothing is
downloaded. The numbers are those of the configurations that the models were published with; what
only decides how they compute is left out."""

from collections.abc import Callable
from functools import partial

import torch
from diffusers import (
    DiTTransformer2DModel,
    HunyuanDiT2DModel,
    PixArtTransformer2DModel,
    UNet2DConditionModel,
)
from torch import nn

from ..errors import DmqError


_XL = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "num_layers": 28,
    "in_channels": 4,
    "out_channels": 8,
    "sample_size": 64,
    "patch_size": 2,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "norm_elementwise_affine": False,
}
_HUNYUAN = {
    "num_attention_heads": 16,
    "attention_head_dim": 88,
    "num_layers": 40,
    "in_channels": 4,
    "hidden_size": 1408,
    "sample_size": 128,
    "patch_size": 2,
    "mlp_ratio": 4.3637,
    "activation_fn": "gelu-approximate",
    "cross_attention_dim": 1024,
    "cross_attention_dim_t5": 2048,
    "pooled_projection_dim": 1024,
    "text_len": 77,
    "text_len_t5": 256,
}


def _dit() -> nn.Module:
    """DiT-XL/2 with one embedding of time for all blocks: the checkpoint holds 28 copies that
    are equal.
    """
    model = DiTTransformer2DModel(**_XL)
    first = model.transformer_blocks[0].norm1.emb.timestep_embedder
    for block in model.transformer_blocks:
        block.norm1.emb.timestep_embedder = first
    return model


PUBLISHED: dict[str, Callable[[], nn.Module]] = {
    "pixart-xl-2-512": partial(
        PixArtTransformer2DModel,
        **_XL,
        norm_type="ada_norm_single",
        cross_attention_dim=1152,
        caption_channels=4096,
        use_additional_conditions=False,
    ),
    "dit-xl-2-512": _dit,
    "hunyuan-dit-1.1": partial(
        HunyuanDiT2DModel, **_HUNYUAN, use_style_cond_and_image_meta_size=True
    ),
    "hunyuan-dit-1.2": partial(
        HunyuanDiT2DModel, **_HUNYUAN, use_style_cond_and_image_meta_size=False
    ),
    "sdxl": partial(
        UNet2DConditionModel,
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=2048,
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    ),
    "sd-1.5": partial(UNet2DConditionModel, sample_size=64, cross_attention_dim=768),
}


def build_published(name: str) -> nn.Module:
    """The denoiser that is published as `name`, one of `PUBLISHED`, with shapes and no values (meta
    tensors).

    Raises DmqError for another name.
    """
    if name not in PUBLISHED:
        raise DmqError(
            f"{name!r:.80} is no published model that is known here: {', '.join(PUBLISHED)}."
        )
    with torch.device("meta"):
        return PUBLISHED[name]().eval().requires_grad_(False)
