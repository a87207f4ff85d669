"""The activation quantizers of a model, and the clock that tells all of them which step it is (contract 2)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DmqError
from ..numerics.affine import fake_quantize
from ..results import Bank
from ..trajectory.steps import index_of


class Clock:
    """The step of the denoiser call that is running, found from the timestep that the call was given.

    One per quantized model, read by all of its banks; a call's order and number mean nothing to it. `notes` collects a
    sentence for every timestep that was not recorded, once each, where `on_miss` is "nearest".
    """

    def __init__(
        self, timesteps: tuple[float, ...], on_miss: str, timestep: Callable[[tuple, dict[str, Any]], float]
    ) -> None:
        self.timesteps, self.on_miss, self.timestep = timesteps, on_miss, timestep
        self.notes: list[str] = []
        self.bypassed = False  # let activations pass as they are
        self._i: int | None = None

    @property
    def i(self) -> int:
        """The step's position in sampling order. Raises DmqError before the first call of the denoiser."""
        if self._i is None:
            raise DmqError("this layer does not know its timestep: call the whole quantized model, not a part of it.")
        return self._i

    def set(self, t: float) -> None:
        """Move to the step recorded at `t`. Raises DmqError if there is none, unless `on_miss` is "nearest"."""
        self._i, distance = index_of(t, self.timesteps, self.on_miss)
        if distance:
            note = f"timestep {t:g} was not calibrated; used {self.timesteps[self._i]:g} instead, {distance:g} away."
            self.notes += [note] if note not in self.notes else []

    # A method, not a closure: a copy of the model then copies the clock too, instead of setting this one.
    def before_call(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """The forward pre-hook of the denoiser."""
        self.set(self.timestep(args, kwargs))


class ActivationBank(nn.Module):
    """The fake quantizer of one site: its grid at step i is that of slot `slot[i]`.

    Takes and returns a tensor of any shape; per channel, `axis` of it has the bank's number of channels.
    Differentiable as `numerics.affine.fake_quantize` is.
    """

    def __init__(self, bank: Bank, clock: Clock) -> None:
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
        shape[self.axis] = -1
        scale, zero = (self._by_channel(values).view(shape) for values in (scale, self.zero[slot]))
        return fake_quantize(x, scale, zero, self.bits[slot])

    def _by_channel(self, values: Tensor) -> Tensor:
        return torch.cat([v.expand(n) for v, n in zip(values, self.parts, strict=True)]) if self.parts else values

    def extra_repr(self) -> str:
        bits = "/".join(map(str, sorted(set(self.bits))))
        return f"bits={bits}, slots={len(self.bits)}, axis={self.axis}"
