"""How far the latents drift when the time embedding alone is quantized."""

import dataclasses
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..artifacts.of_recipe import keep_to_float_trajectory
from ..models.libraries import import_libraries, load
from ..models.trajectories import sample_trajectory
from ..progress import Progress, progress_timer
from ..recipe import NoCache, Recipe, Temporal
from ..workflow.answers import get_plan, get_time_codes, get_time_errors


if TYPE_CHECKING:
    from torch import nn

    from ..models.loading import Loaded


def measure_drift(
    recipe: Recipe, *, images: int = 2
) -> Generator[Progress, None, dict[str, np.ndarray]]:
    """1 - cosine between the latents of runs with the time embedding alone quantized and float ones,
    after each step [T].

    Mean over the first calibration `images`, all from the same noise. "before" treats the time
    path as all other layers, "after" as `recipe` says. Raises DmqError where `temporal_errors`
    does."""
    get_time_errors(recipe)  # what is missing is said before anything is generated
    yield Progress("Load the model", 0, 1)
    import_libraries()
    from ..capture.activations import calibration_images

    loaded = load(recipe.model)
    jobs = calibration_images(loaded, dataclasses.replace(recipe.calibration, samples=images))
    models = {"float": loaded.denoiser} | dict(_time_embeddings(loaded, recipe))
    generated = {}
    for name, model in models.items():
        made = yield from sample_trajectory(
            loaded, model, jobs, recipe.sampling, progress_timer(f"Generate {name}")
        )
        generated[name] = made.latents.astype(np.float64)
    wanted = generated.pop("float")
    return {name: _cosine_errors(made, wanted) for name, made in generated.items()}


def _time_embeddings(loaded: "Loaded", recipe: Recipe) -> Iterator[tuple[str, "nn.Module"]]:
    """Models whose time embedding alone is quantized: as all other layers, and as the recipe says if
    it says anything.
    """
    from ..quantizers.apply import quantize_model
    from ..quantizers.temporal import time_embedding_only

    alone = time_embedding_only(get_plan(_without_cache(recipe, Temporal())))
    yield "before", quantize_model(loaded.denoiser, alone, loaded.adapter)
    codes = get_time_codes(recipe)
    if recipe.temporal is not None:
        whole = get_plan(keep_to_float_trajectory(recipe))
        alone = dataclasses.replace(time_embedding_only(whole), temporal=whole.temporal)
    if recipe.temporal is not None or codes:
        yield "after", quantize_model(loaded.denoiser, alone, loaded.adapter, codes)


def _without_cache(recipe: Recipe, spec: Temporal) -> Recipe:
    """`recipe` with its time embedding kept as `spec` says, without a cache or what comes later."""
    spec = dataclasses.replace(spec, cache=NoCache())
    recipe = dataclasses.replace(recipe, temporal=spec, reconstruction=None)
    return keep_to_float_trajectory(recipe)


def _cosine_errors(made: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Mean over images of 1 - cosine, [T, images, values] twice to [T]."""
    lengths = np.linalg.norm(made, axis=2) * np.linalg.norm(wanted, axis=2)
    return (1 - (made * wanted).sum(2) / np.maximum(lengths, 1e-30)).mean(1)
