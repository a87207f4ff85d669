"""The learned rounding of blocks as it is kept in the run folder."""

import dataclasses
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from .. import jsonio
from ..errors import DmqError
from ..models.libraries import import_libraries
from ..recipe import Recipe
from ..store import learned
from .known import statistics
from .trajectory_ranges import plain


if TYPE_CHECKING:
    from ..reconstruction.block import LearnedBlocks


def reconstructed(recipe: Recipe) -> bool:
    """Has the rounding of the blocks been learned, or is there none to be learned?"""
    folder = blocks_folder(recipe)
    return folder is None or folder.is_dir()


def blocks_result(recipe: Recipe) -> "LearnedBlocks | None":
    """What `reconstruct` found; None if there is nothing to be learned.

    Raises DmqError if it did not run yet.
    """
    folder = blocks_folder(recipe)
    if folder is None:
        return None
    if not folder.is_dir():
        raise DmqError(
            "recipe.reconstruction: the rounding of the blocks was not learned yet; press Learn, "
            "or run `dmq reconstruct` or `dmq run` with this recipe."
        )
    return _load_blocks(folder, blocks_changed(recipe))


@lru_cache(maxsize=4)
def _load_blocks(folder: Path, search_changed: int) -> "LearnedBlocks":
    import_libraries()
    from ..reconstruction.block import from_arrays

    return from_arrays(*learned.load_rounding(folder))


def blocks_folder(recipe: Recipe, *, own: bool = False) -> Path | None:
    """Where the learned rounding of `recipe`'s blocks is or will be; None if none is to be
    learned.
    """
    if recipe.reconstruction is None:
        return None
    # Inputs come from the whole quantized model, so all that the recipe says matters, but for what
    # comes later: relaxed steps and ranges along the quantized trajectory. Fields with their
    # defaults are left out of the key, so that what was learned is found again when recipes have
    # more fields.
    asked = jsonio.key_data(dataclasses.replace(plain(recipe), name="", unknown_timestep="error"))
    stats = statistics(recipe)
    return learned.rounding_folder(
        "blocks", asked, stats.fingerprint, stats.sampler, stats.timesteps, own=own
    )


def blocks_changed(recipe: Recipe) -> int | None:
    folder = blocks_folder(recipe)
    file = folder and folder / "rounding.safetensors"
    return file.stat().st_mtime_ns if file and file.is_file() else None
