"""Denoiser calls repeated for one block: what it is given in the quantized model, and what the
float one answers.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..capture.replay import repeat
from ..errors import DmqError
from ..numerics.devices import double
from ..numerics.threads import few_threads
from ..results import Trajectory


@dataclass(frozen=True)
class Batch:
    """One call of a block: what it is given in the quantized model, and what the float one
    answers in its own.
    """

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
class Source:
    """Makes batches by repeating recorded denoiser calls up to the block."""

    floats: nn.Module
    quantized_model: nn.Module
    block: str
    trajectory: Trajectory

    @torch.no_grad()
    def __call__(self, n: int, rows: np.ndarray) -> Batch:
        """The block's part in those rows of call n."""
        t = self.trajectory.timesteps[self.trajectory.step[n]]
        seen: list = []

        def select_arguments(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            seen.append((args, kwargs))
            raise _Reached

        def answer_recorded(_: nn.Module, args: tuple, answer: Any) -> None:
            seen.append(_tensors(answer))
            raise _Reached

        hook = self.quantized_model.get_submodule(self.block).register_forward_pre_hook(
            select_arguments, with_kwargs=True
        )
        self._repeat(self.quantized_model, n, rows, hook)
        hook = self.floats.get_submodule(self.block).register_forward_hook(answer_recorded)
        self._repeat(self.floats, n, rows, hook)
        (args, kwargs), wanted = seen
        return Batch(t, args, kwargs, wanted)

    def _repeat(self, model: nn.Module, n: int, rows: np.ndarray, hook: Any) -> None:
        try:
            repeat(model, self.trajectory, n, rows)
        except _Reached:
            return
        finally:
            hook.remove()
        raise DmqError(
            f"{self.block}: it does not run in the recorded denoiser calls, so it cannot be "
            "reconstructed."
        )


def cut(
    trajectory: Trajectory, batch: int, counts: np.ndarray, random: np.random.Generator
) -> tuple[list[tuple[int, np.ndarray]], np.ndarray]:
    """The calls cut into batches (call, rows), and how likely each is drawn: steps as `counts`
    [T] says.
    """
    cuts = []
    for n, half in enumerate(trajectory.half):
        rows = random.permutation(len(half))
        cuts += [(n, rows[a : a + batch]) for a in range(0, len(rows), batch)]
    step = trajectory.step[[n for n, _ in cuts]]
    weight = counts[step] / np.bincount(step, minlength=len(counts))[step]
    return cuts, weight / weight.sum()


def gather_inputs(
    source: Source,
    cuts: Sequence[tuple[int, np.ndarray]],
    which: np.ndarray,
    progress: tuple[int, int],
) -> Generator[tuple[int, int], None, dict[int, Batch]]:
    """The batches `which` of `cuts` by number; yields `progress` after each."""
    held = {}
    for p in which:
        with few_threads(source.quantized_model.parameters()):
            held[p] = source(*cuts[p])
        yield progress
    return held


def answer_block(quantized_model: nn.Module, block: str, batch: Batch) -> list[Tensor]:
    """What the block inside `quantized model` makes of `batch` at its step."""
    vars(quantized_model)["clock"].set(batch.t)
    return _tensors(quantized_model.get_submodule(block)(*batch.args, **batch.kwargs))


def _tensors(answer: Any) -> list[Tensor]:
    """The different tensors in nested tuples and dicts: a block that answers with its skip
    connections repeats one.
    """
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


def distance(made: list[Tensor], wanted: list[Tensor], power: float = 2) -> Tensor:
    """Error to a power (squared) summed over outputs and channels, mean over everything else."""
    pairs = zip(made, wanted, strict=True)
    errors = (
        (a.float() - b.float()).abs().pow(power).mean() * b.shape[1 if b.ndim == 4 else -1]
        for a, b in pairs
    )
    return sum(errors, start=torch.zeros(()))


@torch.no_grad()
def error_of(quantized_model: nn.Module, block: str, batches: Iterable[Batch]) -> float:
    """Squared error of the block's answers to all `batches` over their power."""
    wrong = power = 0.0
    for batch in batches:
        for a, b in zip(answer_block(quantized_model, block, batch), batch.wanted, strict=True):
            wrong += double(a.float() - b.float()).square().sum().item()
            power += double(b).square().sum().item()
    return wrong / max(power, 1e-30)
