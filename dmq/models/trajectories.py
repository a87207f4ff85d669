"""Runs of a denoiser through its pipeline, with what each step leaves behind."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..progress import Progress, relay
from ..recipe import Sampling


if TYPE_CHECKING:
    from torch import Tensor, nn

    from .loading import Loaded


@dataclass(frozen=True)
class SampledTrajectory:
    """One run of P images over T steps."""

    latents: np.ndarray  # [T, P, values] float32, after each step
    predicted_x0: (
        np.ndarray | None
    )  # [T, P, values] the finished sample that each answer stands for; None if unknown
    coefficients: np.ndarray  # [T] how far a step moves for each unit of error in the answer
    images: list[np.ndarray]  # P finished images, uint8 [H, W, 3]
    on_the_way: dict[
        int, list[np.ndarray]
    ]  # images at the watched steps, as predicted there if that is known


def sample_trajectory(
    loaded: "Loaded",
    model: "nn.Module",
    jobs: Sequence[tuple[str, int]],
    sampling: Sampling,
    at: Callable[[int, int], Progress],
    *,
    watched: Sequence[int] = (),
    coefficients: bool = False,
    so_far: Callable[[SampledTrajectory], Any] | None = None,
) -> Generator[Progress, None, SampledTrajectory]:
    """Generate the (prompt, seed) `jobs` in one batch with `model` as the denoiser, and keep what each
    step leaves.

    Each Progress has as its snapshot what `so_far` makes of the walk up to there, which has no
    images yet."""
    from . import loading
    from .scheduling import coefficient, predict_x0
    from .step_progress import yield_steps

    prompts, seeds = zip(*jobs, strict=True)
    predicted: list[np.ndarray | None] = []
    weights: list[float] = []
    shown: dict[int, list[np.ndarray]] = {}
    seen: list[np.ndarray] = []

    def on_output(call: "loading.SchedulerCall") -> None:
        finished = predict_x0(call)
        predicted.append(None if finished is None else _plain(finished, len(jobs)))
        weights.append(coefficient(call) if coefficients else np.nan)
        if call.i in watched and finished is not None:
            shown[call.i] = loading.decode(loaded, finished[: len(jobs)])

    def walked(images: list[np.ndarray]) -> SampledTrajectory:
        known = [one for one in predicted if one is not None]
        return SampledTrajectory(
            np.stack(seen),
            np.stack(known) if len(known) == len(predicted) else None,
            np.array(weights),
            images,
            shown,
        )

    run = yield_steps(
        lambda on_step: loading.sample(
            loading.with_denoiser(loaded, model),
            loaded,
            prompts=prompts,
            seeds=seeds,
            sampling=sampling,
            on_step=on_step,
            on_output=on_output,
        )
    )
    steps = sampling.steps

    def told(_i: int, _t: float, latents: "Tensor") -> Progress:
        seen.append(_plain(latents, len(jobs)))
        progress = at(min(len(seen), steps), steps)
        return replace(progress, snapshot=so_far(walked([]))) if so_far else progress

    images = yield from relay(run, told)
    return walked(images)


def _plain(x: "Tensor", images: int) -> np.ndarray:
    return x[:images].detach().float().cpu().flatten(1).numpy().copy()


def measure_latent_errors(made: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Squared distance over squared length of the float one, [..., P] from two [..., P, values]."""
    wrong = np.square(made.astype(np.float64) - wanted).sum(-1)
    return wrong / np.maximum(np.square(wanted.astype(np.float64)).sum(-1), 1e-30)
