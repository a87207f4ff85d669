"""Measures the packed pipelines and draws their sample sheets; every figure of the model cards
comes from here.

emoji-sd and emoji-dit: PSNR of the autoencoder over the images it was trained on and over those
held out; for 256 seeded names of the trained ones and for all held-out names, whether the nearest
of the 1,922 images is the prompted one; a sheet of 32 compositions that no name contains.
emoji-ddpm: a sheet of 64 and how many different images are nearest to them."""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline, PixArtAlphaPipeline
from PIL import Image
from torch import Tensor

from training import held_out, pictures, vae, words
from training.prompts import COMPOSITIONS


STEPS = 50
DIT_STEPS = 25
GUIDANCE = 4.0
DDPM_STEPS = 100


def open_pipeline(folder: Path) -> DiffusionPipeline:
    """The pipeline in fp32 without progress bars."""
    pipe = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def features(images: Tensor) -> Tensor:
    """Colours after 4x box down-sampling, flat: (n, 3, h, w) to (n, 3 * h/4 * w/4)."""
    return torch.nn.functional.avg_pool2d(images, 4).flatten(1)


def draw(
    pipe: DiffusionPipeline, prompts: list[str], seeds: list[int], steps: int = STEPS
) -> Tensor:
    """Images (n, 3, 64, 64) in 0 to 1, each from the prompt and the seed at its place."""
    small = {
        "use_resolution_binning": False,
        "max_sequence_length": words.LENGTH,
    }  # what PixArt must be told
    more, parts = small if isinstance(pipe, PixArtAlphaPipeline) else {}, []
    for i in range(0, len(prompts), 32):
        generators = [torch.Generator().manual_seed(s) for s in seeds[i : i + 32]]
        made = pipe(
            prompts[i : i + 32],
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=generators,
            output_type="pt",
            **more,
        )
        parts.append(made.images.float())
    return torch.cat(parts)


def sheet(images: Tensor, columns: int) -> Image.Image:
    """Images (n, 3, size, size) side by side, `columns` a row."""
    count, channels, size, _ = images.shape
    rows = images.reshape(count // columns, columns, channels, size, size).permute(0, 3, 1, 4, 2)
    flat = rows.reshape(count // columns * size, columns * size, channels)
    return Image.fromarray((flat.clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def nearest(made: Tensor, real: np.ndarray) -> Tensor:
    """For each made image the numbers of all real ones (uint8), nearest first, by L2 between
    features.
    """
    targets = features(torch.from_numpy(real).permute(0, 3, 1, 2).float() / 255)
    return torch.cdist(features(made), targets).argsort(1)


def scored_names(names: list[str]) -> np.ndarray:
    """Numbers of the 256 names that are scored, [256], of those trained on; each is the seed of
    its image too.
    """
    return np.random.RandomState(7).choice(held_out.find_trained(names), 256, replace=False)


def held_out_names(names: list[str]) -> np.ndarray:
    """Numbers of the names that were held out, [200]."""
    return np.setdiff1d(np.arange(len(names)), held_out.find_trained(names))


def found(made: Tensor, real: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """How many of the images `made` there are, and the parts whose `target` is nearest, or among
    the nearest five.

    Shapes: `made` (n, 3, h, w) in 0 to 1, `real` uint8 (m, h, w, 3), `target` (n,) rows of `real`.
    """
    hits = nearest(made, real)[:, :5] == torch.from_numpy(target)[:, None]
    top1, top5 = (hits[:, :k].any(1).float().mean().item() for k in (1, 5))
    return {"names": len(target), "top1": round(top1, 4), "top5": round(top5, 4)}


def score_prompted(
    cache: Path, folder: Path, steps: int = STEPS, count: int = 256
) -> dict[str, float]:
    """PSNR (dB), top-1 and top-5 over `count` trained names and, called `held_out_…`, over as many
    held-out ones.

    Writes samples.png and compositions.png into `folder`.
    """
    real, names, _ = pictures.load(cache)
    pipe = open_pipeline(folder)
    trained, unseen = held_out.find_trained(names), held_out_names(names)
    psnr = {"psnr_db": trained, "held_out_psnr_db": unseen}
    figures = {key: round(vae.mean_psnr(pipe.vae, real[rows]), 2) for key, rows in psnr.items()}
    chosen, unseen = scored_names(names)[:count], unseen[:count]
    made, other = (
        draw(pipe, [names[k] for k in rows], rows.tolist(), steps) for rows in (chosen, unseen)
    )
    figures |= found(made, real, chosen)
    figures |= {f"held_out_{key}": value for key, value in found(other, real, unseen).items()}
    sheet(made[:64], 8).save(folder / "samples.png")
    sheet(draw(pipe, list(COMPOSITIONS), list(range(32)), steps), 8).save(
        folder / "compositions.png"
    )
    return figures


def score_emoji_ddpm(cache: Path, folder: Path) -> dict[str, float]:
    """How many different images are nearest to 64 samples, and how near they are; writes
    samples.png.
    """
    small = pictures.shrink(pictures.load(cache)[0], 32)
    pipe = open_pipeline(folder)
    made = pipe(
        64, torch.Generator().manual_seed(0), num_inference_steps=DDPM_STEPS, output_type="np"
    ).images
    made = torch.from_numpy(made).permute(0, 3, 1, 2)
    best = nearest(made, small)[:, 0]
    clean = torch.from_numpy(small[best.numpy()]).permute(0, 3, 1, 2).float() / 255
    rmse = (made - clean).pow(2).mean((1, 2, 3)).sqrt()
    sheet(made, 8).resize((512, 512), Image.Resampling.NEAREST).save(folder / "samples.png")
    return {"different": len(best.unique()), "rmse_median": round(rmse.median().item(), 4)}


def score_emoji_dit(cache: Path, folder: Path) -> dict[str, float]:
    """As emoji-sd, in half as many steps."""
    return score_prompted(cache, folder, DIT_STEPS)


MEASURES = {
    "emoji-sd": score_prompted,
    "emoji-dit": score_emoji_dit,
    "emoji-ddpm": score_emoji_ddpm,
}


def score(cache: Path, models: Path, only: str | None = None) -> None:
    """Score all models, or one, print the figures and keep them in the cache for the cards."""
    for name in (only,) if only else MEASURES:
        figures = MEASURES[name](cache, models / name)
        print(name, figures, flush=True)
        (cache / f"{name}-figures.json").write_text(json.dumps(figures), "utf-8")
