"""Measures emoji-clip: how often it finds the right caption or image, on what it was and was not
trained on.

Every image scored went through emoji-sd's autoencoder, or was drawn by emoji-sd: those are the
images it is for. emoji-clip learns all emoji in the end, those that emoji-sd and emoji-dit never
see among them: it is the judge. "Held out" here speaks of its own lessons (`clip_lessons`), not of
the list in `held_out`."""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel

from training import clip, score
from training.clip_lessons import Composition, Lessons
from training.compositions import COLOURS
from training.prompts import COMPOSITIONS


DECODED = 1  # the version in Lessons.images that the autoencoder gave back


@torch.no_grad()
def picture_vectors(model: CLIPModel, images: np.ndarray) -> Tensor:
    """Projected unit vectors (n, 128) of uint8 images (n, 64, 64, 3)."""
    parts = []
    for i in range(0, len(images), 64):
        pixels = clip.to_input(
            torch.from_numpy(images[i : i + 64]).permute(0, 3, 1, 2).float() / 255
        )
        parts.append(model.get_image_features(pixel_values=pixels).pooler_output)
    return F.normalize(torch.cat(parts), dim=1)


@torch.no_grad()
def caption_vectors(model: CLIPModel, lessons: Lessons, captions: list[str]) -> Tensor:
    """Projected unit vectors (n, 128)."""
    return F.normalize(
        model.get_text_features(input_ids=clip.tokens(lessons.tokenizer, captions)).pooler_output,
        dim=1,
    )


def found(cosines: Tensor, own: Tensor, among: int) -> int:
    """How many rows have their own column among their `among` largest: `cosines` (n, m), `own`
    (n,) columns.
    """
    return int((cosines.topk(among, 1).indices == own[:, None]).any(1).sum())


def retrieval(pictures: Tensor, captions: Tensor, own: Tensor) -> dict[str, int]:
    """Counts found, both ways, for the pairs `own` of all unit vectors `images` and `captions`
    (both (n, 128)).
    """
    to_picture, to_caption = (captions @ pictures.T)[own], (pictures @ captions.T)[own]
    return {
        "of": len(own),
        "among": len(pictures),
        "picture_top1": found(to_picture, own, 1),
        "picture_top5": found(to_picture, own, 5),
        "caption_top1": found(to_caption, own, 1),
        "caption_top5": found(to_caption, own, 5),
    }


def others(composition: Composition, subjects: list[str]) -> list[str]:
    """The composition's caption with its attribute exchanged (colour, second thing) or taken
    away (eyes, size).
    """
    words = composition.caption.split()
    if composition.kind == "pair":
        first, _, second = composition.caption.partition(" and ")
        return [f"{first} and {subject}" for subject in subjects if subject not in (first, second)][
            :7
        ]
    if composition.kind == "eyes":
        return [composition.caption.removesuffix(" with eyes")]
    if composition.kind == "small":
        return [composition.caption.removeprefix("small ")]
    at = next(k for k, word in enumerate(words) if word in COLOURS)
    return [
        " ".join([*words[:at], colour, *words[at + 1 :]])
        for colour in COLOURS
        if colour != words[at]
    ]


def attributes(model: CLIPModel, lessons: Lessons) -> dict[str, dict[str, float]]:
    """Of each kind of never trained composition: how many there are, and how often the right
    caption wins.

    `pairs`: against each other caption alone, averaged; `all`: against all of them at once.
    """
    subjects = [c.caption.removeprefix("small ") for c in lessons.composed if c.kind == "small"][
        ::97
    ]
    rows: dict[str, list[tuple[float, float]]] = {}
    for number in lessons.untold.tolist():
        composition = lessons.composed[number]
        vector = picture_vectors(model, lessons.pictures[DECODED, [lessons.emoji + number]])
        choices = caption_vectors(
            model, lessons, [composition.caption, *others(composition, subjects)]
        )
        right, *wrong = (choices @ vector[0]).tolist()
        won = [right > w for w in wrong]
        rows.setdefault(composition.kind, []).append((sum(won) / len(won), float(all(won))))
    return {
        kind: {
            "count": len(rows[kind]),
            "pairs": float(np.mean([p for p, _ in rows[kind]])),
            "all": float(np.mean([a for _, a in rows[kind]])),
        }
        for kind in ("colour", "eyes", "small", "pair", "two")
    }


def drawn(cache: Path, models: Path, names: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What emoji-sd draws for score.py's 256 names, those names' numbers, and for the 32
    compositions; cached.
    """
    path = cache / "emoji-sd-drawn.npz"
    if not path.exists():
        pipe, numbers = score.open_pipeline(models / "emoji-sd"), score.scored_names(names)
        made = score.draw(pipe, [names[k] for k in numbers], numbers.tolist())
        composed = score.draw(pipe, list(COMPOSITIONS), list(range(len(COMPOSITIONS))))
        np.savez(path, pictures=to_bytes(made), numbers=numbers, composed=to_bytes(composed))
    kept = np.load(path)
    return kept["pictures"], kept["numbers"], kept["composed"]


def to_bytes(images: Tensor) -> np.ndarray:
    """(n, 3, h, w), 0 to 1, to uint8 (n, h, w, 3)."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def score_held_out(cache: Path, lessons: Lessons) -> None:
    """Retrieval of the held-out emoji by the average of the checkpoint's weights; kept in the
    cache for the card.
    """
    model, checkpoint = clip.open_run(cache, 0, len(lessons.tokenizer))
    checkpoint.apply_average()
    model.eval()
    pictures = picture_vectors(model, lessons.pictures[DECODED, : lessons.emoji])
    captions = caption_vectors(model, lessons, lessons.names)
    held = torch.from_numpy(lessons.held)
    figures = {
        "step": checkpoint.step,
        "own": retrieval(pictures[held], captions[held], torch.arange(len(held))),
        "all": retrieval(pictures, captions, held),
    }
    print("emoji-clip held out", figures, flush=True)
    (cache / "emoji-clip-held-out.json").write_text(json.dumps(figures), "utf-8")


def score_packed(cache: Path, models: Path) -> None:
    """Figures of the packed emoji-clip, printed and kept in the cache for the card."""
    lessons = Lessons(cache, models)
    model = CLIPModel.from_pretrained(models / "emoji-clip", dtype=torch.float32).eval()
    pictures = picture_vectors(model, lessons.pictures[DECODED])
    captions = caption_vectors(
        model, lessons, [*lessons.names, *(c.caption for c in lessons.composed)]
    )
    emoji, untold = slice(lessons.emoji), lessons.emoji + torch.from_numpy(lessons.untold)
    made, numbers, composed = drawn(cache, models, lessons.names)
    vectors, names = picture_vectors(model, made), captions[numbers]
    cosines, prompts = vectors @ names.T, caption_vectors(model, lessons, list(COMPOSITIONS))
    own = torch.arange(len(numbers))
    figures = {
        "names": retrieval(pictures[emoji], captions[emoji], torch.arange(lessons.emoji)),
        "held": retrieval(pictures[emoji], captions[emoji], torch.from_numpy(lessons.held)),
        "untold": retrieval(pictures[untold], captions[untold], torch.arange(len(untold))),
        "attributes": attributes(model, lessons),
        "drawn": retrieval(vectors, names, own),
        "drawn_among_all": {
            "caption_top1": found(vectors @ captions[emoji].T, torch.from_numpy(numbers), 1),
            "caption_top5": found(vectors @ captions[emoji].T, torch.from_numpy(numbers), 5),
        },
        "prompts": retrieval(picture_vectors(model, composed), prompts, torch.arange(len(prompts))),
        "match_own": 100 * cosines.diag().mean().item(),
        "match_other": 100
        * ((cosines.sum() - cosines.trace()) / (len(own) * (len(own) - 1))).item(),
        "damage": damage(model, made, names),
        "lessons": {
            "compositions": len(lessons.composed),
            "untold": len(lessons.untold),
            "held": len(lessons.held),
        },
    }
    print("emoji-clip", figures, flush=True)
    (cache / "emoji-clip-figures.json").write_text(json.dumps(figures), "utf-8")


def damage(model: CLIPModel, made: np.ndarray, names: Tensor) -> list[dict[str, float]]:
    """Mean match with the own name and mean distance of features from the clean ones, for
    growing noise.
    """
    generator, rows = torch.Generator().manual_seed(0), []
    clean = pooled(model, made)
    for amount in (0.0, 0.05, 0.1, 0.2, 0.4):
        noise = torch.randn(made.shape, generator=generator).numpy() * amount * 255
        noisy = (made + noise).round().clip(0, 255).astype(np.uint8)
        match = 100 * (picture_vectors(model, noisy) * names).sum(1).mean().item()
        distance = (pooled(model, noisy) - clean).norm(dim=1).mean() / clean.norm(dim=1).mean()
        rows.append({"noise": amount, "match": match, "distance": distance.item()})
    return rows


@torch.no_grad()
def pooled(model: CLIPModel, images: np.ndarray) -> Tensor:
    """Features (n, 192) of uint8 images before the projection."""
    pixels = clip.to_input(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    return torch.cat(
        [model.vision_model(pixel_values=part).pooler_output for part in pixels.split(64)]
    )
