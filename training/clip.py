"""emoji-clip, the network: two small transformers whose outputs agree for an image and its
caption, and nothing else.

Data is `training.clip_lessons`. Nothing here needs fonts or the emoji package.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, PreTrainedTokenizerBase

from training.loop import Checkpoint
from training.mixed import half_precision


SIZE = 64
PATCH = 8
LENGTH = 12  # tokens of a caption, start and end included
SHARED = 128
VISION = {
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
}
TEXT = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}
SHARPEST = 4.6  # log of the largest factor on cosines, CLIP's 100


def new_model(vocabulary: int, seed: int = 0) -> CLIPModel:
    """3.9 million weights, two thirds of them for 65 tokens of an image."""
    torch.manual_seed(seed)
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = {
        **TEXT,
        **ends,
        "vocab_size": vocabulary,
        "max_position_embeddings": LENGTH,
        "projection_dim": SHARED,
    }
    vision = {**VISION, "image_size": SIZE, "patch_size": PATCH, "projection_dim": SHARED}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=SHARED))


def to_input(pictures: Tensor) -> Tensor:
    """Colours 0 to 1 as the network wants them: -1 to 1 (mean and deviation 0.5 in
    preprocessor_config.json).
    """
    return pictures * 2 - 1


def tokens(tokenizer: PreTrainedTokenizerBase, captions: list[str]) -> Tensor:
    """Token numbers (captions, 12)."""
    padded = tokenizer(captions, padding="max_length", truncation=True, max_length=LENGTH)
    return torch.tensor(padded["input_ids"])


def agreement(model: CLIPModel, pixels: Tensor, ids: Tensor) -> Tensor:
    """Cosines (images, captions) between every image and every caption."""
    with half_precision():
        images = model.get_image_features(pixel_values=pixels).pooler_output
        texts = model.get_text_features(input_ids=ids).pooler_output
    return F.normalize(images.float(), dim=1) @ F.normalize(texts.float(), dim=1).T


def contrastive_loss(cosines: Tensor, scale: Tensor) -> tuple[Tensor, float]:
    """Cross-entropy of finding each caption's image and each image's caption; and how often
    both are found.

    Shapes: `cosines` (n, n), pair k at (k, k). Source: Radford et al., arXiv:2103.00020, figure 3.
    """
    logits, own = cosines * scale.clamp(max=SHARPEST).exp(), torch.arange(len(cosines))
    found = (
        (logits.argmax(0) == own).float().mean() + (logits.argmax(1) == own).float().mean()
    ) / 2
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2, found.item()


def degrade(pictures: Tensor, may_flip: Tensor, generator: torch.Generator) -> Tensor:
    """Images moved, scaled, some mirrored, and a part of them lightly blurred, noisy, coarse or
    of other contrast.

    Shapes: `images` (n, 3, h, w), 0 to 1 on white, `may_flip` (n,) bool; what moves in is white.
    Light, so that the text still fits while the features see the damage."""
    count = len(pictures)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    def some(chance: float) -> Tensor:
        return (torch.rand(count, generator=generator) < chance)[:, None, None, None]

    scale, mirror = uniform(0.88, 1.15), torch.where(may_flip & (uniform(0, 1) < 0.5), -1.0, 1.0)
    places = torch.zeros(count, 2, 3)
    places[:, 0, 0], places[:, 1, 1] = scale * mirror, scale
    places[:, 0, 2], places[:, 1, 2] = uniform(-0.1, 0.1), uniform(-0.1, 0.1)
    grid = F.affine_grid(places, list(pictures.shape), align_corners=False)
    out = 1 - F.grid_sample(1 - pictures, grid, align_corners=False)
    blurred = F.avg_pool2d(F.pad(out, (1, 1, 1, 1), mode="replicate"), 3, 1)
    out = torch.where(some(0.15), blurred, out)
    contrast, brightness = (
        uniform(0.8, 1.1)[:, None, None, None],
        uniform(-0.08, 0.08)[:, None, None, None],
    )
    out = torch.where(some(0.3), (out - 0.5) * contrast + 0.5 + brightness, out)
    noise = torch.randn(out.shape, generator=generator) * uniform(0, 0.08)[:, None, None, None]
    out = torch.where(some(0.2), out + noise, out)
    out = torch.where(some(0.1), (out * 12).round() / 12, out)
    return out.clamp(0, 1)


def open_run(cache: Path, seed: int, vocabulary: int) -> tuple[CLIPModel, Checkpoint]:
    """The network and its checkpoint."""
    model = new_model(vocabulary, seed)
    return model, Checkpoint(cache / "emoji-clip.safetensors", list(model.parameters()), seed)


def preprocessor() -> dict:
    """preprocessor_config.json, in the form that CLIP's image processors read."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": SIZE},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": SIZE, "width": SIZE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def pack(cache: Path, models: Path) -> None:
    """Write emoji-clip from the averaged weights of its checkpoint: fp16, under 10 MB, emoji-sd's
    tokenizer.

    `CLIPModel.from_pretrained` and `CLIPProcessor.from_pretrained` read the folder.
    """
    tokenizer, folder = (
        AutoTokenizer.from_pretrained(models / "emoji-sd" / "tokenizer"),
        models / "emoji-clip",
    )
    model, checkpoint = open_run(cache, 0, len(tokenizer))
    checkpoint.apply_average()
    model.to(torch.float16).save_pretrained(folder, max_shard_size="9MB")
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(preprocessor(), indent=2) + "\n", "utf-8"
    )
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)
