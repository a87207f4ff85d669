"""One seed, one noise: in whatever dtype and on whatever device a pipeline runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


HALF = (torch.float16, torch.bfloat16)


class _Half(TorchFunctionMode):
    """Inside, seeded normal numbers of half precision are those of float32, rounded.

    torch takes other random bits for them, but for small shapes and multiples of 16 numbers: images
    of some sizes would be others in each dtype."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if (
            func is torch.randn
            and kwargs.get("generator") is not None
            and kwargs.get("dtype") in HALF
        ):
            return func(*args, **kwargs | {"dtype": torch.float32}).to(kwargs["dtype"])
        if (
            func is torch.Tensor.numpy and args[0].dtype is torch.bfloat16
        ):  # numpy has none, and DDIM's pipeline asks
            return args[0].float().numpy()
        return func(*args, **kwargs)


@contextmanager
def one_noise(dtype: torch.dtype) -> Iterator[None]:
    """While the block lasts, a pipeline in `dtype` starts from the noise that it would start from
    in float32.

    The generators are on the CPU (`running.arguments`), as diffusers advises, so the device does
    not matter either."""
    if dtype not in HALF:  # a mode costs a microsecond at each of torch's functions
        yield
        return
    with _Half():
        yield
