"""What leaving each window of steps in float does to images (PCR)."""

import dataclasses
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import jsonio
from ..metrics.references import load_scorer
from ..models.libraries import import_libraries
from ..models.libraries import load as load_model
from ..models.trajectories import measure_latent_errors, sample_trajectory
from ..progress import Progress, progress_timer, relay
from ..results import ActivationStats, WindowEffects
from ..store import folders
from ..store.artifact import compute, places
from .questions import Windows


if TYPE_CHECKING:
    from torch import nn


@places.register(Windows)
def _(question: Windows, statistics: ActivationStats) -> Sequence[Path]:
    run = statistics.fingerprint, statistics.sampler, statistics.timesteps
    asked = jsonio.key_data(question.recipe), *run
    return folders.answer_places("windows", *asked, question.windows, question.images)


@compute.register(Windows)
def _(
    question: Windows, partial: Path, statistics: ActivationStats, model: "nn.Module"
) -> Generator[Progress, None, WindowEffects]:
    """Generate with all steps quantized, but without rounding activations within one window; what
    differs is its effect.

    Weights stay quantized throughout, since more activation bits do not change them. Each Progress
    has the `results.WindowEffects` so far as its snapshot, once there are some. Images are the
    first calibration ones, all from the same noise."""
    yield Progress("Load the model", 0, 1)
    import_libraries()
    from ..capture.activations import calibration_images
    from ..models.borrow import borrow
    from ..models.windows import leave_window_float

    recipe = question.recipe
    loaded, steps = load_model(recipe.model), recipe.sampling.steps
    calibration = dataclasses.replace(recipe.calibration, samples=question.images)
    jobs = calibration_images(loaded, calibration)
    count = min(question.windows, steps)
    starts = tuple(round(n * steps / count) for n in range(count))
    at, total = progress_timer("Measure the windows"), (count + 2) * steps
    scorer = load_scorer(recipe.model)
    generated: list[Any] = []

    def measured() -> WindowEffects | None:
        prompts = [prompt for prompt, _ in jobs]
        return _effects(generated, starts, statistics.timesteps, prompts, scorer)

    def generate(denoiser: "nn.Module") -> Generator[Progress, None, None]:
        before, effects = len(generated) * steps, measured()
        work = sample_trajectory(
            loaded, denoiser, jobs, recipe.sampling, lambda done, _: at(before + done, total)
        )
        generated.append(
            (yield from relay(work, lambda seen: dataclasses.replace(seen, snapshot=effects)))
        )

    yield from generate(loaded.denoiser)
    yield from generate(borrow(model))
    for start, end in zip(starts, (*starts[1:], steps), strict=True):
        yield from generate(leave_window_float(borrow(model), range(start, end)))
    effects = measured()
    assert effects is not None
    return effects


def _effects(
    generated: list[Any],
    starts: tuple[int, ...],
    timesteps: tuple[float, ...],
    prompts: list[str],
    scorer: Any,
) -> WindowEffects | None:
    """The effects of the windows generated so far: walks of the float model, the quantized one, then
    one a window.
    """
    if len(generated) < 3:
        return None
    final = [one.latents[-1] for one in generated]
    errors_ = [measure_latent_errors(one, final[0]) for one in final[1:]]
    nothing = np.full(len(prompts), np.nan)
    matches = [scorer.match(one.images, prompts) if scorer else nothing for one in generated]
    missing = len(starts) - len(generated) + 2
    return WindowEffects(
        timesteps=timesteps,
        starts=starts,
        fidelity_all=errors_[0],
        fidelity=np.stack([*errors_[1:], *[nothing] * missing]),
        clip_score_float=matches[0],
        clip_score_all=matches[1],
        clip_score=np.stack([*matches[2:], *[nothing] * missing]),
        scorer=scorer.name if scorer else "",
    )
