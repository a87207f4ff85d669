"""What is learned of one block inside the quantized model, iteration by iteration: rounding,
then step sizes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..capture.replay import precision
from ..models.borrow import replace
from ..models.recompute import forget_and_recompute, measure_answered, pieces_within, too_large
from ..numerics.backward import backward
from ..numerics.rounding import beta_at
from ..numerics.threads import few_threads
from ..quantizers.bank import ActivationBank
from ..quantizers.weights import QuantizedWeight
from ..recipe import BlockReconstruction, Weights
from .adaround import (
    ITERATIONS_PER_STATE,
    PENALTY,
    Rounding,
    make_soft,
    measure_indecision,
    state_of,
)
from .recorded_inputs import Batch, Source, answer_block, distance, gather_inputs
from .step_sizes import POWER, LearnedScales, StepSizes


class Training(ABC):
    """Something of one block inside `quantized model` that is learned from its answers, and how far it has
    got.
    """

    what = ""  # goes before "stopped at iteration" in the note
    optimiser: torch.optim.Optimizer

    def __init__(
        self, quantized_model: nn.Module, block: str, iterations: int, progress: tuple[int, int]
    ) -> None:
        self.quantized_model, self.block, self.iterations = quantized_model, block, iterations
        self.before, self.all = progress  # iterations before these, and of the block in all
        self.inside, self.precision = (
            quantized_model.get_submodule(block),
            precision(quantized_model),
        )
        self.forgotten: tuple[str, ...] | None = (
            None  # modules that are computed again for gradients; not known yet
        )
        self.good = self.state()
        self.losses: list[float] = []
        self.note = ""

    @property
    def progress(self) -> tuple[int, int]:
        return self.before + len(self.losses), self.all

    def learn(self, batches: Iterable[Batch]) -> Generator[tuple[int, int], None, None]:
        """An iteration for each batch; ends early with a `note` when a loss is not finite."""
        for batch in batches:
            # The consumer runs between two yields, so the setting of threads must not stay open
            # across one.
            with few_threads(self.inside.parameters()), torch.enable_grad():
                self._iterate(batch)
            if self.note:
                return
            if len(self.losses) % ITERATIONS_PER_STATE == 0 or len(self.losses) == self.iterations:
                self.good = self.state()
                yield self.progress

    def _iterate(self, batch: Batch) -> None:
        learned = [p for group in self.optimiser.param_groups for p in group["params"]]
        with forget_and_recompute(self.quantized_model, self._forgotten(batch)):
            loss, total = self.loss(batch)
            backward(total, learned, self.precision)
        self.losses.append(loss.item())
        if math.isfinite(total.item()):
            self.update()
        else:
            at = f"stopped at iteration {len(self.losses)} of {self.iterations}"
            self.note = f"{self.block}: {self.what}{at}, the loss was {total.item()}."

    def _forgotten(self, batch: Batch) -> tuple[str, ...]:
        """What is computed again on the way back of such batches: nothing, unless memory is
        short.
        """
        if self.forgotten is None:
            with torch.no_grad(), measure_answered(self.inside) as count:
                made = answer_block(self.quantized_model, self.block, batch)
            short = too_large(count.bytes, made[0].device)
            self.forgotten = pieces_within(self.quantized_model, self.block) if short else ()
        return self.forgotten

    @abstractmethod
    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What is noted of a call, and what is made smaller."""

    @abstractmethod
    def state(self) -> Any:
        """A copy of all that is learned."""

    def update(self) -> None:
        """Take a step, the gradients being there."""
        self.optimiser.step()


class RoundingTraining(Training):
    """The soft weights of one block."""

    def __init__(
        self,
        model: nn.Module,
        quantized_model: nn.Module,
        block: str,
        formats: Mapping[str, Weights],
        spec: BlockReconstruction,
    ) -> None:
        self.layers = {name: quantized_model.get_submodule(name) for name in formats}
        splits = {row.layer.name: row.split for row in vars(quantized_model)["plan"].layers}
        self.roundings = {
            name: Rounding(model.get_parameter(f"{name}.weight"), spec, splits[name])
            for name, spec in formats.items()
        }
        for name, layer in self.layers.items():
            replace(quantized_model, name, make_soft(layer, self.roundings[name]))
        self.optimiser = torch.optim.Adam(
            [r.v for r in self.roundings.values()], spec.rate, fused=True
        )
        super().__init__(quantized_model, block, spec.iterations, (0, spec.iterations + spec.steps))

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        loss = distance(answer_block(self.quantized_model, self.block, batch), batch.wanted)
        beta = beta_at(len(self.losses) / self.iterations)
        return loss, loss if beta is None else loss + PENALTY * measure_indecision(
            self.roundings.values(), beta
        )

    def state(self) -> dict[str, Tensor]:
        return state_of(self.roundings)

    @torch.no_grad()
    def hardened(self) -> dict[str, QuantizedWeight]:
        """Whole codes, put in place; after a loss that was not finite, those of the last good
        state.
        """
        for name, v in self.good.items() if self.note else ():
            self.roundings[name].v.data = v
        codes = {name: rounding.hardened() for name, rounding in self.roundings.items()}
        for name, layer in self.layers.items():
            weight = codes[name].dequantize().to(layer.get_parameter("weight"))
            layer.weight = nn.Parameter(weight, requires_grad=False)
            replace(self.quantized_model, name, layer)
        return codes

    def changed(self, codes: Mapping[str, QuantizedWeight]) -> dict[str, int]:
        """How many weights of each layer have another code than the nearest one."""
        return {
            name: int((code.codes != self.roundings[name].nearest.codes).sum())
            for name, code in codes.items()
        }


class StepTraining(Training):
    """The step sizes of one block's activations."""

    what = "step sizes "

    def __init__(
        self,
        quantized_model: nn.Module,
        block: str,
        banks: Mapping[str, ActivationBank],
        spec: BlockReconstruction,
    ) -> None:
        self.scales = LearnedScales(banks)
        self.optimiser = torch.optim.Adam(self.scales.parameters(), spec.step_rate)
        self.falling = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimiser, spec.steps)
        super().__init__(
            quantized_model, block, spec.steps, (spec.iterations, spec.iterations + spec.steps)
        )

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        self.scales.install()
        loss = distance(answer_block(self.quantized_model, self.block, batch), batch.wanted, POWER)
        return loss, loss

    def update(self) -> None:
        super().update()
        self.falling.step()

    def state(self) -> list[Tensor]:
        return self.scales.state()

    def finished(self) -> dict[str, StepSizes]:
        """Whole step sizes, put in place; after a loss that was not finite, those of the last
        good state.
        """
        return self.scales.finish(self.good if self.note else None)


@dataclass
class Feed:
    """Hands recorded calls to a training, part by part, and holds those of the last part."""

    source: Source
    cuts: list[tuple[int, np.ndarray]]
    parts: list[np.ndarray]
    held: dict[int, Batch] = field(default_factory=dict)

    def run(
        self, training: Training, schedule: np.ndarray
    ) -> Generator[tuple[int, int], None, None]:
        """Train on the cuts that `schedule` names, in its order within each part; yields
        progress.
        """
        for mine in self.parts:
            if not self.held.keys() >= set(mine.tolist()):
                self.held = {}
                self.held = yield from gather_inputs(
                    self.source, self.cuts, mine, training.progress
                )
            yield from training.learn(self.held[p] for p in schedule[np.isin(schedule, mine)])
            if training.note:
                return
