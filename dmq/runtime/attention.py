"""Attention on a CPU, in pieces that stay in its caches."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.attention import Opened, open_attention


SCORES = 2**21  # at a time: they should stay in the caches
FAR = 100  # a score's power of two, up to which any sum of them is a number
LANES = 16  # numbers that a core multiplies at once: what products are as wide as a multiple of
SHORT = 1024  # below so many queries torch's own kernel is as good


class Chunked(Opened):
    """An attention processor whose products are taken in bfloat16, a run of queries at a time.

    On CPUs torch's fused kernel gains nothing from bfloat16, and plain products do. The error is
    that of bfloat16, about 0.5 %. What is short, masked or causal goes to torch's kernel."""

    def product(
        self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """softmax(q k^T * scale) v, as `F.scaled_dot_product_attention` defines it; shapes (B,
        heads, L, D).
        """
        plain = not args and set(kwargs) <= {"attn_mask", "dropout_p", "is_causal", "scale"}
        if (
            not plain
            or kwargs.get("attn_mask") is not None
            or kwargs.get("is_causal")
            or kwargs.get("dropout_p")
        ):
            return F.scaled_dot_product_attention(query, key, value, *args, **kwargs)
        if query.device.type != "cpu" or query.shape[-2] < SHORT or query.requires_grad:
            return F.scaled_dot_product_attention(query, key, value, *args, **kwargs)
        if torch.compiler.is_compiling():  # which would write out the loops
            return torch.ops.dmq.attention(query, key, value, kwargs.get("scale"))
        return _run_chunked(query, key, value, kwargs.get("scale"))


def _run_chunked(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """softmax(q k^T * scale) v in bfloat16, and the result in the queries' dtype.

    A row is divided by its sum only after the second product, which finds that sum as well: by a
    column of ones beside the values. Its greatest score is taken off where powers of two could
    leave bfloat16's range, which the lengths of queries and keys tell (Cauchy and Schwarz)."""
    factor = (1 / math.sqrt(query.shape[-1]) if scale is None else scale) / math.log(2)
    *outer, length, _ = query.shape
    heads, keys, width = math.prod(outer), key.shape[-2], value.shape[-1]
    scaled = torch.mul(query, factor, out=query.new_empty(query.shape, dtype=torch.bfloat16))
    q, k = (x.to(torch.bfloat16).reshape(heads, *x.shape[-2:]) for x in (scaled, key))
    v = q.new_zeros(*outer, keys, (width // LANES + 1) * LANES)
    v[..., :width], v[..., width] = value, 1
    v = v.view(heads, keys, -1)
    reach = (q.norm(dim=-1).amax(1).float() * k.norm(dim=-1).amax(1).float()).tolist()
    made = q.new_empty(heads, length, v.shape[-1])
    rows = max(1, min(length, SCORES // keys))
    buffer = q.new_empty(rows, keys)
    for head in range(heads):
        for start in range(0, length, rows):
            some = q[head, start : start + rows]
            scores = torch.mm(some, k[head].t(), out=buffer[: len(some)])
            if reach[head] > FAR:
                scores.sub_(scores.amax(-1, keepdim=True))
            torch.mm(scores.exp2_(), v[head], out=made[head, start : start + rows])
    made = made.view(*outer, length, -1)
    return torch.div(
        made[..., :width], made[..., width : width + 1], out=_answer(query, key, value)
    )


def _answer(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """An empty answer: the heads of one query side by side in memory, as the layer that follows
    wants them.
    """
    *outer, heads, length, _ = query.shape
    return query.new_empty(*outer, length, heads, value.shape[-1]).transpose(-3, -2)


_library = torch.library.Library("dmq", "FRAGMENT")
_library.define("attention(Tensor query, Tensor key, Tensor value, float? scale) -> Tensor")
_library.impl("attention", lambda *args: _run_chunked(*args), "CompositeExplicitAutograd")
_library.impl("attention", _answer, "Meta")


def long_attention(model: nn.Module) -> bool:
    """May `model` have as many queries as are worth taking in pieces? A guess, from the size
    that it was made for.
    """
    side = getattr(getattr(model, "config", None), "sample_size", None)
    return isinstance(side, int) and side * side >= SHORT


def attend_in_chunks(model: nn.Module) -> None:
    """Let every attention of a borrowed `model` take its products in pieces."""
    open_attention(model, Chunked)
