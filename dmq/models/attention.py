"""The products inside attention, opened up: q, k, v and the softmax output as places that can be watched or replaced.

`diffusers` attention calls `F.scaled_dot_product_attention`, which keeps its four operands to itself. On a borrowed
model, each attention's processor is run inside a mode that replaces this one function by its definition. Whatever a
processor does around it (masks, norms, added keys, rotary embeddings) stays its own business. The drawback: the
softmax output is written to memory, so the explicit form is slower where the fused kernel is good.
"""

import math
from typing import Any

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


POINTS = ("q", "k", "v", "probs")
PIECE = 2**18  # softmax outputs at a time: what stays in a core's cache


class Opened(nn.Module):
    """An attention processor around another one, whose products are taken by `product`."""

    def __init__(self, processor: Any) -> None:
        super().__init__()
        self.processor = processor
        # Attention.forward drops the arguments that `inspect.signature(processor.__call__)` does not name. Calling
        # this object still goes to the class, hence to `forward`.
        self.__dict__["__call__"] = processor.__call__

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with _Explicit(self):
            return self.processor(*args, **kwargs)

    def product(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What `F.scaled_dot_product_attention` is to be here."""
        raise NotImplementedError


class Products(Opened):
    """An attention processor whose operands pass through the submodules `q`, `k`, `v` and `probs`.

    These are `nn.Identity`: hooks watch them, quantizers take their place. Shapes there: q (B, heads, Lq, D), k and v
    (B, heads, Lk, D) as the processor hands them over, before scaling; probs (rows, heads, Lq, Lk), in several calls
    of consecutive rows when all of them would leave the processor's cache. `calls` counts the products seen, so 0
    after a run says that this processor computes attention in some other way.
    """

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
        """softmax(q k^T * scale + mask) v, as `F.scaled_dot_product_attention` defines it (PyTorch reference)."""
        self.calls += 1
        q, k, v = self.q(query), self.k(key), self.v(value)
        if enable_gqa:
            k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], -3) for x in (k, v))
        q = q * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        if attn_mask is not None and attn_mask.ndim == q.ndim:
            attn_mask = attn_mask.expand(len(q), *attn_mask.shape[1:])
        rows = max(1, PIECE // max(1, math.prod(q.shape[1:-1]) * k.shape[-2]))
        parts = []
        for part in (slice(r, r + rows) for r in range(0, len(q), rows)):
            mask = attn_mask[part] if attn_mask is not None and attn_mask.ndim == q.ndim else attn_mask
            probs = self.probs(_probabilities(q[part], k[part], mask))
            parts.append((F.dropout(probs, dropout_p) if dropout_p else probs) @ v[part])
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _probabilities(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    scores = q @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else scores + mask
    return scores.softmax(-1)


class _Explicit(TorchFunctionMode):
    def __init__(self, opened: Opened) -> None:
        super().__init__()
        self.opened = opened

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        call = self.opened.product if func is F.scaled_dot_product_attention else func
        return call(*args, **(kwargs or {}))


def explicit_products(model: nn.Module) -> dict[str, Products]:
    """Open up every attention of a borrowed `model` in place; by attention name, in registration order.

    Outputs agree with the fused kernel up to rounding. Hook or replace `model.get_submodule(f"{name}.processor.q")`.
    """
    return open_attention(model, Products)


def open_attention(model: nn.Module, kind: type[Opened]) -> dict[str, Any]:
    """Put a processor of this `kind` around that of every attention of a borrowed `model`, unless one is there."""
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, (Attention, AttentionModuleMixin))]
    for _, attention in found:
        processor = attention.processor
        # A plain attribute hides a submodule of the same name, so it must go first.
        del attention.processor
        attention.processor = processor if isinstance(processor, kind) else kind(processor)
    return {name: attention.processor for name, attention in found}
