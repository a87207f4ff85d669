"""One batch of pictures by diffusers' own pipeline, step by step."""

import time
from collections.abc import Callable, Generator, Set
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..recipe import Sampling


if TYPE_CHECKING:
    from torch import nn

    from ..models.loading import Loaded


@dataclass(frozen=True)
class Drawn:
    """A batch of N finished pictures."""

    pictures: list[np.ndarray]  # N of uint8 [H, W, 3]
    latents: np.ndarray  # [N, ...] float32: the finished samples, before they are decoded
    seconds: float  # of sampling, without what was done at watched steps

    @property
    def finite(self) -> list[bool]:
        """Which samples consist of numbers; the others' pictures are black where they do not."""
        return [bool(np.isfinite(sample).all()) for sample in self.latents]


def draw_batch(
    loaded: "Loaded",
    model: "nn.Module",
    part: list[tuple[str, int]],
    sampling: Sampling,
    watched: Set[int] = frozenset(),
) -> Generator[tuple[int, list[np.ndarray]], None, Drawn]:
    """Draw `part`, pairs of prompt and seed, in one pipeline call; yields each step and, if it is watched, pictures.

    A picture's noise comes from its seed alone, so batches of the same size give the same pictures.
    """
    from ..models.stepping import stepping

    return (yield from stepping(partial(_sample, loaded, model, part, sampling, watched)))


def _sample(
    loaded: "Loaded",
    model: "nn.Module",
    part: list[tuple[str, int]],
    sampling: Sampling,
    watched: Set[int],
    report: Callable[[int, list[np.ndarray]], None],
) -> Drawn:
    from ..models import loading

    aside, last = 0.0, None

    def on_step(i: int, t: float, latents: Any) -> None:
        nonlocal aside, last
        paused = time.monotonic()
        last = latents[: len(part)]  # some pipelines step both halves of guidance, the pictures' own rows first
        report(i, loading.decode(loaded, last) if i in watched else [])
        aside += time.monotonic() - paused

    begun = time.monotonic()
    with np.errstate(invalid="ignore"):  # what is not a number is told by the latents
        made = loading.sample(
            loading.with_denoiser(loaded, model), loaded, prompts=[prompt for prompt, _ in part],
            seeds=[seed for _, seed in part], sampling=sampling, on_step=on_step,
        )  # fmt: skip
    return Drawn(made, last.float().cpu().numpy().copy(), time.monotonic() - begun - aside)
