"""What a pipeline gives its denoiser beside image and time: prompts, classes, sizes, without
generating anything.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from ..models.borrow import borrow
from ..models.loading import Loaded, sample, with_denoiser
from ..recipe import Sampling


class _Enough(Exception):
    pass


def conditioning_of(
    loaded: Loaded, images: Sequence[tuple[str, int]], sampling: Sampling, batch: int
) -> Iterator[dict[str, Tensor]]:
    """The conditioning of the first denoiser call of each batch of (prompt, seed), by argument,
    each [rows, ...].

    The real pipeline runs up to that call, which is not made: what a prompt, a class or a size
    becomes is the same at every step."""
    for n in range(0, len(images), batch):
        prompts, seeds = zip(*images[n : n + batch], strict=True)
        seen: list[dict[str, Tensor]] = []

        def stop(module: nn.Module, args: tuple, kwargs: dict[str, Any], seen: list = seen) -> None:
            seen.append(loaded.adapter.conditioning(args, kwargs))
            raise _Enough

        denoiser = borrow(loaded.denoiser)
        denoiser.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            sample(
                with_denoiser(loaded, denoiser),
                loaded,
                prompts=prompts,
                seeds=seeds,
                sampling=sampling,
            )
        except _Enough:
            yield seen[0]
