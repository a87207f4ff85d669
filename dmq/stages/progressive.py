"""Setting ranges along the quantized trajectory, and measuring which steps deserve more bits
(PCR).
"""

import dataclasses
import functools
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..artifacts import store
from ..metrics.references import load_scorer
from ..models.libraries import import_libraries, load
from ..models.trajectories import measure_latent_errors, sample_trajectory
from ..progress import Progress, progress_timer, relay, relay_each
from ..recipe import Recipe, Relaxing
from ..results import ActivationStats, ProgressiveRanges, WindowEffects
from ..store import learned
from .learning import learn
from .local import errors
from .planning import learned_codes, plan, quantize
from .trajectory_ranges import (
    calibrated,
    plain,
    progressive_of,
    window_effects,
    windows_known,
    windows_of,
)


if TYPE_CHECKING:
    from torch import nn


def calibrate(recipe: Recipe, *, again: bool = False) -> Generator[Progress, None, Path | None]:
    """Set the ranges of `recipe` on the trajectory that its quantized model walks; returns where
    they are kept.

    None if `recipe` takes those of the float trajectory. Does nothing if it was done already,
    unless `again`. Denoiser calls that are finished when the generator is closed are kept: the next
    call replays them without observing."""
    question = progressive_of(recipe) if calibrated(recipe) and not again else None
    if recipe.progressive is None or question:
        return question and store.place(question)
    yield from learn(recipe)
    yield Progress("Load the model", 0, 1)
    question = progressive_of(recipe)
    yield from store.get(question, again=again, work=functools.partial(_calibrate, recipe))
    return store.place(question)


def _calibrate(
    recipe: Recipe, partial: Path, statistics: ActivationStats
) -> Generator[Progress, None, tuple[ProgressiveRanges, ActivationStats]]:
    import_libraries()
    from ..calibration.progressive import CallDone, calibrate_progressively

    start = dataclasses.replace(recipe, progressive=None)
    work = calibrate_progressively(
        load(recipe.model),
        recipe,
        plan(start),
        (statistics, errors(start)),
        learned_codes(recipe),
        learned.load_calls(partial),
    )
    at = progress_timer("Set the ranges along the quantized trajectory")

    def report(*seen: Any) -> Iterator[Progress]:
        if isinstance(seen[0], CallDone):
            learned.save_call(partial, seen[0].call, seen[0].stats, seen[0].grids)
        else:
            yield at(*seen)

    return (yield from relay_each(work, report)), statistics


def measure_windows(
    recipe: Recipe, *, again: bool = False
) -> Generator[Progress, None, WindowEffects]:
    """Generate with all steps quantized, but without rounding activations within one window; what
    differs is its effect.

    Weights stay quantized throughout, since more activation bits do not change them. Each Progress
    has the `results.WindowEffects` so far as its snapshot, once there are some. Images are the
    first calibration ones, all from the same noise. The recipe is taken without relaxing and
    progressive ranges."""
    if not again and windows_known(recipe):
        return window_effects(recipe)
    yield from learn(plain(recipe))
    yield Progress("Load the model", 0, 1)
    return (
        yield from store.get(
            windows_of(recipe), again=again, work=functools.partial(_measure_windows, recipe)
        )
    )


def _measure_windows(
    recipe: Recipe, _partial: Path, statistics: ActivationStats
) -> Generator[Progress, None, WindowEffects]:
    spec, usual = recipe.relaxing or Relaxing(), plain(recipe)
    import_libraries()
    from ..capture.activations import calibration_images
    from ..models.windows import unquantized_inside

    loaded, steps = load(recipe.model), recipe.sampling.steps
    jobs = calibration_images(loaded, dataclasses.replace(recipe.calibration, samples=spec.images))
    count = min(spec.windows, steps)
    starts = tuple(round(n * steps / count) for n in range(count))
    timesteps = statistics.timesteps
    at, total = progress_timer("Measure the windows"), (count + 2) * steps
    scorer = load_scorer(recipe.model)
    generated: list[Any] = []

    def one(model: "nn.Module") -> Generator[Progress, None, None]:
        before = len(generated) * steps
        effects = _effects(generated, starts, timesteps, [prompt for prompt, _ in jobs], scorer)
        work = sample_trajectory(
            loaded, model, jobs, recipe.sampling, lambda done, _: at(before + done, total)
        )
        generated.append(
            (yield from relay(work, lambda seen: dataclasses.replace(seen, snapshot=effects)))
        )

    yield from one(loaded.denoiser)
    yield from one(quantize(usual))
    for start, end in zip(starts, (*starts[1:], steps), strict=True):
        yield from one(unquantized_inside(quantize(usual), range(start, end)))
    return _effects(generated, starts, timesteps, [prompt for prompt, _ in jobs], scorer)


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
        text_float=matches[0],
        text_all=matches[1],
        text=np.stack([*matches[2:], *[nothing] * missing]),
        scorer=scorer.name if scorer else "",
    )
