"""Writes the model cards: README.md and loss curve of each model, from the checkpoints and the
measured figures.
"""

import json
import math
from pathlib import Path

from PIL import Image, ImageDraw
from safetensors import safe_open

from training import clip_lessons, emoji_ddpm, emoji_sd, held_out, vae
from training.card_texts import (
    CLIP,
    CLIP_TRAINING,
    DATA,
    DDPM,
    DDPM_TRAINING,
    DIT,
    DIT_TRAINING,
    HELD_OUT,
    SD,
    SD_TRAINING,
)
from training.loop import Schedule


def read_run(path: Path) -> dict:
    """Steps, CPU seconds, losses and seed of a checkpoint."""
    with safe_open(path, "pt") as kept:
        return json.loads(kept.metadata()["about"])


def count_weights(folder: Path) -> str:
    """Millions of weights in a folder's safetensors files."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as kept:
            total += sum(math.prod(kept.get_slice(k).get_shape()) for k in kept.keys())
    return f"{total / 1e6:.2f}"


def draw_losses(losses: list[tuple[int, float, float]], path: Path) -> None:
    """A line of loss (logarithmic) over steps, with the ends of both axes labelled."""
    width, height, left, top = 640, 320, 60, 20
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    steps, values = [p[0] for p in losses], [math.log(p[2]) for p in losses]
    low, high = min(values), max(values)
    right, bottom = width - 20, height - 40
    pen.rectangle((left, top, right, bottom), outline=(180, 180, 180))
    points = [
        (
            left + (right - left) * s / steps[-1],
            bottom - (bottom - top) * (v - low) / max(high - low, 1e-9),
        )
        for s, v in zip(steps, values, strict=True)
    ]
    pen.line(points, fill=(30, 90, 200), width=2)
    pen.text((8, top - 4), f"{math.exp(high):.3f}", fill="black")
    pen.text((8, bottom - 8), f"{math.exp(low):.3f}", fill="black")
    pen.text((left, bottom + 8), "step 0", fill="black")
    pen.text((right - 60, bottom + 8), f"step {steps[-1]}", fill="black")
    pen.text((width // 2 - 60, bottom + 8), "error (log scale)", fill="black")
    image.save(path)


def write_emoji_sd(cache: Path, folder: Path, origin: str) -> None:
    """README.md and loss.png of emoji-sd."""
    run, autoencoder = read_run(cache / "emoji-sd.safetensors"), read_run(cache / "vae.safetensors")
    draw_losses(run["losses"], folder / "loss.png")
    vocabulary = len(
        json.loads((folder / "tokenizer" / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    )
    sizes = {
        f"{k}_size": count_weights(folder / p)
        for k, p in (("vae", "vae"), ("text", "text_encoder"), ("unet", "unet"))
    }
    figures = json.loads((cache / "emoji-sd-figures.json").read_text("utf-8"))
    prompts = ", ".join(emoji_sd.COMPOSITIONS)
    count = len(held_out.read())
    card = SD.format(**sizes, **figures, vocabulary=vocabulary, prompts=prompts, held_out=count)
    card += (
        DATA
        + "\n"
        + HELD_OUT.format(held_out=count)
        + SD_TRAINING.format(
            command="python -m training"
            if origin == "random weights"
            else "python -m training --init FOLDER",
            origin=origin,
            seed=run["seed"],
            steps=run["step"],
            batch=emoji_sd.BATCH,
            composed=emoji_sd.COMPOSED,
            minutes=run["seconds"] / 60,
            loss=run["losses"][-1][2],
            decay=Schedule.decay,
            vae_steps=autoencoder["step"],
            vae_batch=vae.BATCH,
            vae_minutes=autoencoder["seconds"] / 60,
            vae_loss=autoencoder["losses"][-1][2],
        )
    )
    (folder / "README.md").write_text(card, "utf-8")


SD_LINES = {
    "top1": "nearest of",
    "top5": "prompted one among",
    "held_out_top1": "held-out names (",
    "held_out_top5": "held-out names:",
}


def measured(card: Path, line: str) -> str:
    """The figure at the end of the line of a card's table that begins with `line`; "not known"
    if it has none.
    """
    found = next(
        (row for row in card.read_text("utf-8").splitlines() if row.startswith(f"| {line}")),
        "not known",
    )
    return found.strip("| ").split("|")[-1].strip()


def write_emoji_dit(cache: Path, folder: Path) -> None:
    """README.md and loss.png of emoji-dit."""
    run = read_run(cache / "emoji-dit.safetensors")
    draw_losses(run["losses"], folder / "loss.png")
    vocabulary = len(
        json.loads((folder / "tokenizer" / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    )
    sizes = {
        f"{k}_size": count_weights(folder / p)
        for k, p in (("vae", "vae"), ("text", "text_encoder"), ("denoiser", "transformer"))
    }
    figures = json.loads((cache / "emoji-dit-figures.json").read_text("utf-8"))
    other = folder.parent / "emoji-sd/README.md"
    card = DIT.format(
        **sizes,
        **figures,
        vocabulary=vocabulary,
        prompts=", ".join(emoji_sd.COMPOSITIONS),
        **{f"sd_{figure}": measured(other, line) for figure, line in SD_LINES.items()},
    )
    card += (
        DATA
        + "\n"
        + HELD_OUT.format(held_out=len(held_out.read()))
        + DIT_TRAINING.format(
            seed=run["seed"],
            steps=run["step"],
            batch=emoji_sd.BATCH,
            composed=emoji_sd.COMPOSED,
            minutes=run["seconds"] / 60,
            loss=run["losses"][-1][2],
            decay=Schedule.decay,
        )
    )
    (folder / "README.md").write_text(card, "utf-8")


def write_emoji_ddpm(cache: Path, folder: Path) -> None:
    """README.md and loss.png of emoji-ddpm."""
    run = read_run(cache / "emoji-ddpm.safetensors")
    draw_losses(run["losses"], folder / "loss.png")
    figures = json.loads((cache / "emoji-ddpm-figures.json").read_text("utf-8"))
    card = DDPM.format(size=count_weights(folder / "unet"), **figures)
    card += (
        DATA
        + "\n"
        + DDPM_TRAINING.format(
            command="python -m training",
            seed=run["seed"],
            steps=run["step"],
            batch=emoji_ddpm.BATCH,
            minutes=run["seconds"] / 60,
            loss=run["losses"][-1][2],
            decay=Schedule.decay,
            lessons=len(emoji_ddpm.lessons(cache)),
        )
    )
    (folder / "README.md").write_text(card, "utf-8")


def retrieval_row(shown: str, row: dict) -> str:
    """A line of the card's table: counts found, and the share of them."""
    kinds = ("picture_top1", "picture_top5", "caption_top1", "caption_top5")
    counts = " | ".join(f"{row[kind]} ({row[kind] / row['of']:.1%})" for kind in kinds)
    return f"| {shown} | {row['of']:,} | {row['among']:,} | {counts} |"


def write_emoji_clip(cache: Path, models: Path) -> None:
    """README.md of emoji-clip."""
    run, folder = read_run(cache / "emoji-clip.safetensors"), models / "emoji-clip"
    figures = json.loads((cache / "emoji-clip-figures.json").read_text("utf-8"))
    held = json.loads((cache / "emoji-clip-held-out.json").read_text("utf-8"))
    rows = {
        "held-out emoji, among each other": held["own"],
        "held-out emoji, among all": held["all"],
        "the same emoji, later trained on": figures["held"],
        "all emoji": figures["names"],
        "compositions never trained on": figures["untold"],
        "emoji-sd's drawings of 256 names": figures["drawn"],
        "emoji-sd's drawings of 32 compositions": figures["prompts"],
    }
    wrong = {
        "colour": "7 other colours",
        "eyes": "without eyes",
        "small": "without small",
        "pair": "7 other second things",
        "two": "7 other colours, with eyes or small",
    }
    among, count = figures["drawn_among_all"], figures["drawn"]["of"]
    lessons, groups, variations = figures["lessons"], clip_lessons.GROUPS, clip_lessons.VARIATIONS
    card = CLIP.format(
        weights=count_weights(folder),
        held_step=held["step"],
        unseen=len(held_out.read()),
        megabytes=sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e6,
        retrieval="\n".join(retrieval_row(shown, row) for shown, row in rows.items()),
        among_top1=among["caption_top1"],
        among_top1_part=among["caption_top1"] / count,
        among_top5=among["caption_top5"],
        among_top5_part=among["caption_top5"] / count,
        attributes="\n".join(
            f"| {kind} | {wrong[kind]} | {row['count']} | {row['pairs']:.1%} | {row['all']:.1%} |"
            for kind, row in figures["attributes"].items()
        ),
        match_own=figures["match_own"],
        match_other=figures["match_other"],
        damage="\n".join(
            f"| {r['noise']} | {r['match']:.1f} | {r['distance']:.3f} |" for r in figures["damage"]
        ),
    )
    card += (
        DATA
        + "\n"
        + CLIP_TRAINING.format(
            seed=run["seed"],
            steps=run["step"],
            minutes=run["seconds"] / 60,
            found=run["losses"][-1][2],
            batch=clip_lessons.PLAIN + groups * variations,
            plain=clip_lessons.PLAIN,
            composed=groups * variations,
            groups=groups,
            variations=variations,
            noise=clip_lessons.LATENT_NOISE,
            finish=clip_lessons.FINISH,
            decay=Schedule.decay,
            **lessons,
        )
    )
    (folder / "README.md").write_text(card, "utf-8")


def write(cache: Path, models: Path, origin: str, only: str | None) -> None:
    """All cards, or one; run after `score` and `score-clip`."""
    cards = {
        "emoji-clip": lambda: write_emoji_clip(cache, models),
        "emoji-sd": lambda: write_emoji_sd(cache, models / "emoji-sd", origin),
        "emoji-dit": lambda: write_emoji_dit(cache, models / "emoji-dit"),
        "emoji-ddpm": lambda: write_emoji_ddpm(cache, models / "emoji-ddpm"),
    }
    for name in (only,) if only else cards:
        cards[name]()
