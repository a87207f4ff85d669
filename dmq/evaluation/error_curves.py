"""How errors build up along the steps."""

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import jsonio
from ..errors import DmqError
from ..models.generation import space_evenly
from ..models.libraries import import_libraries, load
from ..models.trajectories import SampledTrajectory, measure_latent_errors, sample_trajectory
from ..progress import FLOAT_NAME, Progress, progress_timer, relay
from ..recipe import Comparison, Recipe
from ..results import OverTime
from ..store import learned
from ..workflow.answers import get_plan, get_simulated, get_statistics, trajectory_key
from ..workflow.steps import carry_out
from .checks import check_sampling, check_together


MAX_STRIP_IMAGES = 8  # images of the strip


def measure_error_curves(
    comparison: Comparison, recipes: tuple[Recipe, ...], *, again: bool = False
) -> Generator[Progress, None, OverTime]:
    """Generate the comparison with the float model and each recipe from the same noise, and measure
    every step.

    Accumulated errors are those of the latents on each model's own trajectory; isolated ones are
    those of the noise prediction on the float model's. Each Progress has the `results.OverTime` so
    far as its snapshot, once there is a recipe in it. A question that was answered before is
    answered from what was kept, unless `again`. Raises DmqError for recipes that cannot be compared
    or do not fit the comparison's sampling."""
    check_together(recipes)
    if not again and (kept := find_error_curves(comparison, recipes)):
        return kept
    for recipe in recipes:
        check_sampling(recipe, comparison.sampling)
        yield from carry_out(recipe)
    yield Progress("Load the model", 0, 1)
    import_libraries()
    from ..capture.replay import noise_errors
    from ..capture.trajectories import TrajectoryRecorder
    from ..models.borrow import borrow

    loaded = load(recipes[0].model)
    jobs = [(prompt, seed) for prompt in comparison.prompts for seed in comparison.seeds]
    watched = space_evenly(comparison.sampling.steps, MAX_STRIP_IMAGES)
    calls = TrajectoryRecorder(loaded.adapter, len(jobs))
    calls.next_batch(len(jobs))
    recorded = borrow(loaded.denoiser)
    recorded.register_forward_hook(
        lambda m, args, kwargs, out: calls.see(args, kwargs, out), with_kwargs=True
    )
    floats = yield from sample_trajectory(
        loaded,
        recorded,
        jobs,
        comparison.sampling,
        progress_timer("Generate float"),
        watched=watched,
        coefficients=True,
    )
    trajectory = calls.finished()
    made: dict[str, tuple[SampledTrajectory, np.ndarray, float]] = {}
    timesteps = get_statistics(recipes[0]).timesteps

    def so_far(recipe: Recipe, generated: SampledTrajectory) -> OverTime:
        bits = get_plan(recipe).mean_activation_bits
        made[recipe.name] = generated, np.full(len(timesteps), np.nan), bits
        return _measure(floats, made, watched, timesteps)

    for recipe in recipes:
        model = get_simulated(recipe)
        generated = yield from sample_trajectory(
            loaded,
            model,
            jobs,
            comparison.sampling,
            progress_timer(f"Generate {recipe.name}"),
            watched=watched,
            so_far=partial(so_far, recipe),
        )
        snapshot = so_far(recipe, generated)
        at = progress_timer(f"Isolated errors of {recipe.name}")
        isolated = yield from relay(
            noise_errors(model, trajectory),
            lambda *item, at=at, snapshot=snapshot: dataclasses.replace(
                at(*item), snapshot=snapshot
            ),
        )
        made[recipe.name] = generated, isolated, made[recipe.name][2]
    answer = _measure(floats, made, watched, timesteps)
    question = {"comparison": comparison, "recipes": recipes}
    learned.save_over_time(_over_time_folder(comparison, recipes, own=True), question, answer)
    return answer


def find_error_curves(comparison: Comparison, recipes: tuple[Recipe, ...]) -> OverTime | None:
    """What `over_time` found when it was asked the same; None if it was not, or if the recipes
    are not prepared.
    """
    try:
        folder = _over_time_folder(comparison, recipes)
    except DmqError:  # something that the recipes stand on was not captured or measured yet
        return None
    if not folder.is_dir():
        return None
    found = learned.load_over_time(folder)
    names = dict(zip(found.isolated, [recipe.name for recipe in recipes], strict=True)) | {
        FLOAT_NAME: FLOAT_NAME
    }
    parts = ("accumulated", "predicted_x0", "isolated", "mean_bits", "strips")
    renamed: dict[str, Any] = {
        part: {names[who]: x for who, x in getattr(found, part).items()} for part in parts
    }
    return dataclasses.replace(found, **renamed)


def find_last_error_curves(
    recipe: Recipe,
) -> tuple[Comparison, tuple[Recipe, ...], OverTime] | None:
    """The last question that began with `recipe`, and its answer; None if there was none."""
    for question in questions(
        "over-time", recipe, comparison=Comparison, recipes=tuple[Recipe, ...]
    ):
        if found := find_error_curves(question["comparison"], question["recipes"]):
            return question["comparison"], question["recipes"], found
    return None


def questions(kind: str, recipe: Recipe, **expected: Any) -> Iterator[dict[str, Any]]:
    """Questions of a kind that begin with `recipe`, its name apart; those that cannot be read
    are passed over.
    """
    for folder in learned.answers(kind):
        try:
            question = learned.load_question(folder, **expected)
        except DmqError:
            continue
        first, *others = question["recipes"]
        if dataclasses.replace(first, name=recipe.name) == recipe:
            yield question | {"recipes": (recipe, *others)}


def _over_time_folder(
    comparison: Comparison, recipes: tuple[Recipe, ...], *, own: bool = False
) -> Path:
    asked = jsonio.key_data(comparison)
    return learned.trajectory_folder("over-time", asked, *map(trajectory_key, recipes), own=own)


def _measure(
    floats: SampledTrajectory,
    made: dict[str, tuple[SampledTrajectory, np.ndarray, float]],
    watched: Sequence[int],
    timesteps: tuple[float, ...],
) -> OverTime:
    walks = {name: own for name, (own, _, _) in made.items()}
    finished = floats.predicted_x0
    return OverTime(
        timesteps=timesteps,
        coefficients=floats.coefficients,
        accumulated={name: _errors(own.latents, floats.latents) for name, own in walks.items()},
        predicted_x0={
            name: _errors(own.predicted_x0, finished)
            for name, own in walks.items()
            if finished is not None and own.predicted_x0 is not None
        },
        isolated={name: isolated for name, (_, isolated, _) in made.items()},
        mean_bits={name: bits for name, (_, _, bits) in made.items()},
        watched=tuple(watched) if floats.on_the_way else (),
        strips={name: _strip(own) for name, own in {FLOAT_NAME: floats, **walks}.items()},
    )


def _errors(made: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """`latent_errors`, nan at steps that were not generated yet."""
    known = min(len(made), len(wanted))
    errors = np.full(wanted.shape[:2], np.nan)
    errors[:known] = measure_latent_errors(made[:known], wanted[:known])
    return errors


def _strip(generated: SampledTrajectory) -> tuple[np.ndarray, ...]:
    """The first image as predicted at the watched steps, and finished if it is."""
    seen = [images[0] for _, images in sorted(generated.on_the_way.items())]
    return (*seen, *generated.images[:1])
