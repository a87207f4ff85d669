"""Tiny random pipelines made of diffusers' own classes: 20 to 250 thousand parameters, for tests and examples.

No mocks: what passes here has run through the same code as a model of full size.
"""

import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast


def tiny_sd(seed: int = 0) -> StableDiffusionPipeline:
    """A text-to-image pipeline with pictures of 16 x 16 pixels and latents of 4 x 8 x 8; words are letters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8, block_out_channels=(16, 24), layers_per_block=1, norm_num_groups=8, attention_head_dim=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=16,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1, latent_channels=4, sample_size=16,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                max_position_embeddings=12, bos_token_id=0, eos_token_id=1, pad_token_id=1,
            )
        )
    return _calm(
        StableDiffusionPipeline(
            vae=vae, text_encoder=text, tokenizer=_letters(), unet=unet, scheduler=_scheduler(), safety_checker=None,
            feature_extractor=None, requires_safety_checker=False,
        )
    )


def tiny_ddpm(seed: int = 0) -> DDIMPipeline:
    """An unconditional pipeline with pictures of 8 x 8 pixels, attention included."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DModel(
            sample_size=8, block_out_channels=(16, 24), layers_per_block=1, norm_num_groups=8, attention_head_dim=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
    return _calm(DDIMPipeline(unet=unet, scheduler=_scheduler()))


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def _letters() -> PreTrainedTokenizerFast:
    words = {word: n for n, word in enumerate(["<start>", "<end>", *map(chr, range(97, 123))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<start>", eos_token="<end>", pad_token="<end>", unk_token="<end>",
        model_max_length=12,
    )


def _calm(pipe):
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipe
