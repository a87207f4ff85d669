"""Denoisers that are one model at some steps and another elsewhere, or something between the two."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from .parts import Forward, take_over


def float_inside(quantized: nn.Module, denoiser: nn.Module, steps: Collection[int]) -> nn.Module:
    """`quantized`, a private copy, with the float `denoiser` answering at `steps` (positions in sampling order)."""
    return amplified(quantized, denoiser, steps, inside=0.0, outside=1.0)


def amplified(
    quantized: nn.Module, denoiser: nn.Module, steps: Collection[int], *, inside: float, outside: float = 0.0
) -> nn.Module:
    """`quantized`, a private copy, with its error eps_q - eps times `inside` at `steps`, by `outside` elsewhere.

    0 is the float model, 1 the quantized one. Source: pcr, "the probe".
    """
    steps = frozenset(steps)

    def answer(forward: Forward, args: tuple, kwargs: dict[str, Any]) -> Any:
        gain = inside if quantized.clock.i in steps else outside
        if gain == 1:
            return forward(*args, **kwargs)
        exact = denoiser(*args, **kwargs)
        return _mixed(exact, forward(*args, **kwargs), gain) if gain else exact

    take_over(quantized, answer)
    return quantized


def _mixed(exact: Any, other: Any, gain: float) -> Any:
    """exact + gain * (other - exact), for the tensors of an answer of any type."""
    if isinstance(exact, Tensor):
        return exact + gain * (other - exact)
    if isinstance(exact, Mapping):
        return type(exact)(**{key: _mixed(value, other[key], gain) for key, value in exact.items()})
    if isinstance(exact, (list, tuple)):
        return type(exact)(_mixed(a, b, gain) for a, b in zip(exact, other, strict=True))
    return exact
