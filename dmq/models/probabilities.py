"""What can be told of attention's softmax output without writing it to memory.

The probability of a key is exp(score - lse), lse being the logsumexp of its query's scores, which
the fused kernel finds anyway. So the extremes take one more product of queries and keys, in pieces,
and no exponentials; and a few entries take the scores of these entries alone."""

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend

from ..numerics.devices import chunk_size


ON_CPU = (
    2**20
)  # scores at a time: few enough for a cache, many enough for threads to be worth their while


def fuse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """What `F.scaled_dot_product_attention` answers, and the logsumexp of each query's scores (B,
    heads, Lq).

    None in its place where the kernel that torch would choose keeps it to itself.
    """
    how: dict[str, Any] = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
    if q.device.type == "cpu" and not enable_gqa:
        if torch._fused_sdp_choice(q, k, v, mask, **how) == SDPBackend.FLASH_ATTENTION.value:
            if mask is not None and mask.dtype is torch.bool:
                mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, -math.inf)
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q, k, v, attn_mask=mask, **how
            )
    return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=enable_gqa, **how), None


class Probabilities:
    """softmax(q k^T * scale + mask) over the keys, (B, heads, Lq, Lk), computed where it is asked
    for.

    Shapes: q (B, heads, Lq, D); k (B, heads or a part of them, Lk, D); mask boolean (True: may
    look) or added, as it broadcasts; `lse` (B, heads, Lq), the logsumexp of each query's scores, is
    found if it is not given. Values are float32 whatever the operands are, and 0 for a query that
    may look nowhere."""

    def __init__(
        self, q: Tensor, k: Tensor, mask: Tensor | None, scale: float | None, lse: Tensor | None
    ) -> None:
        self.q, self.k, self._lse = q.detach(), k.detach(), lse
        self.scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
        self.shape, self.device = torch.Size((*q.shape[:-1], k.shape[-2])), q.device
        self.mask = None if mask is None else mask.detach().expand(self.shape)

    @torch.no_grad()
    def extremes(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest probability in each head, float32 [heads] each."""
        lows, highs = [], []
        for pieces in self._scores(*self._factors):
            ends = [
                (scores.amin(1), scores.amax(1))
                for scores in (piece.flatten(1) for piece in pieces)
            ]
            low, high = map(torch.stack, zip(*ends, strict=True))
            lows.append(low.amin(0))
            highs.append(high.amax(0))
        low, high = (_exp(torch.cat(end)).view(self.shape[:2]) for end in (lows, highs))
        return low.amin(0), high.amax(0)

    @torch.no_grad()
    def at(self, places: Tensor) -> Tensor:
        """The probabilities at `places`, int64 of any shape: positions in the flattened (B,
        heads, Lq, Lk).
        """
        _, _, queries, keys = self.shape
        q, k = self._factors
        key, rest = places % keys, places // keys
        query, head = rest % queries, rest // queries
        q = q.flatten(0, 1).index_select(0, (head * queries + query).flatten())
        k = k.flatten(0, 1).index_select(0, (head * keys + key).flatten())
        scores = (q * k).sum(-1).view(places.shape)
        if self.mask is not None:
            scores = _masked(
                scores, self.mask[head // self.shape[1], head % self.shape[1], query, key]
            )
        return _exp(scores)

    @torch.no_grad()
    def whole(self) -> Tensor:
        """All of them, as `F.scaled_dot_product_attention` defines them, in the dtype of the
        operands.
        """
        return softmax((self.q * self.scale) @ self._keys.mT, self.mask)

    @property
    def _keys(self) -> Tensor:
        """The keys of every head: several may share theirs."""
        shared = self.shape[1] // self.k.shape[1]
        return self.k.repeat_interleave(shared, 1) if shared > 1 else self.k

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor]:
        """Queries and keys (B heads, L, D + 1), float32, whose products are the logarithms before
        the mask.

        Their last columns are -lse and 1.
        """
        q, k = (self.q.float() * self.scale).flatten(0, 1), self._keys.float().flatten(0, 1)
        if self._lse is None:
            heads = [
                torch.cat([scores.logsumexp(2) for scores in pieces], 1)
                for pieces in self._scores(q, k)
            ]
            lse = torch.cat(heads)
        else:
            lse = self._lse.float().flatten(0, 1)
        lse = lse.masked_fill(lse == -math.inf, 0)  # of a query that may look nowhere
        return torch.cat([q, -lse.unsqueeze(2)], 2), torch.cat([k, k.new_ones(*k.shape[:2], 1)], 2)

    def _scores(self, q: Tensor, k: Tensor) -> Iterator[Iterator[Tensor]]:
        """q k^T + mask in pieces (heads, queries, Lk): for each run of heads, of all rows, those
        of its queries.
        """
        (heads, length, _), keys = q.shape, k.shape[1]
        at_once = chunk_size(q.device, ON_CPU)
        queries = max(1, min(length, at_once // max(1, keys)))
        run = max(1, at_once // max(1, length * keys))
        buffer = q.new_empty(min(run, heads) * queries * keys)
        for h in range(0, heads, run):
            some = slice(h, min(h + run, heads))
            yield (
                self._piece(q, k, some, slice(a, a + queries), buffer)
                for a in range(0, length, queries)
            )

    def _piece(self, q: Tensor, k: Tensor, heads: slice, queries: slice, buffer: Tensor) -> Tensor:
        start, count = queries.start, min(queries.stop, q.shape[1]) - queries.start
        some, keys = (
            x.narrow(0, heads.start, heads.stop - heads.start)
            for x in (q.narrow(1, start, count), k)
        )
        shape = (*some.shape[:2], keys.shape[1])
        scores = torch.bmm(some, keys.mT, out=buffer.narrow(0, 0, math.prod(shape)).view(shape))
        if self.mask is None:
            return scores
        head = torch.arange(heads.start, heads.stop, device=q.device)
        return _masked(scores, self.mask[head // self.shape[1], head % self.shape[1], queries])


def softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Probabilities of `scores` over the last axis; `mask`, of their shape, is boolean (True:
    may look) or added.
    """
    return (scores if mask is None else _masked(scores, mask)).softmax(-1)


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else scores + mask


def _exp(logarithms: Tensor) -> Tensor:
    return logarithms.exp().clamp(max=1)  # rounding may lift a score over its query's logsumexp
