"""Attention on a CPU, in pieces that stay in its caches."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.attention import Opened, open_attention


ROWS = 512  # queries at a time
SHORT = 1024  # below so many queries torch's own kernel is as good


class Chunked(Opened):
    """An attention processor whose products are taken in bfloat16, a run of queries at a time.

    On CPUs torch's fused kernel gains nothing from bfloat16, and plain products do. The error is that of bfloat16,
    about 0.5 %. What is short, masked or causal goes to torch's kernel.
    """

    def product(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """softmax(q k^T * scale) v, as `F.scaled_dot_product_attention` defines it; shapes (B, heads, L, D)."""
        plain = not args and set(kwargs) <= {"attn_mask", "dropout_p", "is_causal", "scale"}
        if not plain or kwargs.get("attn_mask") is not None or kwargs.get("is_causal") or kwargs.get("dropout_p"):
            return F.scaled_dot_product_attention(query, key, value, *args, **kwargs)
        if query.device.type != "cpu" or query.shape[-2] < SHORT or query.requires_grad:
            return F.scaled_dot_product_attention(query, key, value, *args, **kwargs)
        return chunked(query, key, value, kwargs.get("scale"))


def chunked(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """softmax(q k^T * scale) v in bfloat16, and the result in the queries' dtype."""
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    heads = math.prod(query.shape[:-2])
    q, k, v = (x.reshape(heads, *x.shape[-2:]).to(torch.bfloat16) for x in (query * factor, key, value))
    k = k.transpose(1, 2)
    made = q.new_empty(*q.shape[:-1], v.shape[-1])
    for head in range(heads):
        for start in range(0, q.shape[1], ROWS):
            rows = slice(start, start + ROWS)
            torch.mm((q[head, rows] @ k[head]).softmax(-1), v[head], out=made[head, rows])
    return made.view(*query.shape[:-1], v.shape[-1]).to(query.dtype)


def long_attention(model: nn.Module) -> bool:
    """May `model` have as many queries as are worth taking in pieces? A guess, from the size that it was made for."""
    side = getattr(getattr(model, "config", None), "sample_size", None)
    return isinstance(side, int) and side * side >= SHORT


def chunked_attention(model: nn.Module) -> None:
    """Let every attention of a borrowed `model` take its products in pieces."""
    open_attention(model, Chunked)
