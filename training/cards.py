"""Writes the model cards: README.md and loss curve of each model, from the checkpoints and the measured figures."""

import json
import math
from pathlib import Path

from PIL import Image, ImageDraw
from safetensors import safe_open

from training import emoji_ddpm, emoji_sd, vae
from training.loop import Schedule


DATA = """## Data and licences

1,922 colour emoji drawn from Noto Color Emoji (Debian's `fonts-noto-color-emoji`; SIL Open Font License 1.1) at 64x64
on white; skin-tone variants are left out. Names come from the `emoji` package (BSD) and keywords from Unicode's CLDR
(Debian's `unicode-cldr-core`; Unicode License v3). The weights are published under Apache-2.0. Emoji that show logos,
flags or trade marks keep their owners' rights.
"""

SD = """---
license: apache-2.0
tags: [text-to-image, stable-diffusion, emoji]
---
# emoji-sd

A Stable Diffusion pipeline in miniature: words in, a 64x64 emoji out, in seconds on a CPU. It has every part of the
original (autoencoder, CLIP text encoder, cross-attention U-Net, classifier-free guidance, DDIM with SD's betas), so
what is learnt on it about quantization can be tried on the original unchanged. It is a test object, not an artist.

![64 of the 256 scored names](samples.png)

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("assets/models/emoji-sd")
pipe("blue dog", num_inference_steps=50, guidance_scale=4).images[0].save("blue-dog.png")
```

| part | what |
|---|---|
| `vae` | `AutoencoderKL` 32-64-96, one layer a block, no attention, 64x64 to 16x16x4, {vae_size} M weights |
| `text_encoder` | `CLIPTextModel`, 2 layers of 128, 12 tokens, {text_size} M weights, trained with the U-Net |
| `tokenizer` | {vocabulary:,} tokens: the words of names and keywords, and pieces of words for any other (WordPiece) |
| `unet` | `UNet2DConditionModel` 64-128-192, one layer a block, 4 heads, {unet_size} M weights |
| `scheduler` | `DDIMScheduler`, scaled-linear betas 0.00085 to 0.012, 1,000 steps, predicts the noise |

All files are fp16.

## Measured

| | measured |
|---|---|
| PSNR of the autoencoder, mean over all 1,922 pictures | {psnr_db} dB |
| nearest of the 1,922 pictures is the prompted one ({names} names, 50 steps, guidance 4) | {top1:.1%} |
| prompted one among the nearest five | {top5:.1%} |

`python -m training score` prints these. Nearest means L2 after 4x box down-sampling; the names are
`RandomState(7).choice(1922, 256, replace=False)`, each with its own number as the seed. Chance would be 0.05 %.

Compositions that no name contains and that were left out of training (in this order: {prompts}):

![32 compositions](compositions.png)

"""

SD_TRAINING = """## Training

`{command}`

Starting point: {origin}. Two CPU cores, seed {seed}.

| | steps | batch | CPU minutes | last loss |
|---|---|---|---|---|
| autoencoder | {vae_steps:,} | {vae_batch} | {vae_minutes:.0f} | {vae_loss:.2f} dB (PSNR in training) |
| text encoder and U-Net | {steps:,} | {batch} | {minutes:.0f} | {loss:.4f} (noise error) |

Muon for matrices and AdamW for the rest, learning rates constant after a warm-up and falling to 0 over the last
{decay:.0%} of the steps, min-SNR weights (gamma 5) that grow again where nearly all is noise, averaged weights
(0.999). Captions: two thirds names, one tenth empty, the rest names with keywords, keywords alone, shortened or
misspelt names. {composed} of each {batch} pictures are compositions: an emoji recoloured, with eyes, small, or beside
another. Matrix products in bfloat16, the rest in float32.

![loss](loss.png)

## Limits

It knows the 1,922 pictures largely by heart: a name gives that emoji. Colours carry over to other things more
reliably than counts, sizes or positions; a sentence is read as a handful of words (12 tokens). Flags of similar layout
and people who differ in one detail are mixed up. Names and keywords are English.
"""

DDPM = """---
license: apache-2.0
tags: [unconditional-image-generation, ddpm, emoji]
---
# emoji-ddpm

An unconditional pixel-space diffusion model of 32x32 emoji: the setting of the CIFAR-10 experiments (linear betas, 100
DDIM steps) at a size that a CPU samples in seconds. It is a test object for quantization, not an artist.

![64 samples](samples.png)

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("assets/models/emoji-ddpm")
pipe(batch_size=4, num_inference_steps=100).images[0].save("emoji.png")
```

`UNet2DModel` 32-64-128-128, one layer a block, attention at 8x8 and in the middle, {size} M weights in fp16;
`DDIMScheduler`, linear betas 0.0001 to 0.02, 1,000 steps, clips the sample. The U-Net predicts the
velocity (`v_prediction`, arXiv:2202.00512): a short training gets clean backgrounds from it.

## Measured

64 samples (seed 0, 100 DDIM steps): {different} different pictures of the 1,922 are nearest to them (L2 after 4x box
down-sampling), at a median RMSE of {rmse_median:.3f} (pixels 0 to 1). `python -m training score` prints these.

"""

DDPM_TRAINING = """## Training

`{command}`

From random weights, two CPU cores, seed {seed}: {steps:,} steps of {batch}, {minutes:.0f} CPU minutes, last loss
{loss:.4f} (velocity error). It learns {lessons} of the pictures: faces, animals, plants, food and drink, so that each
is seen often. Muon for matrices and AdamW for the rest, learning rates constant after a warm-up and falling to 0 over
the last {decay:.0%} of the steps, averaged weights (0.999). Matrix products in bfloat16, the rest in float32.

![loss](loss.png)

## Limits

It has seen these pictures and nothing else: samples are those pictures, blends of them, and some that are neither.
There is no prompt.
"""


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
        (left + (right - left) * s / steps[-1], bottom - (bottom - top) * (v - low) / max(high - low, 1e-9))
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
    vocabulary = len(json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"])
    sizes = {f"{k}_size": count_weights(folder / p) for k, p in
             (("vae", "vae"), ("text", "text_encoder"), ("unet", "unet"))}  # fmt: skip
    figures = json.loads((cache / "emoji-sd-figures.json").read_text())
    prompts = ", ".join(emoji_sd.COMPOSITIONS)
    card = SD.format(**sizes, **figures, vocabulary=vocabulary, prompts=prompts)
    card += DATA + "\n" + SD_TRAINING.format(
        command="python -m training" if origin == "random weights" else "python -m training --init FOLDER",
        origin=origin, seed=run["seed"], steps=run["step"], batch=emoji_sd.BATCH, composed=emoji_sd.COMPOSED,
        minutes=run["seconds"] / 60, loss=run["losses"][-1][2], decay=Schedule.decay,
        vae_steps=autoencoder["step"], vae_batch=vae.BATCH,
        vae_minutes=autoencoder["seconds"] / 60, vae_loss=autoencoder["losses"][-1][2],
    )  # fmt: skip
    (folder / "README.md").write_text(card)


def write_emoji_ddpm(cache: Path, folder: Path) -> None:
    """README.md and loss.png of emoji-ddpm."""
    run = read_run(cache / "emoji-ddpm.safetensors")
    draw_losses(run["losses"], folder / "loss.png")
    figures = json.loads((cache / "emoji-ddpm-figures.json").read_text())
    card = DDPM.format(size=count_weights(folder / "unet"), **figures)
    card += DATA + "\n" + DDPM_TRAINING.format(
        command="python -m training", seed=run["seed"], steps=run["step"], batch=emoji_ddpm.BATCH,
        minutes=run["seconds"] / 60, loss=run["losses"][-1][2], decay=Schedule.decay,
        lessons=len(emoji_ddpm.lessons(cache)),
    )  # fmt: skip
    (folder / "README.md").write_text(card)


def write(cache: Path, models: Path, origin: str) -> None:
    """Both cards; run after `score`."""
    write_emoji_sd(cache, models / "emoji-sd", origin)
    write_emoji_ddpm(cache, models / "emoji-ddpm")
