"""Activation step sizes of a block, learned by gradients once its weights are rounded (LSQ, as
Q-Diffusion uses it).

    learned   the logarithms of all scales of the block's banks; zero points and numbers of bits stay
    loss      |made - wanted| to the power of 2.4, on the same calls as the rounding
    rate      Adam, falling to zero along half a cosine

Logarithms, so that one rate suits tensors of any width and no step size can turn negative; the
published code learns the step sizes themselves. A call trains the slot that is in force at its
step. Source: neighbours, "Q-Diffusion"."""

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace as changed

import numpy as np
import torch
from torch import Tensor, nn

from ..quantizers.bank import ActivationBank
from ..results import ActivationQParams, Plan


POWER = 2.4
PARTS = ("scale", "zero", "bits")


@dataclass(frozen=True, kw_only=True)
class StepSizes:
    """The learned grids of one site, a row for every step so that they fit any partition that is
    no coarser.
    """

    scale: np.ndarray  # [T], or [T, n] where a slot has n of them; float32
    zero: np.ndarray  # like scale, int32
    bits: np.ndarray  # [T] uint8


def banks_of(
    quantized_model: nn.Module, block: str, left_out: frozenset[str]
) -> dict[str, ActivationBank]:
    """The banks of `block` by label, but for the inputs of layers that are `left_out`."""
    inside = quantized_model.get_submodule(block).modules()
    banks = [
        module
        for module in inside
        if isinstance(module, ActivationBank) and module.site.name not in left_out
    ]
    # A bank may be shared with a block before, whose rounding was learned with it as it is.
    return {bank.site.label: bank for bank in banks if bank.site.name.startswith(f"{block}.")}


class LearnedScales(nn.Module):
    """The scales of some banks as parameters; `install` puts them into the banks, `finish` for
    good.
    """

    def __init__(self, banks: Mapping[str, ActivationBank]) -> None:
        super().__init__()
        self.banks = dict(banks)
        self.start = {label: bank.scale.detach().clone() for label, bank in banks.items()}
        self.logs = nn.ParameterList([nn.Parameter(scale.log()) for scale in self.start.values()])
        self.first = [log.detach().clone() for log in self.logs]

    def install(self) -> None:
        """Let the banks use the scales of now, differentiable."""
        for bank, log in zip(self.banks.values(), self.logs, strict=True):
            bank.scale = log.exp()

    @torch.no_grad()
    def finish(self, state: list[Tensor] | None = None) -> dict[str, StepSizes]:
        """Put whole scales in place, of `state` if given; slots that no call has trained keep
        theirs bit for bit.
        """
        for n, (label, bank) in enumerate(self.banks.items()):
            log = self.logs[n] if state is None else state[n]
            bank.scale = torch.where(log == self.first[n], self.start[label], log.exp())
        return {label: _of_steps(bank) for label, bank in self.banks.items()}

    def state(self) -> list[Tensor]:
        """A copy of all that is learned."""
        return [log.detach().clone() for log in self.logs]


def _of_steps(bank: ActivationBank) -> StepSizes:
    slot = np.array(bank.slot)
    zero = bank.zero if bank.zeros is None else torch.tensor(bank.zeros)
    return StepSizes(
        scale=bank.scale.cpu().numpy()[slot],
        zero=zero.cpu().numpy().astype(np.int32)[slot],
        bits=np.array(bank.bits, np.uint8)[slot],
    )


def with_step_sizes(plan: Plan, sizes: Mapping[str, StepSizes]) -> Plan:
    """`plan` with learned step sizes, by label, wherever a slot has the bits that they were
    learned for.
    """
    if not sizes:
        return plan
    made: dict[str, ActivationQParams] = {}

    def adjusted(bank: ActivationQParams) -> ActivationQParams:
        if bank.site.label not in sizes:
            return bank
        if bank.site.label not in made:
            made[bank.site.label] = _adjust_bank(bank, sizes[bank.site.label])
        return made[bank.site.label]

    layers = tuple(
        changed(row, bank=adjusted(row.bank)) if row.bank else row for row in plan.layers
    )
    attention = tuple(adjusted(bank) for bank in plan.attention)
    return changed(plan, layers=layers, attention=attention, step_sizes=len(made))


def _adjust_bank(bank: ActivationQParams, own: StepSizes) -> ActivationQParams:
    first = np.unique(bank.slot, return_index=True)[1]
    same = (own.bits[first] == bank.bits).reshape(-1, *[1] * (bank.scale.ndim - 1))
    return changed(
        bank,
        scale=np.where(same, own.scale[first], bank.scale),
        zero=np.where(same, own.zero[first], bank.zero),
    )


def size_arrays(sizes: Mapping[str, StepSizes]) -> dict[str, np.ndarray]:
    """`sizes` as arrays, for a file."""
    return {
        f"step {part}/{label}": getattr(own, part) for label, own in sizes.items() for part in PARTS
    }


def sizes_from(arrays: Mapping[str, np.ndarray]) -> dict[str, StepSizes]:
    """The inverse of `size_arrays`."""
    labels = [key.partition("/")[2] for key in arrays if key.startswith("step scale/")]
    return {
        label: StepSizes(**{part: arrays[f"step {part}/{label}"] for part in PARTS})
        for label in labels
    }
