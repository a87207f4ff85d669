"""Tiny random pipelines of the families that `tiny` has denoisers of, with text encoders and
autoencoders.

Images are 16 x 16 pixels where a pipeline leaves that open: generate with `Sampling(size=16)`.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from .tiny import calm, ddim_scheduler, letters


WIDTH = 16  # of all text encoders


def tiny_pipeline(family: str, seed: int = 0) -> DiffusionPipeline:
    """A random pipeline of one of `PIPELINES`; its words are letters, its classes numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = PIPELINES[family]()
        denoiser = pipe.components.get("transformer") or pipe.components["unet"]
        # Diffusers starts some modulations at zero, which would hide what they are made from.
        for p in denoiser.parameters():
            torch.nn.init.normal_(p, std=0.15) if p.ndim > 1 and not p.any() else None
    return calm(pipe)


def _vae(levels: int = 2, **settings: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8,) * levels,
        norm_num_groups=4,
        layers_per_block=1,
        latent_channels=4,
        sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        **settings,
    )


def _clip(kind: type = CLIPTextModel) -> CLIPTextModel | CLIPTextModelWithProjection:
    return kind(
        CLIPTextConfig(
            vocab_size=64,
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
            projection_dim=WIDTH,
        )
    )


def _t5(width: int = WIDTH) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=64, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )


def _sdxl() -> StableDiffusionXLPipeline:
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 24),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        attention_head_dim=2,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=2 * WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=WIDTH + 6 * 8,
    )
    return StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=_clip(),
        tokenizer=letters(),
        text_encoder_2=_clip(CLIPTextModelWithProjection),
        tokenizer_2=letters(),
        unet=unet,
        scheduler=ddim_scheduler(),
        add_watermarker=False,
    )


def _dit() -> DiTPipeline:
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        sample_size=8,
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=1000,
        norm_num_groups=4,
    )
    labels = {0: "tench, fish", 1: "goldfish", 2: "shark"}
    pipe = DiTPipeline(
        transformer=transformer, vae=_vae(), scheduler=ddim_scheduler(), id2label=labels
    )
    pipe.register_to_config(id2label=labels)  # as the index of published pipelines has it
    return pipe


def _pixart(kind: type, sized: bool) -> PixArtAlphaPipeline | PixArtSigmaPipeline:
    side = 128 if sized else 32  # sizes enter at 128 only, and there must be a standard size
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        sample_size=side,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=24,
        caption_channels=WIDTH,
        use_additional_conditions=sized,
    )
    parts = {
        "vae": _vae(4),
        "tokenizer": letters(),
        "text_encoder": _t5(),
        "scheduler": ddim_scheduler(),
    }
    return kind(transformer=transformer, **parts)


def _hunyuan() -> HunyuanDiTPipeline:
    transformer = HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        sample_size=8,
        in_channels=4,
        hidden_size=24,
        patch_size=2,
        num_layers=4,
        cross_attention_dim=WIDTH,
        cross_attention_dim_t5=24,
        pooled_projection_dim=10,
        mlp_ratio=2.0,
    )
    bert = BertModel(
        BertConfig(
            vocab_size=64,
            hidden_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=80,
        )
    )
    return HunyuanDiTPipeline(
        vae=_vae(4),
        text_encoder=bert,
        tokenizer=letters(),
        text_encoder_2=_t5(24),
        tokenizer_2=letters(),
        transformer=transformer,
        scheduler=ddim_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sd3() -> StableDiffusion3Pipeline:
    transformer = SD3Transformer2DModel(
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=2 * WIDTH,
        num_layers=2,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        attention_head_dim=12,
        caption_projection_dim=24,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(shift_factor=0.1),
        text_encoder=_clip(CLIPTextModelWithProjection),
        tokenizer=letters(),
        text_encoder_2=_clip(CLIPTextModelWithProjection),
        tokenizer_2=letters(),
        text_encoder_3=_t5(2 * WIDTH),
        tokenizer_3=letters(),
    )


def _flux() -> FluxPipeline:
    transformer = FluxTransformer2DModel(
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        num_layers=2,
        in_channels=16,
        attention_head_dim=12,
        num_single_layers=2,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 4),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(4, shift_factor=0.1),
        text_encoder=_clip(),
        tokenizer=letters(),
        text_encoder_2=_t5(),
        tokenizer_2=letters(),
        transformer=transformer,
    )


PIPELINES: dict[str, Callable[[], DiffusionPipeline]] = {
    "SDXL": _sdxl,
    "DiT": _dit,
    "PixArt-alpha": lambda: _pixart(PixArtAlphaPipeline, True),
    "PixArt-sigma": lambda: _pixart(PixArtSigmaPipeline, False),
    "Hunyuan-DiT": _hunyuan,
    "SD3": _sd3,
    "Flux": _flux,
}
