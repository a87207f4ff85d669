"""The products inside attention, opened up: q, k, v and the softmax output as places that can be
watched or replaced.

`diffusers` attention calls `F.scaled_dot_product_attention`, which keeps its four operands to
itself. On a borrowed model, each attention's processor is run inside a mode that replaces this one
function. Whatever a processor does around it (masks, norms, added keys, rotary embeddings) stays
its own business. There are two ways:

    explicit_products    its definition: quantizers take the places of all four operands. The softmax output is
                         written to memory piece by piece, which is slower where the fused kernel is good
    watched_products     the fused kernel as ever, and beside it what `probabilities` can tell of the softmax output
"""

import math
from collections.abc import Iterator
from types import EllipsisType
from typing import Any

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..numerics.devices import chunk_size
from .probabilities import Probabilities, fuse, softmax


POINTS = ("q", "k", "v", "probs")
PIECE = 2**18  # softmax outputs at a time on a CPU: what stays in a core's cache
QUERIES = 64  # of a row's heads that are multiplied at once, at least: products of fewer are slow


class Opened(nn.Module):
    """An attention processor around another one, whose products are taken by `product`."""

    def __init__(self, processor: Any) -> None:
        super().__init__()
        self.processor = processor
        # Attention.forward drops the arguments that `inspect.signature(processor.__call__)` does
        # not name. Calling this object still goes to the class, hence to `forward`.
        self.__dict__["__call__"] = processor.__call__

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with _Explicit(self):
            return self.processor(*args, **kwargs)

    def product(
        self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """What `F.scaled_dot_product_attention` is to be here."""
        raise NotImplementedError


class Products(Opened):
    """An attention processor whose operands pass through the submodules `q`, `k`, `v` and `probs`.

    These are `nn.Identity`: hooks watch them, quantizers take their place. Shapes there: q (B,
    heads, Lq, D), k and v (B, heads, Lk, D) as the processor hands them over, before scaling; probs
    (rows, heads, queries, Lk), in several calls when all of them would leave the processor's cache:
    of consecutive rows, or of consecutive queries of one row. `calls` counts the products seen, so
    0 after a run says that this processor computes attention in some other way."""

    def __init__(self, processor: Any) -> None:
        super().__init__(processor)
        self.q, self.k, self.v, self.probs = (nn.Identity() for _ in POINTS)
        self.calls = 0

    def product(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """softmax(q k^T * scale + mask) v, as `F.scaled_dot_product_attention` defines it
        (PyTorch reference).
        """
        self.calls += 1
        q, k, v = self.q(query), self.k(key), self.v(value)
        if enable_gqa:
            k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], -3) for x in (k, v))
        q = q * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
        mask = _causal(q, k) if is_causal else attn_mask
        if mask is not None:
            mask = mask.expand(
                *q.shape[:-1], k.shape[-2]
            )  # a view: pieces are cut from it as from q
        answers = []
        for rows in _runs(q, k):
            parts = []
            for queries in rows:
                scores = q[queries] @ k[queries[0]].transpose(-2, -1)
                probs = self.probs(softmax(scores, None if mask is None else mask[queries]))
                parts.append((F.dropout(probs, dropout_p) if dropout_p else probs) @ v[queries[0]])
            answers.append(parts[0] if len(parts) == 1 else torch.cat(parts, -2))
        return answers[0] if len(answers) == 1 else torch.cat(answers)


class Watched(Products):
    """An attention processor that computes as it always did, and lets its operands be watched.

    `q`, `k` and `v` are as in `Products`; `probs` is given `Probabilities`, which compute what is
    asked of them."""

    def product(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """What the fused kernel answers."""
        if query.ndim != 4:
            return super().product(
                query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
            )
        self.calls += 1
        q, k, v = self.q(query), self.k(key), self.v(value)
        answer, lse = fuse(
            q,
            k,
            v,
            attn_mask,
            dropout_p=dropout_p,
            is_causal=is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
        )
        self.probs(Probabilities(q, k, _causal(q, k) if is_causal else attn_mask, scale, lse))
        return answer


def _runs(q: Tensor, k: Tensor) -> Iterator[list[tuple[slice | EllipsisType, ...]]]:
    """Places in q (B, ..., Lq, D) whose scores are taken at once, in order: for a run of rows
    those of its queries.
    """
    at_once, length = chunk_size(q.device, PIECE), q.shape[-2]
    one = max(1, math.prod(q.shape[1:-2]) * k.shape[-2])  # scores of a query, in all heads of a row
    rows, queries = max(1, at_once // (one * max(1, length))), length
    if one * length > at_once:
        queries = max(QUERIES, at_once // one)
    for r in range(0, len(q), rows):
        yield [
            (slice(r, r + rows), ..., slice(a, a + queries), slice(None))
            for a in range(0, length, queries)
        ]


def _causal(q: Tensor, k: Tensor) -> Tensor:
    return torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()


class _Explicit(TorchFunctionMode):
    def __init__(self, opened: Opened) -> None:
        super().__init__()
        self.opened = opened

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        call = self.opened.product if func is F.scaled_dot_product_attention else func
        return call(*args, **(kwargs or {}))


def make_products_explicit(model: nn.Module) -> dict[str, Products]:
    """Open up every attention of a borrowed `model` in place; by attention name, in registration
    order.

    Outputs agree with the fused kernel up to rounding. Hook or replace
    `model.get_submodule(f"{name}.processor.q")`."""
    return open_attention(model, Products)


def watch_products(model: nn.Module) -> dict[str, Watched]:
    """Let the operands of every attention of a borrowed `model` be watched; by attention name, as
    registered.

    Outputs are those of the fused kernel. Hook `model.get_submodule(f"{name}.processor.q")`;
    replace nothing."""
    return open_attention(model, Watched)


def open_attention(model: nn.Module, kind: type[Opened]) -> dict[str, Any]:
    """Put a processor of this `kind` around that of every attention of a borrowed `model`,
    unless one is there.
    """
    found = [
        (name, m)
        for name, m in model.named_modules()
        if isinstance(m, (Attention, AttentionModuleMixin))
    ]
    attention: Any  # diffusers names the processors that it knows
    for _, attention in found:
        processor = attention.processor
        # A plain attribute hides a submodule of the same name, so it must go first.
        del attention.processor
        attention.processor = processor if isinstance(processor, kind) else kind(processor)
    return {name: attention.processor for name, attention in found}
