"""A denoiser that answers one call of a pipeline in parts: many images walk together, few are
computed at a time.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .adapter import AbstractAdapter


Call = tuple[tuple, dict[str, Any]]  # arguments of one denoiser call
Forward = Callable[..., Any]


def take_over(denoiser: nn.Module, answer: Callable[[Forward, tuple, dict[str, Any]], Any]) -> None:
    """Let `answer(forward, args, kwargs)` answer every call of this very `denoiser`; `forward` is
    what it did before.

    Hooks of the denoiser itself run once around the whole, those of its layers whenever `forward`
    is called. Only for borrowed models: the change stays."""
    forward = denoiser.forward

    @functools.wraps(forward)  # pipelines look at its signature
    def load_taken(*args: Any, **kwargs: Any) -> Any:
        return answer(forward, args, kwargs)

    denoiser.forward = load_taken


def parts_of(
    forward: Forward, adapter: AbstractAdapter, args: tuple, kwargs: Mapping[str, Any], rows: int
) -> list[Call]:
    """The call as several of at most `rows` rows each.

    Split is every tensor that has a row for each row of x_t, also in dicts and lists, unless the
    adapter says that its argument is the same for all rows (`AbstractAdapter.shared_arguments`).
    """
    whole = len(adapter.sample_of(args, kwargs))
    names = list(inspect.signature(forward).parameters)

    def cut_layer(name: str, value: Any, part: slice) -> Any:
        if name in adapter.shared_arguments:
            return value
        if isinstance(value, Tensor):
            return value[part] if value.ndim and len(value) == whole else value
        if isinstance(value, Mapping):
            return {key: cut_layer(key, inner, part) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(cut_layer(name, inner, part) for inner in value)
        return value

    return [
        (
            tuple(cut_layer(name, value, part) for name, value in zip(names, args, strict=False)),
            {name: cut_layer(name, value, part) for name, value in kwargs.items()},
        )
        for part in (slice(n, n + rows) for n in range(0, whole, rows))
    ]


def join_parts(answers: Sequence[Any]) -> Any:
    """One answer from those of the parts, of the same type: a tensor, a tuple, or an output of
    diffusers.
    """
    first = answers[0]
    if isinstance(first, Tensor):
        return torch.cat(list(answers))
    if isinstance(first, Mapping):
        return type(first)(
            **{key: join_parts([answer[key] for answer in answers]) for key in first}
        )
    if isinstance(first, (list, tuple)):
        return type(first)(map(join_parts, zip(*answers, strict=True)))
    return first
