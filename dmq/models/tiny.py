"""Tiny random pipelines made of diffusers' own classes: 20 to 250 thousand parameters, for tests
and examples.

No mocks: what passes here has run through the same code as a model of full size.
"""

from collections.abc import Callable
from functools import partial, singledispatch
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    DiffusionPipeline,
    DiTTransformer2DModel,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast


def tiny_sd(seed: int = 0) -> StableDiffusionPipeline:
    """A text-to-image pipeline with images of 16 x 16 pixels and latents of 4 x 8 x 8; words
    are letters.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 24),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            norm_num_groups=4,
            layers_per_block=1,
            latent_channels=4,
            sample_size=16,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=64,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=12,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        )
    return calm(
        StableDiffusionPipeline(
            vae=vae,
            text_encoder=text,
            tokenizer=letters(),
            unet=unet,
            scheduler=ddim_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def tiny_ddpm(seed: int = 0) -> DDIMPipeline:
    """An unconditional pipeline with images of 8 x 8 pixels, attention included."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DModel(
            sample_size=8,
            block_out_channels=(16, 24),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
    return calm(DDIMPipeline(unet=unet, scheduler=ddim_scheduler()))


# --- denoisers of every family, without a pipeline around them ------------------------------------

_UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 24),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 2,
    "cross_attention_dim": 16,
}
_SDXL = _UNET | {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 64,
}
_SIDE = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "num_layers": 2,
    "sample_size": 8,
    "in_channels": 4,
}
_PIXART = _SIDE | {"cross_attention_dim": 24, "caption_channels": 16, "out_channels": 8}
_MMDIT = {
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
    "pooled_projection_dim": 10,
    "num_layers": 2,
}
_HUNYUAN = _SIDE | {
    "hidden_size": 24,
    "patch_size": 2,
    "num_layers": 4,
    "cross_attention_dim": 16,
    "cross_attention_dim_t5": 24,
    "pooled_projection_dim": 10,
    "text_len": 5,
    "text_len_t5": 6,
    "mlp_ratio": 2.0,
}

FAMILIES: dict[str, Callable[[], torch.nn.Module]] = {
    "UNet2D": lambda: tiny_ddpm().unet,
    "SD": lambda: tiny_sd().unet,
    "scale-shift": partial(UNet2DConditionModel, **_UNET, resnet_time_scale_shift="scale_shift"),
    "class-conditional UNet": partial(UNet2DConditionModel, **_UNET, num_class_embeds=5),
    "SDXL": partial(UNet2DConditionModel, **_SDXL),
    "DiT": partial(DiTTransformer2DModel, **_SIDE, num_embeds_ada_norm=5, norm_num_groups=4),
    "PixArt-alpha": partial(PixArtTransformer2DModel, **_PIXART, use_additional_conditions=True),
    "PixArt-sigma": partial(PixArtTransformer2DModel, **_PIXART, use_additional_conditions=False),
    "Hunyuan-DiT": partial(HunyuanDiT2DModel, **_HUNYUAN),
    "SD3": partial(
        SD3Transformer2DModel,
        **_MMDIT,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        attention_head_dim=12,
        caption_projection_dim=24,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
    ),
    "Flux": partial(
        FluxTransformer2DModel,
        **_MMDIT,
        in_channels=4,
        attention_head_dim=12,
        num_single_layers=2,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 4),
    ),
}


Draw = Callable[..., torch.Tensor]  # torch.randn with a generator of its own


def tiny_denoiser(family: str, seed: int = 0) -> torch.nn.Module:
    """A random denoiser of one of `FAMILIES`, to be called with `tiny_call`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FAMILIES[family]()
        # Diffusers starts some modulations at zero, which would hide what they are made from.
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.15) if p.ndim > 1 and not p.any() else None
    return model.eval().requires_grad_(False)


def tiny_call(denoiser: torch.nn.Module, t: float, rows: int = 2, seed: int = 0) -> dict[str, Any]:
    """Keyword arguments for a call of a tiny denoiser at timestep `t`, other noise and prompts
    for every seed.
    """
    g = torch.Generator().manual_seed(seed)
    return _call(denoiser, torch.full((rows,), t), rows, partial(torch.randn, generator=g))


@singledispatch
def _call(denoiser: torch.nn.Module, t: torch.Tensor, rows: int, randn: Draw) -> dict[str, Any]:
    raise TypeError(f"no call is written for {type(denoiser).__name__}")


@_call.register
def _(denoiser: UNet2DModel, t: torch.Tensor, rows: int, randn: Draw) -> dict[str, Any]:
    return {"sample": randn(rows, 3, 8, 8), "timestep": t}


@_call.register
def _(denoiser: UNet2DConditionModel, t: torch.Tensor, rows: int, randn: Draw) -> dict[str, Any]:
    call: dict[str, Any] = {
        "sample": randn(rows, 4, 8, 8),
        "timestep": t,
        "encoder_hidden_states": randn(rows, 5, 16),
    }
    if denoiser.config.num_class_embeds:
        call["class_labels"] = randn(rows).abs().mul(2).long().clamp(max=4)
    if denoiser.config.addition_embed_type:
        sizes = randn(rows, 6).abs().mul(500).round()
        call["added_cond_kwargs"] = {"text_embeds": randn(rows, 16), "time_ids": sizes}
    return call


@_call.register
def _(denoiser: DiTTransformer2DModel, t: torch.Tensor, rows: int, randn: Draw) -> dict[str, Any]:
    labels = randn(rows).abs().mul(2).long().clamp(max=5)
    return {"hidden_states": randn(rows, 4, 8, 8), "timestep": t, "class_labels": labels}


@_call.register
def _(
    denoiser: PixArtTransformer2DModel, t: torch.Tensor, rows: int, randn: Draw
) -> dict[str, Any]:
    sizes = {"resolution": randn(rows, 2).abs() * 500, "aspect_ratio": randn(rows, 1).abs()}
    added = (
        sizes if denoiser.use_additional_conditions else {"resolution": None, "aspect_ratio": None}
    )
    call = {
        "hidden_states": randn(rows, 4, 8, 8),
        "encoder_hidden_states": randn(rows, 5, 16),
        "timestep": t,
    }
    return call | {"added_cond_kwargs": added}


@_call.register
def _(denoiser: HunyuanDiT2DModel, t: torch.Tensor, rows: int, randn: Draw) -> dict[str, Any]:
    turn = torch.arange(16)[:, None] / torch.arange(1, 13)
    return {
        "hidden_states": randn(rows, 4, 8, 8),
        "timestep": t.float(),
        "encoder_hidden_states": randn(rows, 5, 16),
        "text_embedding_mask": torch.ones(rows, 5),
        "encoder_hidden_states_t5": randn(rows, 6, 24),
        "text_embedding_mask_t5": torch.ones(rows, 6),
        "image_meta_size": randn(rows, 6).abs() * 500,
        "style": torch.zeros(rows, dtype=torch.long),
        "image_rotary_emb": (turn.cos(), turn.sin()),
    }


@_call.register
def _(denoiser: SD3Transformer2DModel, t: torch.Tensor, rows: int, randn: Draw) -> dict[str, Any]:
    return {
        "hidden_states": randn(rows, 4, 8, 8),
        "timestep": t,
        "encoder_hidden_states": randn(rows, 5, 16),
        "pooled_projections": randn(rows, 10),
    }


@_call.register
def _(denoiser: FluxTransformer2DModel, t: torch.Tensor, rows: int, randn: Draw) -> dict[str, Any]:
    return {
        "hidden_states": randn(rows, 16, 4),
        "timestep": t / 1000,
        "encoder_hidden_states": randn(rows, 5, 16),
        "pooled_projections": randn(rows, 10),
        "guidance": randn(rows).abs(),
        "img_ids": torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0)),
        "txt_ids": torch.zeros(5, 3),
    }


# --- parts of pipelines ---------------------------------------------------------------------------


def ddim_scheduler() -> DDIMScheduler:
    """Stable Diffusion's."""
    return DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def letters() -> PreTrainedTokenizerFast:
    """A tokenizer whose words are letters."""
    words = {word: n for n, word in enumerate(["<start>", "<end>", *map(chr, range(97, 123))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<start>",
        eos_token="<end>",
        pad_token="<end>",
        unk_token="<end>",
        model_max_length=12,
    )


def calm(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """`pipe` without progress bars and gradients."""
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipe
