"""What it costs to capture: plain sampling, capturing without and with attention operands, in turn,
in one run.

    python -m bench.capture [--models emoji-sd sd-1.5 …] [--steps 10] [--repeats 5] [--side 512] [--processor]

The embedded models generate sixteen images in two batches: one after the other on all threads
plainly, side by side where a capture does so. `sd-1.5` is a U-Net of Stable Diffusion 1.5's size,
860 million random weights, which takes 4 GB: one image with guidance (two rows) in a single step.
Time counts from the first call of a denoiser to the scheduler's end of the last step, so that a
text encoder does not, nor the last VAE. The rows say seconds a step of a batch (median), ratios to
plain sampling of the same round (median), and how much memory the process had held at most after
each of them ran the first time, in this order. With `--processor` seconds are the processor's, of
all threads: other work on the machine hardly moves them, so with OMP_NUM_THREADS=1 they tell the
ratio on a machine that is not quiet."""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from bench.memory import BLOCK, peak
from dmq.capture.activations import SUBSET, calibration_images, capture_activations
from dmq.models.loading import Loaded, describe, is_embedded, load, sample
from dmq.models.published import build_published
from dmq.models.step_progress import yield_steps
from dmq.models.tiny import calm, letters
from dmq.recipe import EMBEDDED, Calibration, Sampling


SD = "sd-1.5"
WAYS = ("plain", "layers", "attention")


def random_weights(model: nn.Module) -> nn.Module:
    """`model` from the meta device on the CPU, with weights whose answers stay of the size of
    what comes in.
    """
    model = model.to_empty(device="cpu")
    block = torch.randn(BLOCK, generator=torch.Generator().manual_seed(0))
    for p in model.parameters():
        if p.ndim < 2:
            p.zero_()
            continue
        count = p.numel()
        spread = (
            block * p[0].numel() ** -0.5
        )  # repeated: making billions would take longer than all the rest
        for start in range(0, count, BLOCK):
            p.view(-1)[start : start + BLOCK] = spread[: count - start]
    for module in model.modules():
        if isinstance(module, (nn.GroupNorm, nn.LayerNorm)) and module.weight is not None:
            nn.init.ones_(module.weight)
    return model


def stable_diffusion() -> StableDiffusionPipeline:
    """A pipeline around a U-Net of Stable Diffusion 1.5's size; text encoder and VAE are tiny."""
    text = CLIPTextConfig(
        vocab_size=64,
        hidden_size=768,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    vae = AutoencoderKL(
        block_out_channels=(4,) * 4,
        norm_num_groups=2,
        layers_per_block=1,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    tokenizer = letters()
    tokenizer.model_max_length = text.max_position_embeddings
    return calm(
        StableDiffusionPipeline(
            vae=vae,
            text_encoder=CLIPTextModel(text),
            tokenizer=tokenizer,
            unet=random_weights(build_published(SD)),
            scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def step_time(run: Iterator[Any], begun: list[float], clock: Callable[[], float]) -> float:
    """Mean seconds of a step of a run, whose denoiser calls note in `begun` when they begin."""
    begun.clear()
    ends = [clock() for _ in run]
    return (ends[-1] - begun[0]) / len(ends)


def plainly(loaded: Loaded, sampling: Sampling, calibration: Calibration) -> Iterator[Any]:
    """The steps of the same images without a capture, one batch after the other."""
    images, size = calibration_images(loaded, calibration), calibration.batch
    for start in range(0, len(images), size):
        prompts, seeds = zip(*images[start : start + size], strict=True)
        draw = partial(sample, loaded.pipe, loaded, prompts=prompts, seeds=seeds, sampling=sampling)
        yield from yield_steps(
            lambda on_step, draw=draw: draw(on_step=on_step)
        )  # in a thread, as a capture runs


def ways(
    loaded: Loaded, sampling: Sampling, calibration: Calibration, subset: int
) -> dict[str, Callable[[], Any]]:
    """What starts each kind of run; all of them report their steps."""
    watch = partial(capture_activations, loaded, sampling, calibration, subset=subset)
    plain = partial(plainly, loaded, sampling, calibration)
    return dict(zip(WAYS, (plain, partial(watch, attention=False), watch), strict=True))


def measure(
    runs: dict[str, Callable[[], Any]], begun: list[float], repeats: int, clock: Callable[[], float]
) -> None:
    """Run all in turn, once to warm up and `repeats` times to be counted; print the table's
    rows.
    """
    most = {}
    for name, run in runs.items():
        took = step_time(run(), begun, clock)
        most[name] = peak() / 1e9
        print(f"  {name:10} {took:7.3f} s a step to warm up", flush=True)
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for n in range(repeats):
        for name in list(runs)[
            :: 1 if n % 2 else -1
        ]:  # who comes first finds other things in the cache
            spent[name].append(step_time(runs[name](), begun, clock))
    for name, seconds in spent.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, spent["plain"], strict=True))
        print(
            f"  {name:10} {statistics.median(seconds):7.3f} s a step   ratio {ratio:4.2f}   "
            f"{most[name]:5.2f} GB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=[*EMBEDDED, SD], choices=[*EMBEDDED, SD])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--subset", type=int, default=SUBSET)
    parser.add_argument("--side", type=int, default=512, help=f"pixels of {SD}'s images")
    parser.add_argument(
        "--processor", action="store_true", help="count the processor's seconds, not the clock's"
    )
    options = parser.parse_args()
    clock = time.process_time if options.processor else time.perf_counter
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.steps} steps")
    for name in options.models:
        begun = time.perf_counter()
        if name == SD:
            pipe = stable_diffusion()
            made = time.perf_counter()
            loaded = describe(SD, pipe)
            print(
                f"{SD}: one image of {options.side} pixels; described in "
                f"{time.perf_counter() - made:.1f} s"
            )
            sampling, calibration = (
                Sampling(steps=1, size=options.side),
                Calibration(samples=1, batch=1),
            )
        elif name in is_embedded():
            loaded = load(name)
            print(f"{name}: two batches of 8; loaded in {time.perf_counter() - begun:.1f} s")
            sampling = Sampling(steps=options.steps, guidance=EMBEDDED[name].guidance)
            calibration = Calibration(samples=16, batch=8)
        else:
            sys.exit(f"{name} is not there: assets/models/{name}")
        begun: list[float] = []
        # A capture's borrowed denoiser borrows this hook too.
        with loaded.denoiser.register_forward_pre_hook(
            lambda *_, begun=begun: begun.append(clock())
        ):
            measure(
                ways(loaded, sampling, calibration, options.subset), begun, options.repeats, clock
            )


if __name__ == "__main__":
    main()
