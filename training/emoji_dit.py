"""emoji-dit: a PixArt in miniature, a transformer on the latents of emoji-sd's autoencoder, and
its text encoder.
"""

from pathlib import Path

import torch
from diffusers import DDIMScheduler, PixArtTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel, T5Config, T5EncoderModel

from training import emoji_sd
from training.emoji_sd import WIDTH, Lessons
from training.loop import Checkpoint, Schedule, train
from training.noise import diffusion_loss


def new_text_encoder(vocabulary: int) -> T5EncoderModel:
    """Two layers of 128, as emoji-sd's, with T5's relative positions: prompts may be padded to
    any length.
    """
    config = T5Config(
        vocab_size=vocabulary,
        d_model=WIDTH,
        d_kv=32,
        d_ff=512,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=1,
        eos_token_id=1,
    )
    return T5EncoderModel(config)


def new_transformer() -> PixArtTransformer2DModel:
    """9.4 million weights: 8 blocks of 256, 64 tokens of 2x2 latents, cross-attention to the prompt
    in each block.

    Cross-attention and the output start at zero, as PixArt's do.
    """
    transformer = PixArtTransformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=8,
        num_attention_heads=4,
        attention_head_dim=64,
        cross_attention_dim=256,
        caption_channels=WIDTH,
        use_additional_conditions=False,
    )
    for layer in (
        transformer.proj_out,
        *(block.attn2.to_out[0] for block in transformer.transformer_blocks),
    ):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return transformer


def new_scheduler() -> DDIMScheduler:
    """emoji-sd's, but the transformer predicts velocities: a short training gets clean
    backgrounds from them.
    """
    return DDIMScheduler.from_config(
        emoji_sd.new_scheduler().config, prediction_type="v_prediction"
    )


def open_run(
    cache: Path, models: Path, seed: int, lessons: Lessons
) -> tuple[T5EncoderModel, PixArtTransformer2DModel, Checkpoint]:
    """Both networks and their checkpoint; words start from what emoji-sd knows of them."""
    torch.manual_seed(seed)
    encoder, transformer = new_text_encoder(len(lessons.vocabulary)), new_transformer()
    old = CLIPTextModel.from_pretrained(models / "emoji-sd", subfolder="text_encoder").float()
    with torch.no_grad():
        encoder.get_input_embeddings().weight.copy_(old.get_input_embeddings().weight)
    weights = [*transformer.parameters(), *encoder.parameters()]
    return encoder, transformer, Checkpoint(cache / "emoji-dit.safetensors", weights, seed)


def run(cache: Path, models: Path, schedule: Schedule) -> None:
    """Train text encoder and transformer up to `schedule.steps`, from the checkpoint in `cache`
    if there is one.
    """
    lessons = Lessons(cache)
    latents, composed = lessons.encode(cache, models / "emoji-sd" / "vae")
    encoder, transformer, checkpoint = open_run(cache, models, schedule.seed, lessons)
    encoder.train()
    abar = new_scheduler().alphas_cumprod

    def loss_of(generator: torch.Generator) -> tuple[Tensor, float]:
        clean, texts = lessons.batch(latents, composed, generator)
        read = lessons.tokens(texts)
        hidden, mask = encoder(**read).last_hidden_state, read["attention_mask"]

        def predict(noisy: Tensor, t: Tensor) -> Tensor:
            return transformer(noisy, hidden, t, encoder_attention_mask=mask).sample

        return diffusion_loss(predict, clean, abar, generator, velocity=True)

    train(checkpoint, schedule, loss_of)
