"""One batch of images by diffusers' own pipeline, step by step."""

import time
from collections.abc import Callable, Generator, Sequence, Set
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ..progress import relay
from ..recipe import Sampling


if TYPE_CHECKING:
    from torch import nn

    from .loading import Loaded


TRIED = 4  # steps generated to measure the speed


@dataclass(frozen=True)
class GeneratedBatch:
    """A batch of N finished images."""

    images: list[np.ndarray]  # N of uint8 [H, W, 3]
    latents: np.ndarray  # [N, ...] float32: the finished samples, before they are decoded
    seconds: float  # of sampling, without what was done at watched steps

    @property
    def finite(self) -> list[bool]:
        """Which samples consist of numbers; the others' images are black where they do not."""
        return [bool(np.isfinite(sample).all()) for sample in self.latents]


def generate_batch(
    loaded: "Loaded",
    model: "nn.Module",
    part: list[tuple[str, int]],
    sampling: Sampling,
    watched: Set[int] = frozenset(),
) -> Generator[tuple[int, list[np.ndarray | None]], None, GeneratedBatch]:
    """Generate `part`, pairs of prompt and seed, in one pipeline call; yields each step and, if it is
    watched, images.

    An image's noise comes from its seed alone, so batches of the same size give the same images.
    Where the device has too little memory for all of them, they are generated in two halves, once; then
    OutOfMemory is raised."""
    from .memory import in_parts
    from .step_progress import yield_steps

    def generate(
        jobs: Sequence[tuple[str, int]],
    ) -> Generator[tuple[int, list[np.ndarray | None]], None, GeneratedBatch]:
        before: list[np.ndarray | None] = [None] * (0 if jobs is part else part.index(jobs[0]))
        work = yield_steps(partial(_sample, loaded, model, list(jobs), sampling, watched))
        return (
            yield from relay(work, lambda i, pixels: (i, before + pixels if pixels else pixels))
        )

    halves = [generated for _, generated in (yield from in_parts(generate, part))]
    if len(halves) == 1:
        return halves[0]
    images = [image for generated in halves for image in generated.images]
    return GeneratedBatch(
        images, np.concatenate([d.latents for d in halves]), sum(d.seconds for d in halves)
    )


def time_call(loaded: "Loaded", sampling: Sampling, batch: int) -> float:
    """Seconds of the float model for a step of `batch` images: the fastest of a few, since the
    first ones wake up.
    """
    times = [time.monotonic()]
    work = generate_batch(loaded, loaded.denoiser, [("a", seed) for seed in range(batch)], sampling)
    try:
        for _, _ in zip(work, range(min(TRIED, sampling.steps)), strict=False):
            times.append(time.monotonic())
    finally:
        work.close()
    return min(b - a for a, b in pairwise(times))


def _sample(
    loaded: "Loaded",
    model: "nn.Module",
    part: list[tuple[str, int]],
    sampling: Sampling,
    watched: Set[int],
    report: Callable[[int, list[np.ndarray]], None],
) -> GeneratedBatch:
    from . import loading

    aside = 0.0
    last: Any = None

    def on_step(i: int, t: float, latents: Any) -> None:
        nonlocal aside, last
        paused = time.monotonic()
        last = latents[
            : len(part)
        ]  # some pipelines step both halves of guidance, the images' own rows first
        report(i, loading.decode(loaded, last) if i in watched else [])
        aside += time.monotonic() - paused

    begun = time.monotonic()
    with np.errstate(invalid="ignore"):  # what is not a number is told by the latents
        made = loading.sample(
            loading.with_denoiser(loaded, model),
            loaded,
            prompts=[prompt for prompt, _ in part],
            seeds=[seed for _, seed in part],
            sampling=sampling,
            on_step=on_step,
        )
    return GeneratedBatch(made, last.float().cpu().numpy().copy(), time.monotonic() - begun - aside)


def space_evenly(steps: int, most: int) -> tuple[int, ...]:
    """At most `most` of `steps` steps, with the first and the last one."""
    return tuple(
        dict.fromkeys(np.linspace(0, steps - 1, min(most, steps)).round().astype(int).tolist())
    )
