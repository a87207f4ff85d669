"""Learning the rounding of blocks, one after another; what is finished is kept when it is
interrupted.
"""

import dataclasses
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from ..models.libraries import import_libraries, load
from ..progress import Progress, progress_timer, relay
from ..recipe import Recipe
from ..store import folders
from ..store.learned import load_rounding, save_rounding
from .blocks_kept import blocks_folder, blocks_result, reconstructed
from .planning import plan
from .searches import denoiser_calls, search_result
from .time_embedding import learn_temporal, learned_rounding
from .trajectory_ranges import plain
from .weights_kept import learned_weights
from .weights_learned import learn_weights


if TYPE_CHECKING:
    from ..reconstruction.block import LearnedBlocks


def reconstruct(recipe: Recipe, *, again: bool = False) -> Generator[Progress, None, Path | None]:
    """Learn the rounding of the blocks, after all other codes; returns the folder where it is kept.

    None if `recipe` needs none. Does nothing if it was learned already, unless `again`. Blocks that
    are finished when the generator is closed are kept: the next call goes on behind them. A
    Progress after a block has all that was learned by then as its snapshot, `blocks_result` tells
    what was found."""
    if recipe.reconstruction is None:
        return None
    yield from learn_weights(recipe)
    yield from learn_temporal(recipe)
    yield Progress("Load the model", 0, 1)
    folder = blocks_folder(recipe)
    if folder.is_dir() and not again:
        return folder
    folder, unfinished = (
        blocks_folder(recipe, own=True),
        _unfinished(recipe),
    )  # never where those are that ship
    if again:
        folders.discard(unfinished)
    learned = yield from _reconstruct(recipe, unfinished)
    from ..reconstruction.block import to_arrays

    save_rounding(folder, *to_arrays(learned))
    folders.discard(unfinished)
    return folder


def blocks_so_far(recipe: Recipe) -> "LearnedBlocks | None":
    """What there is of the rounding of the blocks, finished or interrupted; None if there is
    nothing yet.
    """
    import_libraries()
    from ..reconstruction.block import from_arrays, joined

    if recipe.reconstruction is None or reconstructed(recipe):
        return blocks_result(recipe)
    kept = _unfinished(recipe)
    names = [
        name
        for name in load(recipe.model).adapter.blocks(load(recipe.model).denoiser)
        if (kept / name).is_dir()
    ]
    found = [from_arrays(*load_rounding(kept / name)) for name in names]
    return joined(found) if found else None


def _unfinished(recipe: Recipe) -> Path:
    """Where finished blocks are kept until all are."""
    folder = blocks_folder(recipe, own=True)
    return folder.with_name(f"{folder.name}-blocks")


def _reconstruct(recipe: Recipe, kept: Path) -> Generator[Progress, None, "LearnedBlocks"]:
    """Learn one block after another, each saved in a folder of `kept`; those that are there are
    not learned again.
    """
    from ..calibration.selection import step_counts

    import_libraries()
    from ..reconstruction.block import (
        from_arrays,
        joined,
        left_out,
        reconstruct_block,
        to_arrays,
        trained_layers,
        training_model,
    )

    loaded, spec = load(recipe.model), recipe.reconstruction
    # Without what was learned before, were it learned already: step sizes would start from there.
    made = plan(dataclasses.replace(plain(recipe), reconstruction=None))
    blocks = trained_layers(loaded.denoiser, loaded.adapter, made, spec)
    found = {
        name: from_arrays(*load_rounding(kept / name)) for name in blocks if (kept / name).is_dir()
    }
    time_embedding = learned_rounding(recipe)
    finished = joined(list(found.values()))
    codes = (
        learned_weights(recipe) | (time_embedding.codes if time_embedding else {}) | finished.codes
    )
    counts = step_counts(
        recipe.calibration_steps, len(made.timesteps), lambda: search_result(recipe)
    )
    trajectory = yield from denoiser_calls(recipe, spec.images)
    quantized_model = training_model(loaded.denoiser, loaded.adapter, made, codes, finished.sizes)
    apart = left_out(loaded.denoiser, loaded.adapter, made, spec)
    each = spec.iterations + spec.steps
    at = progress_timer("Reconstruct the blocks", len(found) * each)
    for name, formats in blocks.items():
        if any(part.note for part in found.values()):
            break  # what comes behind a failure would be learned from its answers
        if name in found:
            continue
        work = reconstruct_block(
            loaded.denoiser, quantized_model, name, formats, spec, trajectory, counts, apart
        )
        before = len(found) * each
        found[name] = yield from relay(
            work, lambda done, _, before=before: at(before + done, len(blocks) * each)
        )
        save_rounding(kept / name, *to_arrays(found[name]))
        made_by_now = joined([found[name] for name in blocks if name in found])
        progress = at(len(found) * each, len(blocks) * each)
        yield dataclasses.replace(progress, snapshot=made_by_now)
    return joined([found[name] for name in blocks if name in found])
