"""The activation quantizers of a model, and the clock that tells all of them which step it is
(contract 2).

ActivationBank    ranges were calibrated: a table of grids, one of which is in force at each step
DynamicBank       ranges are those of the values that come: of each token, each row of the batch, or the batch
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DmqError
from ..numerics.affine import fake_quantize, grid
from ..results import ActivationQParams
from ..trajectory.steps import index_of


class Clock:
    """The step of the denoiser call that is running, found from the timestep that the call was
    given.

    One per quantized model, read by all of its banks; a call's order and number mean nothing to it.
    `notes` collects a sentence for every timestep that was not recorded, once each, where `unknown_timestep`
    is "nearest". Where nothing depends on the step, `needed` is False and any timestep will do."""

    def __init__(
        self,
        timesteps: tuple[float, ...],
        unknown_timestep: str,
        timestep: Callable[[tuple, dict[str, Any]], float],
    ) -> None:
        self.timesteps, self.unknown_timestep, self.timestep = timesteps, unknown_timestep, timestep
        self.notes: list[str] = []
        self.bypassed = False  # let activations pass as they are
        self.needed = True
        self._i: int | None = None

    @property
    def i(self) -> int:
        """The step's position in sampling order.

        Raises DmqError before the first call of the denoiser.
        """
        if self._i is None:
            raise DmqError(
                "this layer does not know its timestep: call the whole quantized model, not a part "
                "of it."
            )
        return self._i

    def set(self, t: float) -> None:
        """Move to the step recorded at `t`.

        Raises DmqError if there is none, unless `unknown_timestep` is "nearest".
        """
        self._i, distance = index_of(t, self.timesteps, self.unknown_timestep)
        if distance:
            note = f"timestep {t:g} was not calibrated; used {self.timesteps[self._i]:g} instead, {distance:g} away."
            self.notes += [note] if note not in self.notes else []

    # A method, not a closure: a copy of the model then copies the clock too, instead of setting
    # this one.
    def before_call(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """The forward pre-hook of the denoiser."""
        if self.needed:
            self.set(self.timestep(args, kwargs))
            return
        try:  # windows of steps are told by it all the same
            self._i, _ = index_of(self.timestep(args, kwargs), self.timesteps)
        except DmqError:
            self._i = None


class ActivationBank(nn.Module):
    """The fake quantizer of one site: its grid at step i is that of slot `slot[i]`.

    Takes and returns a tensor of any shape; per channel, `axis` of it has the bank's number of
    channels. Differentiable as `numerics.affine.fake_quantize` is."""

    scale: Tensor
    zero: Tensor

    def __init__(self, bank: ActivationQParams, clock: Clock) -> None:
        super().__init__()
        self.clock, self.axis, self.site, self.parts = clock, bank.axis, bank.site, bank.parts
        self.register_buffer("scale", torch.tensor(bank.scale, dtype=torch.float32))
        self.register_buffer("zero", torch.tensor(bank.zero, dtype=torch.float32))
        # Python numbers, so that choosing a slot does not wait for the device.
        self.slot: list[int] = bank.slot.tolist()
        self.bits: list[int] = bank.bits.tolist()
        self.zeros: list[float] | None = bank.zero.tolist() if bank.axis is None else None

    def set_grid(self, slot: int, scale: Tensor, zero: Tensor) -> None:
        """Give `slot` another grid, of the same bits."""
        self.scale[slot] = scale
        self.zero[slot] = zero
        if self.zeros is not None:
            self.zeros[slot] = float(zero)

    def forward(self, x: Tensor) -> Tensor:
        if self.clock.bypassed:
            return x
        slot = self.slot[self.clock.i]
        scale = self.scale[slot]
        if self.zeros is not None:
            return fake_quantize(x, scale, self.zeros[slot], self.bits[slot])
        shape = [1] * x.ndim
        assert self.axis is not None
        shape[self.axis] = -1
        scale, zero = (self._by_channel(values).view(shape) for values in (scale, self.zero[slot]))
        return fake_quantize(x, scale, zero, self.bits[slot])

    def _by_channel(self, values: Tensor) -> Tensor:
        return (
            torch.cat([v.expand(n) for v, n in zip(values, self.parts, strict=True)])
            if self.parts
            else values
        )

    def extra_repr(self) -> str:
        bits = "/".join(map(str, sorted(set(self.bits))))
        return f"bits={bits}, slots={len(self.bits)}, axis={self.axis}"


class DynamicBank(nn.Module):
    """The fake quantizer of one site whose ranges are the least and the greatest of the values that
    come.

    Per "token" each vector along the last axis has its own range, in convolutions and per "sample"
    each row of the batch, per "call" in convolutions the batch, per "place" all channels of the
    same pixel in the batch; each run of channels in `parts` by itself. The softmax output has the
    range 0..1. Takes and returns a tensor of any shape, as `ActivationBank` does. Differentiable in
    the values, straight through; ranges count as constants."""

    def __init__(self, bank: ActivationQParams, clock: Clock) -> None:
        super().__init__()
        self.clock, self.axis, self.site, self.parts = clock, bank.axis, bank.site, bank.parts
        self.per, self.symmetric = bank.per, bank.symmetric
        self.slot: list[int] = bank.slot.tolist()
        self.bits: list[int] = bank.bits.tolist()

    def forward(self, x: Tensor) -> Tensor:
        if self.clock.bypassed:
            return x
        bits = self.bits[self.slot[self.clock.i] if len(self.bits) > 1 else 0]
        if not self.parts or self.axis is None:
            return self._quantized(x, bits)
        return torch.cat(
            [self._quantized(part, bits) for part in x.split(self.parts, self.axis)], self.axis
        )

    def _quantized(self, x: Tensor, bits: int) -> Tensor:
        if self.site.point == "probs":
            return fake_quantize(
                x, x.new_full((), 1 / (2**bits - 1), dtype=torch.float32), 0.0, bits
            )
        return fake_quantize(
            x, *grid(*value_ranges(x.detach(), self.per), bits, self.symmetric), bits
        )

    def extra_repr(self) -> str:
        return (
            f"bits={'/'.join(map(str, sorted(set(self.bits))))}, per={self.per or 'constant range'}"
        )


def value_ranges(x: Tensor, per: str) -> tuple[Tensor, Tensor]:
    """The least and the greatest value of what has a range of its own in `x`, float32; they
    broadcast.

    >>> [end.flatten().tolist() for end in value_ranges(torch.tensor([[[1.0, -2.0], [3.0, 5.0]]]), "token")]
    [[-2.0, 3.0], [1.0, 5.0]]
    """
    if per == "call":
        low, high = (end.view([1] * x.ndim) for end in x.aminmax())
    elif per == "place":
        low, high = x.aminmax(dim=-3, keepdim=True)
        if x.ndim > 3:
            low, high = low.amin(0, keepdim=True), high.amax(0, keepdim=True)
    elif per == "token" or x.ndim < 2:
        low, high = x.aminmax(dim=-1, keepdim=True)
    else:
        shape = [len(x)] + [1] * (x.ndim - 1)
        low, high = (end.view(shape) for end in x.flatten(1).aminmax(dim=1))
    return low.float(), high.float()


def bank_module(bank: ActivationQParams, clock: Clock) -> ActivationBank | DynamicBank:
    """The quantizer that does what `bank` says."""
    return DynamicBank(bank, clock) if bank.dynamic else ActivationBank(bank, clock)
