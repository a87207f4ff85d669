"""What enters the denoiser, to learn from: calls that were saved with a capture, or recorded now."""

import dataclasses
from collections.abc import Generator
from functools import lru_cache
from typing import TYPE_CHECKING

from ..models.libraries import import_libraries, load
from ..progress import Progress, progress_timer, relay
from ..recipe import Calibration, Recipe, Sampling
from ..results import Trajectory
from ..store import captures
from .model_info import get_temporal_block


if TYPE_CHECKING:
    from torch import Tensor

MAX_CONDITIONINGS = 64  # calibration images whose prompts the time embedding is learned from


def recorded_calls(recipe: Recipe, images: int) -> Trajectory | None:
    """The denoiser calls saved with the capture, if they are of enough images to learn from."""
    folder = captures.find_capture(recipe)
    if folder is None or not (folder / "trajectory.safetensors").is_file():
        return None
    trajectory = captures.load_trajectory(folder)
    guided = (
        2 if recipe.sampling.guidance and any((half >= 0).any() for half in trajectory.half) else 1
    )
    rows = sum(
        len(half) for half, i in zip(trajectory.half, trajectory.step, strict=True) if i == 0
    )
    return trajectory if rows >= guided * images else None


def denoiser_calls(recipe: Recipe, images: int) -> Generator[Progress, None, Trajectory]:
    """The denoiser calls of the first calibration images: those saved with the capture, or
    generated now.
    """
    saved = recorded_calls(recipe, images)
    if saved is not None:
        return saved
    from ..capture.activations import calibration_images
    from ..capture.trajectories import record_trajectory
    from ..models.step_progress import yield_steps

    loaded = load(recipe.model)
    jobs = calibration_images(loaded, dataclasses.replace(recipe.calibration, samples=images))
    prompts, seeds = zip(*jobs, strict=True)
    work = yield_steps(
        lambda on_step: record_trajectory(
            loaded, prompts=prompts, seeds=seeds, sampling=recipe.sampling, on_step=on_step
        )[0]
    )
    at = progress_timer("Generate images to learn from")
    return (yield from relay(work, lambda i, *_: at(i + 1, recipe.sampling.steps)))


def conditioning(recipe: Recipe) -> "dict[str, Tensor]":
    """What enters the time embedding beside t for the calibration images; nothing where t is all."""
    block = get_temporal_block(recipe.model)
    if block is None or block.finite:
        return {}
    return _conditioning_rows(recipe.model, recipe.sampling, recipe.calibration)


@lru_cache(maxsize=8)
def _conditioning_rows(
    model: str, sampling: Sampling, calibration: Calibration
) -> "dict[str, Tensor]":
    import_libraries()
    from ..capture.activations import calibration_images
    from ..capture.conditioning import conditioning_of
    from ..models.temporal import conditioning_rows

    loaded, block = load(model), get_temporal_block(model)
    assert block is not None
    images = calibration_images(loaded, calibration)[:MAX_CONDITIONINGS]
    calls = conditioning_of(loaded, images, sampling, calibration.batch)
    return conditioning_rows(calls, block)
