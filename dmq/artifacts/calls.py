"""Denoiser calls to learn from: those that were saved with a capture, or recorded now."""

import dataclasses
from collections.abc import Generator

from ..models.libraries import load
from ..progress import Progress, progress_timer, relay
from ..recipe import Recipe
from ..results import Trajectory
from ..store import captures


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
    from ..models.stepping import stepping

    loaded = load(recipe.model)
    jobs = calibration_images(loaded, dataclasses.replace(recipe.calibration, samples=images))
    prompts, seeds = zip(*jobs, strict=True)
    work = stepping(
        lambda on_step: record_trajectory(
            loaded, prompts=prompts, seeds=seeds, sampling=recipe.sampling, on_step=on_step
        )[0]
    )
    at = progress_timer("Generate images to learn from")
    return (yield from relay(work, lambda i, *_: at(i + 1, recipe.sampling.steps)))
