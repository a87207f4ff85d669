"""Denoisers that are one model at some steps and another elsewhere, or something between the
two.
"""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from .tensor_parts import Forward, take_over


def leave_window_float(quantized: nn.Module, steps: Collection[int]) -> nn.Module:
    """`quantized`, a private copy, whose activations pass as they are at `steps` (positions in
    sampling order).

    Weights stay quantized: it is what a model tends to whose activations have more and more bits at
    those steps."""
    steps, clock = frozenset(steps), vars(quantized)["clock"]

    def answer(forward: Forward, args: tuple, kwargs: dict[str, Any]) -> Any:
        clock.bypassed = clock.i in steps
        try:
            return forward(*args, **kwargs)
        finally:
            clock.bypassed = False

    take_over(quantized, answer)
    return quantized


def amplify_error(
    quantized: nn.Module,
    denoiser: nn.Module,
    steps: Collection[int],
    *,
    inside: float,
    outside: float = 0.0,
) -> nn.Module:
    """`quantized`, a private copy, with its error eps_q - eps times `inside` at `steps`, by
    `outside` elsewhere.

    0 is the float model, 1 the quantized one. Source: pcr, "the probe".
    """
    steps, clock = frozenset(steps), vars(quantized)["clock"]

    def answer(forward: Forward, args: tuple, kwargs: dict[str, Any]) -> Any:
        gain = inside if clock.i in steps else outside
        if gain == 1:
            return forward(*args, **kwargs)
        exact = denoiser(*args, **kwargs)
        return _mix_answers(exact, forward(*args, **kwargs), gain) if gain else exact

    take_over(quantized, answer)
    return quantized


def _mix_answers(exact: Any, other: Any, gain: float) -> Any:
    """exact + gain * (other - exact), for the tensors of an answer of any type."""
    if isinstance(exact, Tensor):
        return exact + gain * (other - exact)
    if isinstance(exact, Mapping):
        return type(exact)(
            **{key: _mix_answers(value, other[key], gain) for key, value in exact.items()}
        )
    if isinstance(exact, (list, tuple)):
        return type(exact)(_mix_answers(a, b, gain) for a, b in zip(exact, other, strict=True))
    return exact
