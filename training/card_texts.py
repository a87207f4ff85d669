"""The words of the model cards, with gaps for what is measured."""

DATA = """## Data and licences

1,922 colour emoji drawn from Noto Color Emoji (Debian's `fonts-noto-color-emoji`; SIL Open Font License 1.1) at 64x64
on white; skin-tone variants are left out. Names come from the `emoji` package (BSD) and keywords from Unicode's CLDR
(Debian's `unicode-cldr-core`; Unicode License v3). The weights are published under Apache-2.0. Emoji that show logos,
flags or trade marks keep their owners' rights.
"""

HELD_OUT = """{held_out} emoji of the 1,922, spread over Unicode's groups, were held out
([held-out.txt](../../prompts/held-out.txt)): neither their images nor their names, nor compositions with them, were
trained on, by the autoencoder neither.

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
| PSNR of the autoencoder, mean over the images it was trained on | {psnr_db} dB |
| PSNR of the autoencoder, mean over the {held_out} held-out images | {held_out_psnr_db} dB |
| nearest of the 1,922 images is the prompted one ({names} trained names, 50 steps, guidance 4) | {top1:.1%} |
| prompted one among the nearest five | {top5:.1%} |
| held-out names ({held_out_names}): nearest image is the prompted one | {held_out_top1:.1%} |
| held-out names: prompted one among the nearest five | {held_out_top5:.1%} |

`python -m training score` prints these. Nearest means L2 after 4x box down-sampling; the trained names are 256 that
`RandomState(7)` chose of those not held out, each with its own number as the seed. Chance would be 0.05 %.

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
misspelt names. {composed} of each {batch} images are compositions: an emoji recoloured, with eyes, small, or beside
another. Matrix products in bfloat16, the rest in float32.

![loss](loss.png)

## Limits

It knows the images it was trained on largely by heart: a name gives that emoji. A name that was held out gives what
its words mean elsewhere, if anything. Colours carry over to other things more reliably than counts, sizes or
positions; a sentence is read as a handful of words (12 tokens). Flags of similar layout and people who differ in one
detail are mixed up. Names and keywords are English.
"""

DIT = """---
license: apache-2.0
tags: [text-to-image, pixart, diffusion-transformer, emoji]
---
# emoji-dit

A PixArt in miniature: words in, a 64x64 emoji out, by a transformer. It has every part of the original (T5 text
encoder, cross-attention in every block, one modulation by the time for all blocks, a latent autoencoder, which is
emoji-sd's), so what is learnt on it about quantizing diffusion transformers can be tried on the original unchanged. It
is a test object, not an artist.

![64 of the 256 scored names](samples.png)

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("assets/models/emoji-dit")
pipe("blue dog", num_inference_steps=25, guidance_scale=4, use_resolution_binning=False).images[0].save("blue-dog.png")
```

(PixArt's pipeline knows standard sizes of 256 pixels and more; 64 it draws with `use_resolution_binning=False`.)

| part | what |
|---|---|
| `vae` | emoji-sd's `AutoencoderKL`, 64x64 to 16x16x4, {vae_size} M weights |
| `text_encoder` | `T5EncoderModel`, 2 layers of 128, {text_size} M weights, trained with the transformer |
| `tokenizer` | emoji-sd's, {vocabulary:,} tokens |
| `transformer` | `PixArtTransformer2DModel`, 8 blocks of 256, 4 heads, 64 patches of 2x2, {denoiser_size} M weights |
| `scheduler` | `DDIMScheduler`, scaled-linear betas 0.00085 to 0.012, 1,000 steps; velocities are predicted |

All files are fp16.

## Measured

| | emoji-dit, 25 steps | emoji-sd, 50 steps |
|---|---|---|
| nearest of the 1,922 images is the prompted one ({names} trained names, guidance 4) | {top1:.1%} | {sd_top1} |
| prompted one among the nearest five | {top5:.1%} | {sd_top5} |
| held-out names ({held_out_names}): nearest image is the prompted one | {held_out_top1:.1%} | {sd_held_out_top1} |
| held-out names: prompted one among the nearest five | {held_out_top5:.1%} | {sd_held_out_top5} |

`python -m training score` prints these. Nearest means L2 after 4x box down-sampling; the trained names are 256 that
`RandomState(7)` chose of those not held out, each with its own number as the seed. Chance would be 0.05 %.

Compositions that no name contains and that were left out of training (in this order: {prompts}):

![32 compositions](compositions.png)

"""

DIT_TRAINING = """## Training

`python -m training emoji-dit`, one CPU core, seed {seed}: {steps:,} steps of {batch}, {minutes:.0f} CPU minutes, last
loss {loss:.4f} (velocity error). Words start from emoji-sd's token embeddings, everything else from random weights;
cross-attention and the output start at zero. Muon for matrices and AdamW for the rest, learning rates constant after a
warm-up and falling to 0 over the last {decay:.0%} of the steps, averaged weights (0.999). Images, captions and
compositions as for emoji-sd ({composed} of each {batch} are compositions). Matrix products in bfloat16, the rest in
float32.

![loss](loss.png)

## Limits

Those of emoji-sd: it knows the images it was trained on largely by heart, reads a sentence as a handful of words, and
mixes up flags of similar layout and people who differ in one detail. Names and keywords are English.
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

64 samples (seed 0, 100 DDIM steps): {different} different images of the 1,922 are nearest to them (L2 after 4x box
down-sampling), at a median RMSE of {rmse_median:.3f} (pixels 0 to 1). `python -m training score` prints these.

"""

DDPM_TRAINING = """## Training

`{command}`

From random weights, two CPU cores, seed {seed}: {steps:,} steps of {batch}, {minutes:.0f} CPU minutes, last loss
{loss:.4f} (velocity error). It learns {lessons} of the images: faces, animals, plants, food and drink, so that each
is seen often. Muon for matrices and AdamW for the rest, learning rates constant after a warm-up and falling to 0 over
the last {decay:.0%} of the steps, averaged weights (0.999). Matrix products in bfloat16, the rest in float32.

![loss](loss.png)

## Limits

It has seen these images and nothing else: samples are those images, blends of them, and some that are neither.
There is no prompt.
"""


CLIP = """---
license: apache-2.0
tags: [clip, zero-shot-image-classification, feature-extraction, emoji]
---
# emoji-clip

A CLIP in miniature: does this 64x64 image show what these words say? It scores what emoji-sd draws, and gives
features of images, where no CLIP or Inception weights are at hand. It knows emoji, colours, pairs, sizes and eyes,
and nothing of photographs. In the end it has seen all 1,922 emoji, the {unseen} that emoji-sd and emoji-dit never see
([held-out.txt](../../prompts/held-out.txt)) among them: it is the judge, and knows what they are asked for.

```python
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

model = CLIPModel.from_pretrained("assets/models/emoji-clip")
processor = CLIPProcessor.from_pretrained("assets/models/emoji-clip")
texts = ["blue dog", "red dog", "blue cat"]
inputs = processor(text=texts, images=Image.open("blue-dog.png"), padding=True, return_tensors="pt")
print(model(**inputs).logits_per_image.softmax(1))
```

| part | what |
|---|---|
| image tower | 6 layers of 192, 6 heads, patches of 8: 65 tokens; features of 192 before, 128 after the projection |
| text tower | 4 layers of 128, 4 heads, 12 tokens; 128 after the projection |
| tokenizer | emoji-sd's: words of names and keywords, and pieces of words for any other |
| all | {weights} M weights, {megabytes:.1f} MB in fp16 |

## Measured

All images scored went through emoji-sd's autoencoder with some noise on the latents, or were drawn by emoji-sd (256
names as in its own card, 50 steps, guidance 4). "Image" columns: the right image found for a caption; "caption"
columns: the right caption found for an image.

| shown | of | among | image top-1 | top-5 | caption top-1 | top-5 |
|---|---|---|---|---|---|---|
{retrieval}

"Held out" here speaks of emoji-clip's own lessons, not of that list. The first two rows are of the weights after
{held_step:,} steps, which had seen neither these emoji nor their names (only words that other names share); all other
rows are of the weights that ship. Where emoji-sd's 256 images are matched with all 1,922 names, the right one is
first for {among_top1} ({among_top1_part:.1%}), in the first five for {among_top5} ({among_top5_part:.1%}); not every
image that emoji-sd drew is right.

Never trained compositions, right caption against one with another attribute:

| composition | wrong captions | count | right against one | right against all |
|---|---|---|---|---|
{attributes}

Match (100 times the cosine) of emoji-sd's images with their own name: {match_own:.1f} on average; with another of
the 256 names: {match_other:.1f}. With noise on the images (deviation in parts of white):

| noise | match with own name | distance of features from the clean image's, in lengths of those |
|---|---|---|
{damage}

`python -m training score-clip` prints these.

"""

CLIP_TRAINING = """## Training

`python -m training emoji-clip`, from random weights, one CPU core, seed {seed}: {steps:,} steps of {batch},
{minutes:.0f} CPU minutes. {plain} of each {batch} images are emoji and {composed} are compositions, {variations}
each of {groups} subjects, so that captions differ in one attribute. There are {compositions:,} compositions; {untold}
were never trained on (one in 17 by chance, and those of `training/prompts.py`). One emoji in ten ({held}) was left
out for the first {finish:.0%} of the steps, with every composition it is part of.

Each image is shown as drawn or as emoji-sd's autoencoder decodes it (latents with noise of up to {noise}
deviations), moved, scaled, mirrored where the name allows, and at times lightly blurred, noisy, coarse or of other
contrast. Captions: names, names with keywords, keywords, shortened, misspelt, and paraphrased ("small" as "tiny",
"and" as "next to"). CLIP's symmetric cross-entropy (arXiv:2103.00020); Muon for matrices and AdamW for the rest, rates
constant after a warm-up and falling to 0 over the last {decay:.0%} of the steps, averaged weights (0.998), matrix
products in bfloat16. In training, the right one of {batch} was found {found:.1%} of the time at the end.

## Limits

It was trained on one font's emoji on white and on what emoji-sd's autoencoder makes of them: a match says nothing
about photographs, and little about styles it has not seen. A name it was not trained on is found only through words it
shares with others, as the first rows say. Matches are comparable between images of the same prompts, not with those
of another CLIP. Word order is ignored, and with it which colour belongs to which of two things; counts are not known.
"""
