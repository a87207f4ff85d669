"""Rounding of weights, and step sizes, learned one block after another (AdaRound, BRECQ)."""

import dataclasses
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import jsonio
from ..models.libraries import import_libraries
from ..models.libraries import load as load_model
from ..progress import Progress, progress_timer, relay
from ..results import ActivationStats, Plan, SearchResult
from ..store import folders
from ..store.artifact import compute, load, places, save
from ..store.learned import load_rounding, save_rounding
from .calls import denoiser_calls
from .model import LearnedCodes
from .questions import BlockRounding


if TYPE_CHECKING:
    from ..reconstruction.block import LearnedBlocks


@places.register(BlockRounding)
def _(question: BlockRounding, statistics: ActivationStats) -> Sequence[Path]:
    asked = jsonio.key_data(question.recipe), statistics.fingerprint, statistics.sampler
    return folders.answer_places("rounding", "blocks", *asked, statistics.timesteps)


@compute.register(BlockRounding)
def _(
    question: BlockRounding,
    partial: Path,
    statistics: ActivationStats,
    plan: Plan,
    codes: LearnedCodes,
    search: SearchResult | None = None,
) -> Generator[Progress, None, "LearnedBlocks"]:
    """A Progress after a block has all that was learned by then as its snapshot."""
    yield Progress("Load the model", 0, 1)
    import_libraries()
    from ..calibration.selection import step_counts
    from ..reconstruction.block import (
        find_left_out,
        find_trained_layers,
        join_blocks,
        reconstruct_block,
        to_arrays,
        training_model,
    )

    recipe, spec = question.recipe, question.recipe.reconstruction
    assert spec is not None
    loaded = load_model(recipe.model)
    blocks = find_trained_layers(loaded.denoiser, loaded.adapter, plan, spec)
    learned = {name: _load_part(partial, name) for name in blocks if (partial / name).is_dir()}
    finished = join_blocks(list(learned.values()))
    counts = step_counts(recipe.calibration_steps, len(plan.timesteps), search)
    trajectory = yield from denoiser_calls(recipe, spec.images)
    start = codes.codes | dict(finished.codes)
    training = training_model(loaded.denoiser, loaded.adapter, plan, start, finished.sizes)
    apart = find_left_out(loaded.denoiser, loaded.adapter, plan, spec)
    each = spec.iterations + spec.steps
    total = len(blocks) * each
    at = progress_timer("Reconstruct the blocks", len(learned) * each)
    for name, formats in blocks.items():
        if any(part.note for part in learned.values()):
            break  # what comes behind a failure would be learned from its answers
        if name in learned:
            continue
        work = reconstruct_block(
            loaded.denoiser, training, name, formats, spec, trajectory, counts, apart
        )
        before = len(learned) * each
        learned[name] = yield from relay(
            work, lambda done, _, before=before: at(before + done, total)
        )
        save_rounding(partial / name, *to_arrays(learned[name]))
        by_now = join_blocks([learned[name] for name in blocks if name in learned])
        yield dataclasses.replace(at(len(learned) * each, total), snapshot=by_now)
    return join_blocks([learned[name] for name in blocks if name in learned])


def load_finished(question: BlockRounding, partial: Path) -> "LearnedBlocks | None":
    """What an interrupted call left in `partial`; None if there is nothing."""
    import_libraries()
    from ..reconstruction.block import join_blocks

    loaded = load_model(question.recipe.model)
    names = [name for name in loaded.adapter.blocks(loaded.denoiser) if (partial / name).is_dir()]
    return join_blocks([_load_part(partial, name) for name in names]) if names else None


def _load_part(partial: Path, name: str) -> "LearnedBlocks":
    from ..reconstruction.block import from_arrays

    return from_arrays(*load_rounding(partial / name))


@save.register(BlockRounding)
def _(question: BlockRounding, folder: Path, value: "LearnedBlocks") -> None:
    from ..reconstruction.block import to_arrays

    save_rounding(folder, *to_arrays(value))


@load.register(BlockRounding)
def _(question: BlockRounding, folder: Path) -> "LearnedBlocks":
    import_libraries()
    from ..reconstruction.block import from_arrays

    return from_arrays(*load_rounding(folder))
