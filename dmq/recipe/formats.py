"""How values become codes: ranges, granularity, weight formats, activations."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..errors import DmqError
from .spec import BITS, FLOAT, Spec, option


@dataclass(frozen=True, kw_only=True)
class MinMax(Spec):
    """Cover everything that was seen: no clipping, the coarsest grid."""


@dataclass(frozen=True, kw_only=True)
class Percentile(Spec):
    """Cover the central part of what was seen and clip the tails."""

    percent: float = option(
        99.9, "Percent kept", 90.0, 100.0, help="Half of the rest is clipped on either side."
    )


@dataclass(frozen=True, kw_only=True)
class MseSearch(Spec):
    """The range, among shrunken ones, whose grid has the smallest mean squared error."""

    candidates: int = option(64, "Ranges tried", 8, 256)


Range = MinMax | Percentile | MseSearch


@dataclass(frozen=True, kw_only=True)
class PerTensor(Spec):
    """One scale for the whole tensor."""


@dataclass(frozen=True, kw_only=True)
class PerChannel(Spec):
    """One scale for each output channel of a weight, or each channel of an activation."""


@dataclass(frozen=True, kw_only=True)
class PerGroup(Spec):
    """One scale for each run of neighbouring inputs within a channel of a weight (channels of an
    activation).
    """

    size: int = option(32, "Group size", 2, 1024)


Granularity = PerTensor | PerChannel | PerGroup


TABLE: dict[str, Any] = {
    "choices": (16, 32),
    "help": "Of each number in the tables beside the codes: half or full precision.",
}


@dataclass(frozen=True, kw_only=True)
class Uniform(Spec):
    """The uniform grid that granularity, symmetry and range describe."""

    was: ClassVar[str] = "Grid"


@dataclass(frozen=True, kw_only=True)
class Uaq(Spec):
    """A uniform grid for each output channel, its range the best of a few shrunken ones
    (Qua²SeDiMo's UAQ).
    """

    power: float = option(2.4, "Exponent of the error", 1.0, 8.0)
    candidates: int = option(
        10, "Ranges tried", 1, 100, help="From the full range down, in equal parts."
    )
    table: int = option(16, "Bits of scales", **TABLE)


@dataclass(frozen=True, kw_only=True)
class KMeans(Spec):
    """A codebook of 2**bits values, found by k-means (Qua²SeDiMo's KMC and KMA)."""

    shared: str = option("channel", "A codebook for", choices=("channel", "tensor"))
    iterations: int = option(30, "Iterations", 1, 1000)
    table: int = option(16, "Bits of centroids", **TABLE)


@dataclass(frozen=True, kw_only=True)
class Hqq(Spec):
    """A grid for each group of inputs, whose zero points are moved to serve the many small
    weights (HQQ); no data.
    """

    group: int = option(64, "Group size", 2, 1024)
    iterations: int = option(20, "Iterations", 1, 1000)
    table: int = option(16, "Bits of scales", **TABLE)


@dataclass(frozen=True, kw_only=True)
class Gptq(Spec):
    """A uniform grid whose rounding errors are made up for by the columns that follow (GPTQ);
    learned from inputs.
    """

    group: int = option(0, "Group size", 0, 1024, help="0: one grid for each output channel.")
    damping: float = option(
        0.01, "Damping", 0.0, 1.0, help="Added to the diagonal, as part of its mean."
    )
    order: bool = option(False, "Columns by size of inputs", help="Instead of from left to right.")
    table: int = option(16, "Bits of scales", **TABLE)


@dataclass(frozen=True, kw_only=True)
class PowerOfTwo(Spec):
    """Zero and plus or minus powers of two times a scale for each output channel: products
    become shifts.
    """

    table: int = option(16, "Bits of scales", **TABLE)


@dataclass(frozen=True, kw_only=True)
class LowRank(Spec):
    """Two thin factors in half precision, and what they leave on a grid for each group of inputs
    (SVDQuant).

    Smoothing moves outliers of the inputs into the weights first. It is learned from inputs, and
    needs activations that are in float or quantized dynamically."""

    rank: int = option(32, "Rank", 1, 1024, help="At most half of the smaller side of a weight.")
    group: int = option(64, "Group size", 2, 1024)
    rounds: int = option(
        8, "Rounds", 1, 100, help="Factors and rest are fitted to each other in turn."
    )
    smooth: bool = option(True, "Smooth inputs")
    table: int = option(16, "Bits of scales", **TABLE)


Format = Uniform | Uaq | KMeans | Hqq | Gptq | PowerOfTwo | LowRank


MOST_BITS = {  # of formats that make no sense with more
    KMeans: "a codebook has at most 256 values",
    Hqq: "above that a grid needs no better zero points",
    PowerOfTwo: "finer powers are all next to zero",
    LowRank: "above that the rest needs no factors beside it",
}


def check_bits(bits: int, format: Any) -> None:
    """Raise DmqError if `format` cannot have, or makes no sense with, so many bits; FLOAT is
    float in any format.
    """
    if type(format) in MOST_BITS and 8 < bits < FLOAT:
        raise DmqError(
            f"bits is {bits}, but format {type(format).__name__} has at most 8: "
            f"{MOST_BITS[type(format)]}. Use 8 bits or fewer, or the format Uniform."
        )


@dataclass(frozen=True, kw_only=True)
class Weights(Spec):
    """Weights of every Linear and Conv layer."""

    bits: int = option(8, "Weight bits", choices=BITS, help="32 leaves them in floating point.")
    granularity: Granularity = PerChannel()
    symmetric: bool = option(
        False, "Symmetric weights", help="The zero point stays in the middle of the grid."
    )
    range: Range = MseSearch()
    format: Format = field(default=Uniform(), metadata={"omit_default": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bits(self.bits, self.format)


@dataclass(frozen=True, kw_only=True)
class WeightFormat(Spec):
    """What a weight can be made into: a format and its bits.

    Written "KMC-4", "UAQ-3", "float"; see `format_name`.
    """

    was: ClassVar[str] = "Choice"

    bits: int = option(4, "Weight bits", choices=BITS)
    format: Format = Uaq()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bits(self.bits, self.format)


SHORT = {
    "Uniform": "W",
    "Uaq": "UAQ",
    "Hqq": "HQQ",
    "Gptq": "GPTQ",
    "PowerOfTwo": "PoT",
    "LowRank": "LR",
}


def format_name(choice: WeightFormat | Weights) -> str:
    """The short name of a format and its bits, such as "KMC-4".

    >>> format_name(WeightFormat(bits=3, format=KMeans(shared="tensor")))
    'KMA-3'
    """
    if choice.bits == FLOAT:
        return "float"
    if isinstance(choice.format, KMeans):
        return f"{'KMC' if choice.format.shared == 'channel' else 'KMA'}-{choice.bits}"
    return f"{SHORT[type(choice.format).__name__]}-{choice.bits}"


FORMATS: dict[str, Format] = {
    "W": Uniform(),
    "UAQ": Uaq(),
    "KMC": KMeans(),
    "KMA": KMeans(shared="tensor"),
    "HQQ": Hqq(),
    "GPTQ": Gptq(),
    "POT": PowerOfTwo(),
    "LR": LowRank(),
}


def parse_format(label: str) -> WeightFormat:
    """The choice that a short name stands for, its format with default settings. Raises DmqError
    for others.

    >>> parse_format("KMC-4")
    WeightFormat(bits=4, format=KMeans(shared='channel', iterations=30, table=16))
    """
    if label == "float":
        return WeightFormat(bits=FLOAT, format=Uniform())
    name, _, bits = label.rpartition("-")
    if name.upper() not in FORMATS or not bits.isdigit() or int(bits) not in BITS:
        raise DmqError(
            f"{label!r:.40} is no choice; write a format and its bits, as UAQ-4: "
            f"{', '.join(FORMATS)}."
        )
    return WeightFormat(bits=int(bits), format=FORMATS[name.upper()])


@dataclass(frozen=True, kw_only=True)
class Activations(Spec):
    """Uniform affine inputs of every Linear and Conv layer, one slot of the bank for each group
    of timesteps.
    """

    bits: int = option(8, "Activation bits", choices=BITS, help="32 leaves them in floating point.")
    attention_bits: int = option(
        FLOAT,
        "Attention bits",
        choices=BITS,
        help="For q, k, v and the softmax output; 32 leaves them in float.",
    )
    granularity: Granularity = PerTensor()
    symmetric: bool = option(False, "Symmetric activations")
    range: Range = MseSearch()
    dynamic: str = option(
        "none",
        "Dynamic ranges",
        choices=("none", "token", "call", "sample"),
        omit_default=True,
        help="none: ranges are calibrated. token, sample: each token (of a convolution: each "
        "image), or each "
        "image, gets the range of its own values at run time; groups of timesteps then mean "
        "nothing. call: like "
        "token, but the images of a call share the range of a convolution (of 1 x 1: of each of "
        "its pixels), so "
        "that guidance magnifies less.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dynamic != "none" and not isinstance(self.granularity, PerTensor):
            raise DmqError(
                "dynamic activations have ranges by token, call or sample: set granularity to "
                "PerTensor."
            )
        if not isinstance(self.granularity, PerTensor) and not isinstance(self.range, MinMax):
            raise DmqError(
                "per-channel activations need range MinMax: histograms are kept per tensor."
            )
