"""Gradients of large models: what the pieces of a block compute is forgotten, and computed again on
the way back.

Memory then holds what enters each piece, and the inside of one of them, for one more pass forward.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..numerics.devices import free_memory


# bytes that gradients keep, and need on the way back, for each byte of a leaf module's answer
KEPT_PIECES = 3
SHARE = 2  # of free memory, the part that is left for everything else


def pieces(model: nn.Module, blocks: Sequence[str]) -> tuple[str, ...]:
    """Module paths of what `blocks` consist of: what mostly is a list of modules opened up,
    otherwise the blocks.

    A block of a U-Net gives its residual blocks and the transformer blocks of its attentions.
    """
    found: list[str] = []
    for name in blocks:
        block = model.get_submodule(name)
        lists = {
            key: child for key, child in block.named_children() if isinstance(child, nn.ModuleList)
        }
        inner = [f"{name}.{key}.{n}" for key, child in lists.items() for n in range(len(child))]
        mostly = 2 * sum(map(_size, lists.values())) > _size(
            block
        )  # not an attention, whose way out is a list, too
        found += pieces(model, inner) if mostly else [name]
    return tuple(found)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def pieces_within(model: nn.Module, block: str) -> tuple[str, ...]:
    """The `pieces` of one block; its own parts where there is no list of modules in it."""
    found = pieces(model, [block])
    if found != (block,):
        return found
    children = model.get_submodule(block).named_children()
    return tuple(
        f"{block}.{name}" for name, child in children if any(True for _ in child.children())
    )


@contextmanager
def forget_and_recompute(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """While the block lasts, gradients keep of the modules `names` only what they are given.

    They must answer alike when called again: same weights, same step, no dropout. Gradients are the
    same."""
    with ExitStack() as stack:
        for module in (model.get_submodule(name) for name in names):
            own = module.__dict__.get(
                "forward"
            )  # a hook of diffusers, accelerate or an outer block
            module.forward = partial(_forgetful, module.forward)
            stack.callback(_restore, module, own)
        yield


def _restore(module: nn.Module, own: Any) -> None:
    del module.forward
    if own is not None:
        module.forward = own


def _forgetful(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


class Answered:
    """How many bytes the leaf modules of a model have answered."""

    def __init__(self) -> None:
        self.bytes = 0

    def __call__(self, module: nn.Module, args: tuple, answer: Any) -> None:
        self.bytes += sum(x.nbytes for x in _flat(answer))


@contextmanager
def measure_answered(model: nn.Module) -> Iterator[Answered]:
    """Count what leaf modules answer in calls of `model` while the block lasts."""
    count = Answered()
    hooks = [
        m.register_forward_hook(count)
        for m in model.modules()
        if not any(True for _ in m.children())
    ]
    try:
        yield count
    finally:
        for hook in hooks:
            hook.remove()


def too_large(count: int, device: torch.device) -> bool:
    """Would gradients through answers of `count` bytes take more than their part of the free
    memory of `device`?
    """
    free = free_memory(device)
    return free is not None and KEPT_PIECES * count > free // SHARE


def _flat(answer: Any) -> list[Tensor]:
    if isinstance(answer, Tensor):
        return [answer]
    return [x for one in answer for x in _flat(one)] if isinstance(answer, (tuple, list)) else []
