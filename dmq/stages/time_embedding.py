"""The time embedding: learning its rounding, and measuring what a recipe does to its features."""

import dataclasses
from collections.abc import Generator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DmqError
from ..models.libraries import import_libraries, load
from ..progress import Progress, progress_timer, relay
from ..recipe import FLOAT, Calibration, NoCache, Recipe, Sampling, Temporal, Tiar, Uniform
from ..results import Plan, TemporalErrors
from ..store import captures
from ..store.learned import load_rounding, rounding_folder, save_rounding
from .blocks_kept import blocks_changed, blocks_result
from .known import info, info_for, statistics
from .local import errors
from .mixing import resolved
from .trajectory_ranges import plain
from .weights_kept import has_learned_weights, learned_weights, weights_changed


if TYPE_CHECKING:
    from torch import Tensor

    from ..quantizers.weights import QuantizedWeight
    from ..reconstruction.temporal import LearnedRounding


CONDITIONINGS = (
    64  # calibration images whose prompts the time embedding is learned from, where they enter
)


def temporal_learned(recipe: Recipe) -> bool:
    """Has the rounding of the time embedding been learned, or is there none to be learned?"""
    folder = _rounding_folder(recipe)
    return folder is None or folder.is_dir()


def learn_temporal(
    recipe: Recipe, *, again: bool = False
) -> Generator[Progress, None, Path | None]:
    """Learn the rounding of the time embedding (TIAR); returns the folder where it is kept, None if
    `recipe` needs none.

    Does nothing if it was learned already, unless `again`. Needs no images; where more than t
    enters, the prompts, classes or sizes of the calibration images. Closing the generator leaves
    no trace."""
    if not learns_rounding(recipe):
        return None
    yield Progress("Load the model", 0, 1)
    folder = _rounding_folder(recipe)
    if folder is None or (folder.is_dir() and not again):
        return folder
    import_libraries()
    from ..models.temporal import every_pair
    from ..reconstruction.temporal import learn_rounding, to_arrays

    loaded, spec = load(recipe.model), recipe.temporal.rounding
    t, given = every_pair(statistics(recipe).timesteps, conditioning(recipe))
    block, formats = info_for(recipe).temporal, _temporal_formats(recipe)
    at = progress_timer("Learn the rounding of the time embedding")
    work = learn_rounding(loaded.denoiser, loaded.adapter, block, formats, spec, t, given)
    learned = yield from relay(work, at)
    folder = _rounding_folder(recipe, own=True)  # never where those are that ship
    save_rounding(folder, *to_arrays(learned))
    return folder


def temporal_errors(recipe: Recipe) -> TemporalErrors:
    """What `recipe` does to the temporal features, beside treating the time embedding as all other
    layers.

    Runs the time embedding alone, which takes seconds. Raises DmqError if the model has no temporal
    block that dmq knows, or if its rounding was not learned yet, by itself or with the blocks."""
    if not _learned_with_blocks(recipe):
        recipe = dataclasses.replace(
            recipe, reconstruction=None
        )  # which leaves the time embedding alone
    recipe = plain(recipe)
    changes = rounding_changed(recipe), blocks_changed(recipe), weights_changed(recipe)
    return _temporal_errors(dataclasses.replace(recipe, name=""), changes)


@lru_cache(maxsize=8)
def _temporal_errors(recipe: Recipe, _changes: tuple) -> TemporalErrors:
    import_libraries()
    from ..metrics.temporal import measure_time_embedding

    codes, losses, note = time_codes(recipe)
    spec = recipe.temporal or Temporal()
    recipe = dataclasses.replace(recipe, temporal=spec, reconstruction=None)
    before, computed = (uncached_plan(recipe, each) for each in (Temporal(), spec))
    computed = dataclasses.replace(
        computed, temporal=dataclasses.replace(computed.temporal, spec=spec)
    )
    loaded = load(recipe.model)
    return measure_time_embedding(
        loaded.denoiser,
        loaded.adapter,
        before,
        computed,
        statistics(recipe),
        conditioning(recipe),
        codes,
        losses,
        note,
    )


def time_codes(recipe: Recipe) -> "tuple[dict[str, QuantizedWeight], np.ndarray, str]":
    """Codes learned for the time embedding among others, the loss of each iteration if learned alone,
    and a note.

    Those that are learned from inputs are there once they have been learned.
    """
    blocks = blocks_result(recipe) if _learned_with_blocks(recipe) else None
    learned = blocks or learned_rounding(recipe)
    losses = np.zeros(0, np.float32) if blocks or not learned else learned.losses
    codes = learned_weights(recipe) if has_learned_weights(recipe) else {}
    return (codes | learned.codes, losses, learned.note) if learned else (codes, losses, "")


def _learned_with_blocks(recipe: Recipe) -> bool:
    """Is the rounding of the time embedding learned with the blocks instead of by itself?"""
    return recipe.reconstruction is not None and recipe.reconstruction.time


def uncached_plan(recipe: Recipe, spec: Temporal) -> Plan:
    """The plan of `recipe` with the time embedding kept as by `spec`, but without a cache.

    Ranges along the quantized trajectory and relaxed steps come later: what enters the time embedding is
    the same there."""
    from ..quantizers.plan import make_plan

    own = dataclasses.replace(spec, cache=NoCache())
    recipe = dataclasses.replace(plain(recipe), temporal=own, reconstruction=None)
    return make_plan(info_for(recipe), resolved(recipe), statistics(recipe), errors(recipe))


def learns_rounding(recipe: Recipe) -> bool:
    """Is there rounding to be learned? Not if a cache takes the place of everything."""
    spec = recipe.temporal
    if spec is None or not isinstance(spec.rounding, Tiar):
        return False
    return isinstance(spec.cache, NoCache) or spec.cache.selection != "none"


def _temporal_formats(recipe: Recipe) -> dict[str, Any]:
    """The weight format of every layer of the time embedding that is on a uniform grid: others keep
    their own codes.
    """
    from ..quantizers.resolve import resolve, temporal_block

    known = info_for(recipe)
    inside = set(temporal_block(known).layers)
    return {
        name: row.weights
        for name, row in resolve(known, resolved(recipe)).items()
        if name in inside and row.weights.bits < FLOAT and isinstance(row.weights.format, Uniform)
    }


def _rounding_folder(recipe: Recipe, *, own: bool = False) -> Path | None:
    """Where the learned rounding of `recipe` is or will be; None if nothing is to be learned."""
    if not learns_rounding(recipe):
        return None
    formats = tuple(_temporal_formats(recipe).items())
    if not formats:
        return None
    stats, block = statistics(recipe), info_for(recipe).temporal
    # The conditioning that is learned from comes from the capture.
    source = "" if block.finite else captures.capture_key(recipe)
    asked = stats.fingerprint, stats.timesteps, formats, recipe.temporal.rounding, source
    return rounding_folder(*asked, own=own)


def rounding_changed(recipe: Recipe) -> int | None:
    folder = _rounding_folder(recipe)
    file = folder and folder / "rounding.safetensors"
    return file.stat().st_mtime_ns if file and file.is_file() else None


def learned_rounding(recipe: Recipe) -> "LearnedRounding | None":
    """What `learn_temporal` found; None if there is nothing to be learned.

    Raises DmqError if it did not run yet.
    """
    from ..reconstruction.temporal import from_arrays

    folder = _rounding_folder(recipe)
    if folder is None:
        return None
    if not folder.is_dir():
        raise DmqError(
            "recipe.temporal.rounding: the rounding of the time embedding was not learned yet; press "
            "Learn, or run "
            "`dmq run` with this recipe."
        )
    return from_arrays(*load_rounding(folder))


def conditioning(recipe: Recipe) -> "dict[str, Tensor]":
    """What enters the time embedding beside t for the calibration images; nothing where t is all."""
    block = info_for(recipe).temporal
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

    loaded = load(model)
    images = calibration_images(loaded, calibration)[:CONDITIONINGS]
    calls = conditioning_of(loaded, images, sampling, calibration.batch)
    return conditioning_rows(calls, info(model).temporal)
