"""emoji-sd, the text encoder and the U-Net: trained together on the latents of emoji and of
compositions.
"""

import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

from training import captions, compositions, held_out, pictures, vae, words
from training.loop import Checkpoint, Schedule, train
from training.noise import diffusion_loss
from training.prompts import COMPOSITIONS


BATCH = 64
COMPOSED = 12  # of each batch
COMPOSED_PICTURES = 8000
WIDTH = 128


def new_text_encoder(vocabulary: int) -> CLIPTextModel:
    """Two layers of 128; what it must know is a few thousand words."""
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=words.LENGTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        projection_dim=WIDTH,
    )
    return CLIPTextModel(config)


def new_unet() -> UNet2DConditionModel:
    """8.8 million weights, cross-attention at 16x16 and 8x8."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 128, 192),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # the number of heads, whatever the argument is called
        norm_num_groups=32,
    )


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's betas and DDIM settings."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


class Lessons:
    """Everything the text encoder and the U-Net learn from: images, captions, compositions and
    their latents.

    Nothing of it is a held-out emoji, shows one as a part, or is called as one.
    """

    def __init__(self, cache: Path):
        images, names, texts = pictures.load(cache)
        trained = held_out.find_trained(names)
        self.pictures = images[trained]
        self.subjects = captions.describe([names[k] for k in trained], [texts[k] for k in trained])
        plain_names = [s.name for s in self.subjects]
        self.composed, self.composed_captions = compositions.compose(
            self.pictures,
            plain_names,
            [texts[k] for k in trained],
            COMPOSED_PICTURES,
            {*COMPOSITIONS, *held_out.read()},
        )
        self.vocabulary = words.build_vocabulary(
            self.subjects, [*self.composed_captions, *COMPOSITIONS]
        )
        self.tokenizer = words.build_tokenizer(self.vocabulary)

    def encode(self, cache: Path, folder: Path) -> tuple[Tensor, Tensor]:
        """Scaled latent means of images and compositions by the autoencoder in `folder`, kept
        until that changes.
        """
        path = cache / "latents.npz"
        weights = folder / "diffusion_pytorch_model.safetensors"
        autoencoder = AutoencoderKL.from_pretrained(folder).float().eval()
        if not path.exists() or path.stat().st_mtime < weights.stat().st_mtime:
            np.savez(
                path,
                pictures=vae.encode_all(autoencoder, self.pictures),
                composed=vae.encode_all(autoencoder, self.composed),
            )
        kept, scale = np.load(path), autoencoder.config.scaling_factor
        return torch.from_numpy(kept["pictures"]) * scale, torch.from_numpy(
            kept["composed"]
        ) * scale

    def tokens(self, texts: list[str]) -> dict[str, Tensor]:
        """Token numbers and mask, each (texts, 12)."""
        padded = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=words.LENGTH
        )
        return {name: torch.tensor(padded[name]) for name in ("input_ids", "attention_mask")}

    def batch(
        self, latents: Tensor, composed: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, list[str]]:
        """Latents of plain images and compositions in random order, and what each is called
        this time.
        """
        chance = random.Random(int(torch.randint(0, 2**31, (1,), generator=generator)))
        plain = chance.sample(range(len(latents)), BATCH - COMPOSED)
        mixed = chance.sample(range(len(composed)), COMPOSED)
        texts = [captions.choose(self.subjects[i], chance) for i in plain]
        texts += [self.composed_captions[i] if chance.random() > 0.1 else "" for i in mixed]
        order = torch.randperm(BATCH, generator=generator)
        clean = torch.cat([latents[plain], composed[mixed]])[order]
        return clean, [texts[i] for i in order]


def carry_embeddings(
    encoder: CLIPTextModel, lessons: "Lessons", old: CLIPTextModel, old_words: dict[str, int]
) -> None:
    """Copy the old encoder's weights; a word it does not know starts as the mean of the words it
    is a keyword of.
    """
    weights = old.state_dict()
    key = next(k for k in weights if k.endswith("token_embedding.weight"))
    table = weights.pop(key)
    encoder.load_state_dict(weights, strict=False)
    new = encoder.state_dict()[key]
    for word, number in lessons.vocabulary.items():
        if word in old_words:
            new[number] = table[old_words[word]]
        elif near := [
            old_words[w] for w in sorted(words.relatives(word, lessons.subjects)) if w in old_words
        ][:8]:
            new[number] = table[near].mean(0) + 0.3 * new[number]


def open_run(
    cache: Path, seed: int, lessons: Lessons, start: Path | None
) -> tuple[CLIPTextModel, UNet2DConditionModel, Checkpoint]:
    """Both networks and their checkpoint; a new run may start from the weights of a saved
    pipeline.
    """
    torch.manual_seed(seed)
    encoder, unet = new_text_encoder(len(lessons.vocabulary)), new_unet()
    path = cache / "emoji-sd.safetensors"
    if start and not path.exists():
        unet.load_state_dict(
            UNet2DConditionModel.from_pretrained(start, subfolder="unet").float().state_dict()
        )
        old = CLIPTextModel.from_pretrained(start, subfolder="text_encoder").float()
        old_words = AutoTokenizer.from_pretrained(start, subfolder="tokenizer").get_vocab()
        with torch.no_grad():
            carry_embeddings(encoder, lessons, old, old_words)
    unet = unet.to(memory_format=torch.channels_last)
    return encoder, unet, Checkpoint(path, [*unet.parameters(), *encoder.parameters()], seed)


def run(cache: Path, schedule: Schedule, start: Path | None = None) -> None:
    """Train text encoder and U-Net up to `schedule.steps`, from the checkpoint in `cache` if
    there is one.
    """
    lessons = Lessons(cache)
    latents, composed = lessons.encode(cache, cache / "vae")
    encoder, unet, checkpoint = open_run(cache, schedule.seed, lessons, start)
    encoder.train()
    abar = new_scheduler().alphas_cumprod

    def loss_of(generator: torch.Generator) -> tuple[Tensor, float]:
        clean, texts = lessons.batch(latents, composed, generator)
        hidden = encoder(lessons.tokens(texts)["input_ids"]).last_hidden_state
        return diffusion_loss(
            lambda noisy, t: unet(noisy, t, hidden).sample, clean, abar, generator
        )

    train(checkpoint, schedule, loss_of)
