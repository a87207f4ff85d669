"""Half precision overflows: where a run stops giving numbers, found and named."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DmqError
from .placement import HALF, Place
from .step_progress import OnStep


@contextmanager
def finite_steps(
    denoiser: nn.Module, place: Place, on_step: OnStep | None
) -> Iterator[OnStep | None]:
    """`on_step`, which in half precision first checks that every latent is a number.

    Raises DmqError at the first step where one is not: it names the layer that gave it. float32 is
    left alone, since a quantized model may break, and that is then counted."""
    if place.dtype not in HALF:
        yield on_step
        return
    last: list[tuple[tuple, dict[str, Any]]] = []

    def remember(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        last[:] = [(args, kwargs)]

    def check_finite_steps(i: int, t: float, latents: Tensor) -> None:
        if not bool(latents.isfinite().all()):
            layer = first_not_finite(denoiser, *last[0]) if last else ""
            raise DmqError(
                f"{layer or 'the scheduler'}: not finite at step {i + 1} (t = {t:g}) in "
                f"{place.dtype}; run with --dtype "
                f"{'bfloat16 or float32' if place.dtype == 'float16' else 'float32'}."
            )
        if on_step is not None:
            on_step(i, t, latents)

    hook = denoiser.register_forward_pre_hook(remember, with_kwargs=True)
    try:
        yield check_finite_steps
    finally:
        hook.remove()


@torch.no_grad()
def first_not_finite(denoiser: nn.Module, args: tuple, kwargs: dict[str, Any]) -> str:
    """The name of the first module whose output is not finite in this call of `denoiser`; "" if all
    are.

    The call is repeated with every module watched. Modules within come before those that hold them.
    """
    found: list[str] = []

    def watch(name: str) -> Any:
        def look(module: nn.Module, inputs: tuple, output: Any) -> None:
            values = output[0] if isinstance(output, tuple) and output else output
            if not found and isinstance(values, Tensor) and not bool(values.isfinite().all()):
                found.append(name)

        return look

    hooks = [
        module.register_forward_hook(watch(name))
        for name, module in denoiser.named_modules()
        if name
    ]
    try:
        denoiser(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else ""
