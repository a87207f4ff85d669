"""Block reconstruction: the rounding of a block's weights, learned so that its output is that of
the float block.

    inputs    what the block is given inside the quantized model, on recorded denoiser calls
    targets   what the float block gives in the float model, on the same calls
    learned   AdaRound variables of the block's Linear and Conv weights; all scales and zero points stay
    then      if asked, the step sizes of its activations (`step_sizes`)

Blocks are learned one after another in forward order, each with the learned codes of those before
it in place. Activations are quantized all the while, as they are in the model that the codes are
for. Source: neighbours, "AdaRound" and "BRECQ" (without Fisher weights, as in the code for
diffusion models); tfm, "THEN reconstruct the other layers"."""

import math
import zlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as changed
from typing import Any

import numpy as np
from torch import nn

from ..errors import DmqError
from ..models.adapter import AbstractAdapter
from ..models.borrow import borrow
from ..numerics.threads import few_threads
from ..quantizers.apply import quantize_model
from ..quantizers.codes import WeightCodes, code_arrays, codes_from
from ..recipe import FLOAT, BlockReconstruction, Uniform, Weights
from ..results import Plan, Trajectory
from .recorded_inputs import Source, cut, error_of, gather_inputs
from .step_sizes import StepSizes, banks_of, size_arrays, sizes_from, with_step_sizes
from .training import Feed, RoundingTraining, StepTraining


MAX_HELD_BYTES = 2**30  # bytes of inputs and targets that are held at a time
MEASURED = 16  # batches that errors before and after are measured on
PLAIN_FIELDS = ("before", "after", "changed", "note")  # what a file keeps as plain data


@dataclass(frozen=True, kw_only=True)
class LearnedBlocks:
    """The codes that were learned for one block or several, with what they did; all by name."""

    codes: Mapping[str, WeightCodes]
    before: dict[
        str, float
    ]  # by block: squared error of its output over the output's power, nearest rounding
    after: dict[str, float]  # the same with the learned codes
    losses: dict[str, np.ndarray]  # by block: float32 [iterations], without the regulariser
    changed: dict[str, int]  # by layer: weights whose code is not the nearest one
    note: str = ""  # why it ended before its time, if it did
    stepped: dict[str, float] = field(
        default_factory=dict
    )  # by block: the error once step sizes were learned as well
    sizes: dict[str, StepSizes] = field(default_factory=dict)  # by label of the site


def find_trained_layers(
    model: nn.Module, adapter: AbstractAdapter, plan: Plan, spec: BlockReconstruction
) -> dict[str, dict[str, Weights]]:
    """For every block in forward order that has any: the layers whose rounding is learned, with
    their formats.

    Left out are layers whose weights are in float or on no uniform grid (those keep their format's
    own codes), layers that a cache replaces, the first and the last layer, what lies in no block,
    and the layers of the time embedding unless `spec.time`."""
    apart = find_left_out(model, adapter, plan, spec)
    rows = [
        row
        for row in plan.layers
        if row.weights.bits < FLOAT
        and isinstance(row.weights.format, Uniform)
        and not row.dropped
        and row.layer.role not in ("first", "last")
        and row.layer.name not in apart
    ]
    found = {
        b: {r.layer.name: r.weights for r in rows if r.layer.block == b}
        for b in adapter.blocks(model)
    }
    return {block: formats for block, formats in found.items() if formats}


def find_left_out(
    model: nn.Module, adapter: AbstractAdapter, plan: Plan, spec: BlockReconstruction
) -> frozenset[str]:
    """The layers of the time embedding, unless `spec.time` says that they are learned with their
    blocks.
    """
    known = None if spec.time else adapter.temporal(model)
    if known:
        return frozenset(known.layers)
    return frozenset(
        row.layer.name for row in plan.layers if row.layer.role == "time" and not spec.time
    )


def training_model(
    model: nn.Module,
    adapter: AbstractAdapter,
    plan: Plan,
    codes: Mapping[str, WeightCodes],
    sizes: Mapping[str, StepSizes] | None = None,
) -> nn.Module:
    """The quantized model in which blocks are learned, with the `codes` of the time embedding and of
    finished blocks.

    `sizes` are the learned step sizes of finished blocks.
    """
    plan = with_step_sizes(plan, sizes or {})
    if plan.temporal is not None and plan.temporal.per_request:
        # Such a cache answers for the rows of the last whole call, and here blocks are called
        # without one. The layers that it is built from are in float in the plan, so without it the
        # features are those before their rounding.
        plan = changed(plan, temporal=changed(plan.temporal, cached=None))
    return quantize_model(model, plan, adapter, codes).requires_grad_(False)


def reconstruct_block(
    model: nn.Module,
    quantized_model: nn.Module,
    block: str,
    formats: Mapping[str, Weights],
    spec: BlockReconstruction,
    trajectory: Trajectory,
    counts: np.ndarray,
    apart: frozenset[str] = frozenset(),
) -> Generator[tuple[int, int], None, LearnedBlocks]:
    """Yield (iterations done, all) while one block is learned; return what was found.

    `quantized model` is the quantized model (`training_model`), which has what was learned in place at the end
    and is of no further use if the generator was closed; the float `model` stays as it is. `counts`
    [T] says how often each step is drawn; step sizes at the inputs of the layers `apart` stay.
    Iterations see one denoiser call each, since the ranges in force depend on its step. Training
    stops at the first loss that is not finite, with the last good state and a note."""
    random = np.random.default_rng([spec.seed, zlib.crc32(block.encode())])
    cuts, share = cut(trajectory, spec.batch, counts, random)
    schedule = random.choice(len(cuts), spec.iterations, p=share)
    used = random.permutation(np.unique(schedule))
    later = random.choice(len(cuts), spec.steps, p=share)
    used = np.concatenate([used, np.setdiff1d(later, used)])
    source = Source(borrow(model), quantized_model, block, trajectory)
    measured = yield from gather_inputs(
        source, cuts, used[:MEASURED], (0, spec.iterations + spec.steps)
    )
    with few_threads(quantized_model.get_submodule(block).parameters()):
        before = error_of(quantized_model, block, measured.values())
        training = RoundingTraining(model, quantized_model, block, formats, spec)
    # Batches that are too many to hold at once are taken in parts, each with all the iterations
    # that draw from it.
    parts = min(
        len(used), math.ceil(len(used) * next(iter(measured.values())).bytes / MAX_HELD_BYTES)
    )
    feed = Feed(source, cuts, [used[part::parts] for part in range(parts)])
    yield from feed.run(training, schedule)
    with few_threads(quantized_model.get_submodule(block).parameters()):
        codes = training.hardened()
        after = error_of(quantized_model, block, measured.values())
    learned = LearnedBlocks(
        codes=codes,
        before={block: before},
        after={block: after},
        losses={block: np.array(training.losses, np.float32)},
        changed=training.changed(codes),
        note=training.note,
    )
    banks = banks_of(quantized_model, block, apart)
    if not spec.steps or not banks or training.note:
        return learned
    stepping = StepTraining(quantized_model, block, banks, spec)
    yield from feed.run(stepping, later)
    with few_threads(quantized_model.get_submodule(block).parameters()):
        sizes = stepping.finished()
        stepped = {block: error_of(quantized_model, block, measured.values())}
    return changed(learned, sizes=sizes, stepped=stepped, note=stepping.note)


# --- files ----------------------------------------------------------------------------------------


def join_blocks(parts: Sequence[LearnedBlocks]) -> LearnedBlocks:
    """What was learned block by block as one."""
    both: dict[str, Any] = {
        name: {} for name in ("codes", "before", "after", "losses", "changed", "stepped", "sizes")
    }
    for part in parts:
        for name, values in both.items():
            values |= getattr(part, name)
    return LearnedBlocks(**both, note=" ".join(part.note for part in parts if part.note))


def to_arrays(learned: LearnedBlocks) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`learned` as numpy arrays and plain data, for a file."""
    arrays, plain = code_arrays(learned.codes)
    arrays |= {f"losses/{block}": losses for block, losses in learned.losses.items()}
    arrays |= size_arrays(learned.sizes)
    stepped = {"stepped": learned.stepped} if learned.stepped else {}
    return arrays, {"layers": plain} | {
        name: getattr(learned, name) for name in PLAIN_FIELDS
    } | stepped


def from_arrays(arrays: Mapping[str, np.ndarray], plain: Mapping[str, Any]) -> LearnedBlocks:
    """The inverse of `to_arrays`.

    DmqError for what an earlier version of dmq kept, which told less.
    """
    if missing := [name for name in PLAIN_FIELDS if name not in plain]:
        raise DmqError(
            f"the kept codes do not tell {missing[0]}: another version learned them. Learn them "
            "again."
        )
    losses = {key.partition("/")[2]: x for key, x in arrays.items() if key.startswith("losses/")}
    own = {name: plain[name] for name in PLAIN_FIELDS}
    return LearnedBlocks(
        codes=codes_from(arrays, plain["layers"]),
        losses=losses,
        stepped=plain.get("stepped", {}),
        sizes=sizes_from(arrays),
        **own,
    )
