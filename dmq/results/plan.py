"""The recipe resolved for one model: what each layer gets, and the exact bytes."""

from dataclasses import dataclass

import numpy as np

from ..recipe import (
    FLOAT,
    Hqq,
    KMeans,
    LowRank,
    NoCache,
    Temporal,
    Uniform,
    Weights,
    format_name,
)
from .model import Layer, Site, TemporalBlock


@dataclass(frozen=True, kw_only=True)
class ActivationQParams:
    """The activation quantizer of one site (contract 2): scale and zero per slot, a slot per
    timestep.

    codes = clip(round(x / scale[slot]) + zero[slot], 0, 2**bits[slot] - 1). Per channel, scale and
    zero are [slots, C] and `axis` is the channel's axis in x; where runs of channels share theirs,
    `parts` are the lengths of the runs and scale and zero [slots, runs]. A `dynamic` one takes
    dynamic ranges: it has no scale and zero, [0], and slots only where steps differ in bits.
    """

    site: Site
    bits: np.ndarray  # [slots] uint8
    scale: np.ndarray  # [slots], [slots, C] or [slots, runs] float32
    zero: np.ndarray  # like scale, int32
    slot: np.ndarray  # [T] int16
    axis: int | None = None
    parts: tuple[int, ...] = ()
    dynamic: str = ""  # "token", "place", "call" or "sample": what has the range of its own values
    symmetric: bool = False  # such a range

    @property
    def bytes(self) -> int:
        slots = (
            0 if self.dynamic and len(self.bits) == 1 else len(self.slot)
        )  # a slot is stored in one byte
        return self.bits.nbytes + self.scale.nbytes + self.zero.nbytes + slots

    @property
    def per(self) -> str:
        """What gets a range at run time, as `value_ranges` has it; "" if that is known before,
        as a softmax's 0..1.
        """
        if self.site.point == "probs":
            return ""
        conv = self.site.kind == "conv"
        return {"token": "sample" if conv else "token", "call": "call" if conv else "token"}.get(
            self.dynamic, self.dynamic
        )


ROUNDINGS = {
    KMeans: "k-means",
    Hqq: "HQQ",
    LowRank: "low rank",
}  # where codes are not just the nearest ones


@dataclass(frozen=True, kw_only=True)
class PlannedLayer:
    """What the plan decides for one layer, and what that costs."""

    layer: Layer
    weights: Weights  # its bits are FLOAT where the weight stays as it is
    activation_bits: int  # FLOAT: no bank
    reason: (
        str  # why a part is in float: "", "first layer", "last layer", "override GLOB", "recipe"
    )
    weight_bytes: int  # codes, scales and zero points; or 4 bytes a weight in float
    bias_bytes: int
    bank: (
        ActivationQParams | None
    )  # of its input; layers with the same bank share one, which is stored once
    dropped: bool = False  # the model does without it, since a cache holds what it would compute
    learned: str = (
        ""  # how its codes are learned: "TIAR", "block", …; "" if they follow from the weight alone
    )
    # input channels before those of a shortcut, which have scales of their own; 0: nothing is split
    split: int = 0

    @property
    def format(self) -> str:
        """Such as "W8A8", or "KMC-4 A8" off the uniform grid; "W8A32" and "KMC-4" have inputs in
        float.

        A layer without a quantized part is "float".
        """
        if self.dropped:
            return "cached"
        if self.weights.bits == self.activation_bits == FLOAT:
            return "float"
        if self.weights.bits == FLOAT or isinstance(self.weights.format, Uniform):
            return f"W{self.weights.bits}A{self.activation_bits}"
        inputs = f" A{self.activation_bits}" if self.activation_bits < FLOAT else ""
        return format_name(self.weights) + inputs

    @property
    def rounding(self) -> str:
        """Where its codes come from: what they are learned by ("TIAR", "block", …), "nearest",
        "k-means", "HQQ", …

        "" without codes.
        """
        if self.dropped or self.weights.bits == FLOAT:
            return ""
        return self.learned or ROUNDINGS.get(type(self.weights.format), "nearest")

    @property
    def unsmoothed(self) -> bool:
        """Is it low rank with calibrated ranges, which smoothed inputs cannot have?"""
        low_rank = (
            isinstance(self.weights.format, LowRank)
            and self.weights.bits < FLOAT
            and not self.dropped
        )
        return low_rank and self.bank is not None and not self.bank.dynamic


@dataclass(frozen=True, kw_only=True)
class TimeEmbedding:
    """What the plan decides for the time embedding as a whole; its layers are among `Plan.layers`."""

    block: TemporalBlock
    spec: Temporal
    cached: np.ndarray | None = (
        None  # [K, T] bool: features that come from the cache; None without one
    )

    @property
    def per_request(self) -> bool:
        """Is the cache built for each request, since more than t enters?"""
        return self.cached is not None and not self.block.finite

    @property
    def cache_bytes(self) -> int:
        """Of all cached features: codes without gaps, and a scale and a zero point for each, or
        half precision.

        Per request, that is for one row of conditioning. A selection by row stores also which ones
        are cached."""
        if self.cached is None or isinstance(self.spec.cache, NoCache):
            return 0
        widths = [projection.width for projection in self.block.projections]
        choice = -(-self.cached.size // 8) if self.spec.cache.selection == "row" else 0
        rows = zip(self.cached.sum(1).tolist(), widths, strict=True)
        return choice + sum(cache_bytes(n, width, self.spec.cache.bits) for n, width in rows)


def cache_bytes(rows: int, width: int, bits: int) -> int:
    """What `rows` temporal features of `width` numbers take in a cache of `bits`."""
    return (
        2 * rows * width
        if bits == 16
        else -(-rows * width * bits // 8) + rows * (4 + -(-bits // 8))
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """The recipe resolved for one model: what each layer gets, the slot tables, the exact bytes."""

    model: str
    fingerprint: str
    timesteps: tuple[float, ...]
    unknown_timestep: str
    layers: tuple[PlannedLayer, ...]
    attention: tuple[
        ActivationQParams, ...
    ]  # banks of q, k, v, probs; empty when attention stays in float
    attention_sites: int  # how many such operands the model has, quantized or not
    vector_bits: int  # bits of 1-D parameters outside of the layers above; FLOAT when protected
    vector_bytes: int  # of all 1-D and other parameters that are no layer's weight or bias
    float_bytes: int  # the float denoiser, 4 bytes a parameter
    temporal: TimeEmbedding | None = None  # None: the time embedding is nothing special
    relaxed: tuple[int, ...] = ()  # steps whose activations have more bits
    relaxed_bits: int = FLOAT
    progressive: bool = False  # ranges come from the quantized trajectory
    step_sizes: int = 0  # sites whose step sizes were learned by gradients

    @property
    def weight_bytes(self) -> int:
        return sum(row.weight_bytes + row.bias_bytes for row in self.layers)

    @property
    def table_bytes(self) -> int:
        shared = {bank.site: bank.bytes for bank in (row.bank for row in self.layers) if bank}
        return sum(shared.values()) + sum(bank.bytes for bank in self.attention)

    @property
    def cache_bytes(self) -> int:
        """Of stored temporal features; a cache that is built per request is not stored."""
        return self.temporal.cache_bytes if self.temporal and not self.temporal.per_request else 0

    @property
    def bytes(self) -> int:
        """Everything the quantized denoiser must store."""
        return self.weight_bytes + self.table_bytes + self.cache_bytes + self.vector_bytes

    @property
    def average_bits(self) -> float:
        """Bits per weight of the layers, scales and zero points included."""
        kept = [row for row in self.layers if not row.dropped]
        return (
            8
            * sum(row.weight_bytes for row in kept)
            / max(1, sum(row.layer.num_weights for row in kept))
        )

    @property
    def mean_activation_bits(self) -> float:
        """Bits of the quantized layers' inputs, mean over layers and steps; FLOAT if none is
        quantized.
        """
        banks = [row.bank for row in self.layers if row.bank]
        return (
            float(np.mean([bank.bits[bank.slot].mean() for bank in banks]))
            if banks
            else float(FLOAT)
        )
