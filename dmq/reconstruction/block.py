"""Block reconstruction: the rounding of a block's weights, learned so that its output is that of the float block.

    inputs    what the block is given inside the quantized model, on recorded denoiser calls
    targets   what the float block gives in the float model, on the same calls
    learned   AdaRound variables of the block's Linear and Conv weights; all scales and zero points stay

Blocks are learned one after another in forward order, each with the learned codes of those before it in place.
Activations are quantized all the while, as they are in the model that the codes are for. Source: neighbours,
"AdaRound" and "BRECQ" (without Fisher weights, as in the code for diffusion models); tfm, "THEN reconstruct the other
layers".
"""

import math
import zlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..capture.replay import repeat
from ..errors import DmqError
from ..models.adapter import AbstractAdapter
from ..models.borrow import borrow, replace
from ..numerics.rounding import beta_at
from ..numerics.threads import one_thread
from ..quantizers.apply import quantized
from ..quantizers.weights import QuantizedWeight
from ..recipe import FLOAT, BlockReconstruction, Weights
from ..results import Plan, PlannedLayer, Trajectory
from .adaround import KEPT_EVERY, PENALTY, Rounding, code_arrays, codes_from, soft, state_of, undecided


HELD = 2**30  # bytes of inputs and targets that are held at a time
MEASURED = 16  # batches that errors before and after are measured on
TOLD = ("before", "after", "changed", "note")  # what a file keeps as plain data


@dataclass(frozen=True, kw_only=True)
class LearnedBlocks:
    """The codes that were learned for one block or several, with what they did; all by name."""

    codes: dict[str, QuantizedWeight]
    before: dict[str, float]  # by block: squared error of its output over the output's power, nearest rounding
    after: dict[str, float]  # the same with the learned codes
    losses: dict[str, np.ndarray]  # by block: float32 [iterations], without the regulariser
    changed: dict[str, int]  # by layer: weights whose code is not the nearest one
    note: str = ""  # why it ended before its time, if it did


def trained_layers(
    model: nn.Module, adapter: AbstractAdapter, plan: Plan, spec: BlockReconstruction
) -> dict[str, dict[str, Weights]]:
    """For every block in forward order that has any: the layers whose rounding is learned, with their formats.

    Left out are layers whose weights are in float or that a cache replaces, the first and the last layer, what lies in
    no block, and the layers of the time path unless `spec.time`.
    """
    known = adapter.temporal(model)

    def timed(row: PlannedLayer) -> bool:
        return row.layer.name in known.layers if known else row.layer.role == "time"

    rows = [
        row for row in plan.layers
        if row.weights.bits < FLOAT and not row.dropped and row.layer.role not in ("first", "last")
        and (spec.time or not timed(row))
    ]  # fmt: skip
    found = {b: {r.layer.name: r.weights for r in rows if r.layer.block == b} for b in adapter.blocks(model)}
    return {block: formats for block, formats in found.items() if formats}


def training_model(
    model: nn.Module, adapter: AbstractAdapter, plan: Plan, codes: Mapping[str, QuantizedWeight]
) -> nn.Module:
    """The quantized model in which blocks are learned, with the `codes` of the time path and of finished blocks."""
    if plan.temporal is not None and plan.temporal.per_request:
        # Such a cache answers for the rows of the last whole call, and here blocks are called without one. The layers
        # that it is built from are in float in the plan, so without it the features are those before their rounding.
        plan = changed(plan, temporal=changed(plan.temporal, cached=None))
    return quantized(model, plan, adapter, codes).requires_grad_(False)


def reconstruct_block(
    model: nn.Module,
    twin: nn.Module,
    block: str,
    formats: Mapping[str, Weights],
    spec: BlockReconstruction,
    trajectory: Trajectory,
    counts: np.ndarray,
) -> Generator[tuple[int, int], None, LearnedBlocks]:
    """Yield (iterations done, all) while the rounding of one block is learned; return what was found.

    `twin` is the quantized model (`training_model`), which has the learned codes in place at the end and is of no
    further use if the generator was closed; the float `model` stays as it is. `counts` [T] says how often each step is
    drawn. Iterations see one denoiser call each, since the ranges in force depend on its step. Training stops at the
    first loss that is not finite, with the last good state and a note.
    """
    random = np.random.default_rng([spec.seed, zlib.crc32(block.encode())])
    cuts, share = _cut(trajectory, spec.batch, counts, random)
    schedule = random.choice(len(cuts), spec.iterations, p=share)
    used = random.permutation(np.unique(schedule))
    source = _Source(borrow(model), twin, block, trajectory)
    measured = yield from _gathered(source, cuts, used[:MEASURED], (0, spec.iterations))
    with one_thread():
        before = _error(twin, block, measured.values())
        training = _Training(model, twin, block, formats, spec)
    # Batches that are too many to hold at once are taken in parts, each with all the iterations that draw from it.
    parts = min(len(used), math.ceil(len(used) * next(iter(measured.values())).bytes / HELD))
    for mine in (used[part::parts] for part in range(parts)):
        held = yield from _gathered(source, cuts, mine, training.progress)
        yield from training.learn(held[p] for p in schedule[np.isin(schedule, mine)])
        if training.note:
            break
    with one_thread():
        codes = training.hardened()
        after = _error(twin, block, measured.values())
    return LearnedBlocks(
        codes=codes, before={block: before}, after={block: after},
        losses={block: np.array(training.losses, np.float32)}, changed=training.changed(codes), note=training.note,
    )  # fmt: skip


class _Training:
    """The soft weights of one block inside `twin`, and how far they have got."""

    def __init__(
        self, model: nn.Module, twin: nn.Module, block: str, formats: Mapping[str, Weights], spec: BlockReconstruction
    ) -> None:
        self.twin, self.block, self.spec = twin, block, spec
        self.layers = {name: twin.get_submodule(name) for name in formats}
        splits = {row.layer.name: row.split for row in twin.plan.layers}
        self.roundings = {
            name: Rounding(model.get_submodule(name).weight, spec, splits[name]) for name, spec in formats.items()
        }
        for name, layer in self.layers.items():
            replace(twin, name, soft(layer, self.roundings[name]))
        self.optimiser = torch.optim.Adam([r.v for r in self.roundings.values()], spec.rate, fused=True)
        self.good = state_of(self.roundings)
        self.losses: list[float] = []
        self.note = ""

    @property
    def progress(self) -> tuple[int, int]:
        return len(self.losses), self.spec.iterations

    def learn(self, batches: Iterable["_Batch"]) -> Generator[tuple[int, int], None, None]:
        """An iteration for each batch; ends early with a `note` when a loss is not finite."""
        for batch in batches:
            # The consumer runs between two yields, so the setting of threads must not stay open across one.
            with one_thread(), torch.enable_grad():
                self._iterate(batch)
            if self.note:
                return
            if len(self.losses) % KEPT_EVERY == 0 or len(self.losses) == self.spec.iterations:
                self.good = state_of(self.roundings)
                yield self.progress

    def _iterate(self, batch: "_Batch") -> None:
        loss = _distance(_answer(self.twin, self.block, batch), batch.wanted)
        beta = beta_at(len(self.losses) / self.spec.iterations)
        total = loss if beta is None else loss + PENALTY * undecided(self.roundings.values(), beta)
        self.optimiser.zero_grad()
        total.backward()
        self.losses.append(loss.item())
        if math.isfinite(total.item()):
            self.optimiser.step()
        else:
            done, iterations = self.progress
            self.note = f"{self.block}: stopped at iteration {done} of {iterations}, the loss was {total.item()}."

    @torch.no_grad()
    def hardened(self) -> dict[str, QuantizedWeight]:
        """Whole codes, put in place; after a loss that was not finite, those of the last good state."""
        for name, v in self.good.items() if self.note else ():
            self.roundings[name].v.data = v
        codes = {name: rounding.hardened() for name, rounding in self.roundings.items()}
        for name, layer in self.layers.items():
            weight = codes[name].dequantize().to(layer.weight)
            layer.weight = nn.Parameter(weight, requires_grad=False)
            replace(self.twin, name, layer)
        return codes

    def changed(self, codes: Mapping[str, QuantizedWeight]) -> dict[str, int]:
        """How many weights of each layer have another code than the nearest one."""
        return {name: int((code.codes != self.roundings[name].nearest.codes).sum()) for name, code in codes.items()}


# --- recorded inputs and targets -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Batch:
    """One call of a block: what it is given in the quantized model, and what the float one answers in its own."""

    t: float
    args: tuple
    kwargs: dict[str, Any]
    wanted: list[Tensor]

    @property
    def bytes(self) -> int:
        return sum(x.nbytes for x in _tensors((self.args, self.kwargs, self.wanted)))


class _Reached(Exception):
    pass


@dataclass(frozen=True)
class _Source:
    """Makes batches by repeating recorded denoiser calls up to the block."""

    floats: nn.Module
    twin: nn.Module
    block: str
    trajectory: Trajectory

    @torch.no_grad()
    def __call__(self, n: int, rows: np.ndarray) -> _Batch:
        """The block's part in those rows of call n."""
        t = self.trajectory.timesteps[self.trajectory.step[n]]
        seen: list = []

        def given(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            seen.append((args, kwargs))
            raise _Reached

        def answered(_: nn.Module, args: tuple, answer: Any) -> None:
            seen.append(_tensors(answer))
            raise _Reached

        hook = self.twin.get_submodule(self.block).register_forward_pre_hook(given, with_kwargs=True)
        self._repeat(self.twin, n, rows, hook)
        hook = self.floats.get_submodule(self.block).register_forward_hook(answered)
        self._repeat(self.floats, n, rows, hook)
        (args, kwargs), wanted = seen
        return _Batch(t, args, kwargs, wanted)

    def _repeat(self, model: nn.Module, n: int, rows: np.ndarray, hook: Any) -> None:
        try:
            repeat(model, self.trajectory, n, rows)
        except _Reached:
            return
        finally:
            hook.remove()
        raise DmqError(f"{self.block}: it does not run in the recorded denoiser calls, so it cannot be reconstructed.")


def _cut(
    trajectory: Trajectory, batch: int, counts: np.ndarray, random: np.random.Generator
) -> tuple[list[tuple[int, np.ndarray]], np.ndarray]:
    """The calls cut into batches (call, rows), and how likely each is drawn: steps as `counts` [T] says."""
    cuts = []
    for n, half in enumerate(trajectory.half):
        rows = random.permutation(len(half))
        cuts += [(n, rows[a : a + batch]) for a in range(0, len(rows), batch)]
    step = trajectory.step[[n for n, _ in cuts]]
    weight = counts[step] / np.bincount(step, minlength=len(counts))[step]
    return cuts, weight / weight.sum()


def _gathered(
    source: _Source, cuts: Sequence[tuple[int, np.ndarray]], which: np.ndarray, progress: tuple[int, int]
) -> Generator[tuple[int, int], None, dict[int, _Batch]]:
    held = {}
    for p in which:
        with one_thread():
            held[p] = source(*cuts[p])
        yield progress
    return held


def _answer(twin: nn.Module, block: str, batch: _Batch) -> list[Tensor]:
    twin.clock.set(batch.t)
    return _tensors(twin.get_submodule(block)(*batch.args, **batch.kwargs))


def _tensors(answer: Any) -> list[Tensor]:
    """The different tensors in nested tuples and dicts: a block that answers with its skip connections repeats one."""
    found: dict[int, Tensor] = {}

    def collect(value: Any) -> None:
        if isinstance(value, Tensor):
            found[id(value)] = value
        elif isinstance(value, (list, tuple)):
            for inner in value:
                collect(inner)
        elif isinstance(value, Mapping):
            collect(list(value.values()))

    collect(answer)
    return list(found.values())


def _distance(made: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """Squared error summed over outputs and channels, mean over everything else."""
    pairs = zip(made, wanted, strict=True)
    return sum((a - b).square().mean() * b.shape[1 if b.ndim == 4 else -1] for a, b in pairs)


@torch.no_grad()
def _error(twin: nn.Module, block: str, batches: Iterable[_Batch]) -> float:
    """Squared error of the block's answers over their power."""
    wrong = power = 0.0
    for batch in batches:
        for a, b in zip(_answer(twin, block, batch), batch.wanted, strict=True):
            wrong += (a - b).double().square().sum().item()
            power += b.double().square().sum().item()
    return wrong / max(power, 1e-30)


# --- files ---------------------------------------------------------------------------------------------------------


def joined(parts: Sequence[LearnedBlocks]) -> LearnedBlocks:
    """What was learned block by block as one."""
    both = {name: {} for name in ("codes", "before", "after", "losses", "changed")}
    for part in parts:
        for name, values in both.items():
            values |= getattr(part, name)
    return LearnedBlocks(**both, note=" ".join(part.note for part in parts if part.note))


def to_arrays(learned: LearnedBlocks) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`learned` as numpy arrays and plain data, for a file."""
    arrays, plain = code_arrays(learned.codes)
    arrays |= {f"losses/{block}": losses for block, losses in learned.losses.items()}
    return arrays, {"layers": plain} | {name: getattr(learned, name) for name in TOLD}


def from_arrays(arrays: Mapping[str, np.ndarray], plain: Mapping[str, Any]) -> LearnedBlocks:
    """The inverse of `to_arrays`. DmqError for what an earlier version of dmq kept, which told less."""
    if missing := [name for name in TOLD if name not in plain]:
        raise DmqError(f"the kept codes do not tell {missing[0]}: another version learned them. Learn them again.")
    losses = {key.partition("/")[2]: x for key, x in arrays.items() if key.startswith("losses/")}
    own = {name: plain[name] for name in TOLD}
    return LearnedBlocks(codes=codes_from(arrays, plain["layers"]), losses=losses, **own)
