"""Cached temporal features: tables of rows by step, and the modules that read them in place of the
time embedding.

    offline   t is all that enters: rows are made once, the time embedding leaves the model where nothing needs it
    request   a class, prompt or size enters: rows are made by the float time embedding, which stays, when a call
              brings conditioning that was not seen yet

Source: tfm, "Cache-based maintenance".
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..models.adapter import AbstractAdapter
from ..models.borrow import replace
from ..models.temporal import temporal_features, timestep_rows
from ..numerics.affine import dequantize, grid, quantize
from ..numerics.threads import one_thread
from ..recipe import Cache
from ..results import TimeEmbedding
from .bank import Clock


REQUESTS = 64  # rows of conditioning that are kept before all are forgotten


class FeatureTable(nn.Module):
    """Temporal features in `bits`: codes with a scale and a zero point for each row, or half
    precision for 16 bits.
    """

    like: Tensor
    codes: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, features: Tensor, bits: int) -> None:
        """`features` is [rows, C] float32; each row's range is exactly that of its values and 0."""
        super().__init__()
        self.bits = bits
        # Nothing but its dtype counts: it follows the model when that is cast.
        self.register_buffer("like", features.new_empty(0))
        if bits == 16:
            self.register_buffer("codes", features.half())
            return
        low, high = features.aminmax(dim=1, keepdim=True)
        scale, zero = grid(low, high, bits, symmetric=False)
        codes = quantize(features, scale, zero, bits)
        self.register_buffer("codes", codes.to(torch.uint8 if bits <= 8 else torch.int32))
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero.to(torch.int32))

    def forward(self, rows: int | Tensor) -> Tensor:
        """The features of some rows, [C] for one, in the model's dtype."""
        codes = self.codes[rows]
        if self.bits < 16:
            codes = dequantize(codes.float(), self.scale[rows].float(), self.zero[rows].float())
        return codes.to(self.like.dtype)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, rows={len(self.codes)}, width={self.codes.shape[1]}"


class CachedFeature(nn.Module):
    """Stands where a module of the time embedding stood and answers with the row of the step, for a
    batch of any size.
    """

    def __init__(
        self, table: FeatureTable, clock: Clock, row: list[int | None], computed: nn.Module | None
    ) -> None:
        """`row[i]` is the row of step i; where it is None, `computed` answers."""
        super().__init__()
        self.table, self.clock, self.row, self.computed = table, clock, row, computed

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        row = self.row[self.clock.i]
        if row is None:
            assert self.computed is not None
            return self.computed(x, *args, **kwargs)
        return self.table(row).expand(len(x), -1)


class Gone(nn.Module):
    """Stands where the time embedding stood when all that read it is cached."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x.new_zeros(len(x), 1)


def install_cache(
    quantized_model: nn.Module,
    model: nn.Module,
    time: TimeEmbedding,
    adapter: AbstractAdapter,
    clock: Clock,
) -> None:
    """Put the cache that `time` decides on into the quantized `quantized model` of the float `model`."""
    if time.per_request:
        requests = RequestCache(time, adapter, clock)
        for k, projection in enumerate(time.block.projections):
            replace(
                quantized_model,
                projection.name,
                RequestedFeature(requests, k, quantized_model.get_submodule(projection.name)),
            )
        # After the clock's own hook, which must have found the step.
        quantized_model.register_forward_pre_hook(requests.before_call, with_kwargs=True)
        return
    device = next(quantized_model.parameters()).device
    with one_thread():
        t = timestep_rows(clock.timesteps).to(device)
        features = temporal_features(model, adapter, time.block, t, {})
    assert time.cached is not None and isinstance(time.spec.cache, Cache)
    whole = bool(time.cached.all())
    for root in time.block.embeddings if whole else ():
        replace(quantized_model, root, Gone())
    for k, projection in enumerate(time.block.projections):
        steps = time.cached[k].nonzero()[0].tolist()
        if steps:
            row = [steps.index(i) if i in steps else None for i in range(len(time.cached[k]))]
            computed = None if None not in row else quantized_model.get_submodule(projection.name)
            table = FeatureTable(features[k][steps], time.spec.cache.bits)
            table.like = table.like.to(next(quantized_model.parameters()).dtype)
            replace(quantized_model, projection.name, CachedFeature(table, clock, row, computed))


# --- per request ----------------------------------------------------------------------------------


class RequestCache:
    """The tables of the requests at hand; `before_call` finds out which row of conditioning each
    row of a call has.

    Its method is the hook, not a closure, so that a copy of the model has a cache of its own.
    """

    def __init__(self, time: TimeEmbedding, adapter: AbstractAdapter, clock: Clock) -> None:
        assert isinstance(time.spec.cache, Cache)
        self.time, self.adapter, self.clock, self.bits = time, adapter, clock, time.spec.cache.bits
        self.known: list[dict[str, Tensor]] = []  # distinct rows of conditioning
        self.tables: list[
            list[FeatureTable]
        ] = []  # for each of them, a table [T, C_k] for each projection
        self.request: list[int] = []  # for each row of the call, which of them it is
        self.building = False

    def before_call(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """The forward pre-hook of the denoiser."""
        given = self.adapter.conditioning(args, kwargs)
        rows = len(self.adapter.sample_of(args, kwargs))
        named = {name: given[name] for name in self.time.block.arguments}
        if len(self.known) > REQUESTS:
            self.known, self.tables = [], []
        self.request = [
            self._place(model, {name: x[r] for name, x in named.items()}) for r in range(rows)
        ]

    def feature(self, k: int) -> Tensor:
        """What projection k gives for each row of the call at the clock's step, [rows, C_k]."""
        return torch.stack([self.tables[n][k](self.clock.i) for n in self.request])

    def _place(self, model: nn.Module, one: dict[str, Tensor]) -> int:
        for n, other in enumerate(self.known):
            if all(torch.equal(one[name], other[name]) for name in one):
                return n
        self.known.append({name: x.clone() for name, x in one.items()})
        self.tables.append(self._build(model, one))
        return len(self.known) - 1

    @torch.no_grad()
    def _build(self, model: nn.Module, one: Mapping[str, Tensor]) -> list[FeatureTable]:
        t = timestep_rows(self.clock.timesteps).to(next(model.parameters()).device)
        given = {name: x.expand(len(t), *x.shape).contiguous() for name, x in one.items()}
        self.building = True
        try:
            features = temporal_features(model, self.adapter, self.time.block, t, given)
        finally:
            self.building = False
        tables = [FeatureTable(x, self.bits) for x in features]
        for table in tables:
            table.like = table.like.to(next(model.parameters()).dtype)
        return tables


class RequestedFeature(nn.Module):
    """Stands where a module of the time embedding stood, which it keeps: the cache of a request is
    made with it.
    """

    def __init__(self, requests: RequestCache, k: int, computed: nn.Module) -> None:
        super().__init__()
        self.requests, self.k, self.computed = requests, k, computed

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.requests.building:
            return self.computed(x, *args, **kwargs)
        return self.requests.feature(self.k)
