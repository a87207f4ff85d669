"""What to do, as plain frozen data: JSON, links and forms are views of it. No torch, no numpy:
imports at once.

The union types at the bottom of each section are the registry: a new choice is a new spec added to
its union, plus the functions that `functools.singledispatch` finds for it."""

import fnmatch
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, ClassVar

from .errors import DmqError
from .public import check_model


FLOAT = 32  # as a number of bits: leave it in floating point
BITS = (2, 3, 4, 5, 6, 7, 8, 10, 16, FLOAT)
MAX_PROMPT = (
    300  # characters; longer ones are cut by every text encoder anyway, so they are a mistake
)


def option(
    default: Any,
    label: str,
    low: Any = None,
    high: Any = None,
    *,
    choices: tuple = (),
    help: str = "",
    omit_default: bool = False,
    was: str = "",
    was_choices: dict[str, str] | None = None,
) -> Any:
    """A field with its name and limits, read by validation, the forms, and `--help` alike.

    A number has `low` and `high` (both included), a choice has `choices`, a switch or a text has
    neither. With `omit_default` it is left out of JSON where it has its default: what was
    kept before there was such a field is still found. `was` is its first name, and `was_choices`
    has first words by those of now: they are read, and keys go on with them.
    """
    limits = (
        {"low": low, "high": high} if low is not None else {"choices": choices} if choices else {}
    )
    named = {"was": was} if was else {}
    named |= {"was_choices": was_choices} if was_choices else {}
    known = {"label": label, "help": help, "omit_default": omit_default}
    return field(default=default, metadata=known | limits | named)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Base of every choice a recipe can make.

    Subclasses are final: they add fields and checks, never behaviour.
    """

    def __post_init__(self) -> None:
        for f in fields(self):
            value, limits = getattr(self, f.name), f.metadata
            if "low" in limits and not limits["low"] <= value <= limits["high"]:
                raise DmqError(f"{f.name} is {value}, outside {limits['low']} to {limits['high']}.")
            if "choices" in limits and value not in limits["choices"]:
                raise DmqError(
                    f"{f.name} is {value!r}, not one of {', '.join(map(str, limits['choices']))}."
                )


# --- how a range becomes a grid -------------------------------------------------------------------


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


# --- what a weight is made into -------------------------------------------------------------------


TABLE = {
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

    >>> format_name(Choice(bits=3, format=KMeans(shared="tensor")))
    'KMA-3'
    """
    if choice.bits == FLOAT:
        return "float"
    if isinstance(choice.format, KMeans):
        return f"{'KMC' if choice.format.shared == 'channel' else 'KMA'}-{choice.bits}"
    return f"{SHORT[type(choice.format).__name__]}-{choice.bits}"


FORMATS = {
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
    Choice(bits=4, format=KMeans(shared='channel', iterations=30, table=16))
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


# --- the time axis --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SharedRange(Spec):
    """One range for all timesteps: the static quantizer."""


@dataclass(frozen=True, kw_only=True)
class UniformGroups(Spec):
    """Cut the trajectory into groups of equal length."""

    count: int = option(8, "Groups", 1, 64)


@dataclass(frozen=True, kw_only=True)
class ManualGroups(Spec):
    """Cut the trajectory by hand; each boundary is the first step of a new group."""

    boundaries: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not all(low < high for low, high in pairwise([0, *self.boundaries])):
            raise DmqError(
                f"boundaries must rise strictly and start above 0, got {list(self.boundaries)}."
            )


@dataclass(frozen=True, kw_only=True)
class OptimalGroups(Spec):
    """Place the cuts where they minimise the quantization error (exact, by dynamic programming)."""

    count: int = option(8, "Groups", 1, 64)
    min_length: int = option(1, "Shortest group", 1, 64, help="In steps.")
    per_layer: bool = option(False, "Each layer its own cuts")


@dataclass(frozen=True, kw_only=True)
class PerStep(Spec):
    """A range of its own for every timestep: the finest partition."""


@dataclass(frozen=True, kw_only=True)
class LearnedGroups(Spec):
    """Let a search by gradients choose each step's group and learn the groups' ranges with it
    (ADP-DM).
    """

    count: int = option(8, "Groups", 1, 64)
    per_layer: bool = option(True, "Each layer its own groups")
    contiguous: bool = option(
        False, "Only neighbouring steps", help="A group is one run of steps, as cut by hand."
    )
    iterations: int = option(0, "Iterations", 0, 1_000_000, help="0: eight for each step.")
    rate: float = option(
        0.005, "Learning rate of ranges", 0.0, 1.0, help="Relative to the width of a range."
    )
    choice_rate: float = option(
        0.1, "Learning rate of the choice", 0.0, 10.0, help="Of the importance weights."
    )
    temperature: float = option(
        1.0, "Temperature at the start", 0.01, 100.0, help="Higher mixes the groups more."
    )
    final_temperature: float = option(0.2, "Temperature at the end", 0.01, 100.0)
    entropy_weight: float = option(
        0.05, "Weight of the entropy", 0.0, 100.0, help="Pushes each step to one group."
    )
    score: str = option(
        "ucb",
        "Which step is next",
        choices=("ucb", "linear"),
        help="The most uncertain one: over how often it was used (ucb), or less that (linear).",
    )
    mmd: float = option(
        0.0, "Weight of the discrepancy", 0.0, 100.0, help="Steps used should resemble all steps."
    )
    trajectories: int = option(16, "Images generated to learn from", 1, 4096)
    batch: int = option(2, "Images an iteration", 1, 256)
    refits: int = option(1, "Passes over the steps with groups fixed", 0, 16)
    seed: int = option(0, "Seed", 0, 2**31 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.final_temperature > self.temperature:
            raise DmqError(
                f"final_temperature is {self.final_temperature:g}, above the {self.temperature:g} "
                "of the start; "
                "the choice must become harder, not softer."
            )


Grouping = SharedRange | UniformGroups | ManualGroups | OptimalGroups | LearnedGroups | PerStep


# --- which steps ranges and reconstruction are made from ------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AllSteps(Spec):
    """What was seen at every step counts the same."""


@dataclass(frozen=True, kw_only=True)
class UniformSteps(Spec):
    """Evenly spaced steps (Q-Diffusion)."""

    count: int = option(25, "Steps sampled", 1, 100_000)


@dataclass(frozen=True, kw_only=True)
class NormalSteps(Spec):
    """Steps sampled from a normal distribution (PTQ4DM); mean and spread as shares of the way,
    from the clean end.
    """

    count: int = option(64, "Steps sampled", 1, 100_000, help="With repetition.")
    mean: float = option(
        0.4, "Mean", 0.0, 1.0, help="0 is the last step, 1 the first and noisiest."
    )
    std: float = option(0.4, "Spread", 0.0, 2.0)
    seed: int = option(0, "Seed", 0, 2**31 - 1)


@dataclass(frozen=True, kw_only=True)
class ActiveSteps(Spec):
    """The steps that a search for groups used, as often as it used them (ADP-DM's structural
    risk).
    """

    score: str = option("ucb", "Which step is next", choices=("ucb", "linear"))
    mmd: float = option(
        0.0, "Weight of the discrepancy", 0.0, 100.0, help="Steps used should resemble all steps."
    )


CalibrationSteps = AllSteps | UniformSteps | NormalSteps | ActiveSteps


# --- the time embedding --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NearestRounding(Spec):
    """Every weight takes its nearest code."""


@dataclass(frozen=True, kw_only=True)
class Tiar(Spec):
    """Learn which way each weight of the time embedding is rounded, against its own float outputs;
    needs no images.
    """

    iterations: int = option(2000, "Iterations", 1, 50_000)
    rate: float = option(0.01, "Learning rate", choices=(0.0003, 0.001, 0.003, 0.01, 0.03))
    batch: int = option(64, "Timesteps at a time", 1, 1024, help="All of them if there are fewer.")
    seed: int = option(0, "Seed", 0, 2**31 - 1)


TemporalRounding = NearestRounding | Tiar


@dataclass(frozen=True, kw_only=True)
class NoCache(Spec):
    """The time embedding computes its features at every step."""


@dataclass(frozen=True, kw_only=True)
class Cache(Spec):
    """Features of all steps are computed once in float and stored; what is no longer needed
    leaves the model.
    """

    bits: int = option(
        8, "Cache bits", 4, 16, help="One scale for each step and block; 16 stores half precision."
    )
    selection: str = option(
        "none",
        "Selection",
        choices=("none", "block", "row"),
        help="Cache everything, or only where that errs less than the time embedding: for whole blocks, "
        "or for each step.",
    )


Maintenance = NoCache | Cache


@dataclass(frozen=True, kw_only=True)
class Temporal(Spec):
    """How the time embedding (embedding of t, and what each block makes of it) is quantized and kept.

    Its bits are those of the other layers unless overrides say otherwise.
    """

    rounding: TemporalRounding = NearestRounding()
    fsc: str = option(
        "none",
        "Ranges per step",
        choices=("none", "tib", "all"),
        help="Finite set calibration: of the time embedding's activations (tib), or of all activations.",
    )
    cache: Maintenance = NoCache()


# --- the rounding of the other layers -------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BlockReconstruction(Spec):
    """Learn which way the weights of each block are rounded, so that its output is the float one's
    (BRECQ).

    Blocks go in forward order; each gets its inputs from the quantized part before it. Of little
    use at 8 bits. With `steps`, the step sizes of its activations are learned after that (LSQ, as
    in Q-Diffusion)."""

    iterations: int = option(1000, "Iterations for each block", 1, 50_000)
    rate: float = option(0.01, "Learning rate", choices=(0.0003, 0.001, 0.003, 0.01, 0.03))
    batch: int = option(
        8, "Rows at a time", 1, 256, help="Of one denoiser call; with guidance an image has two."
    )
    images: int = option(8, "Images learned from", 1, 1024, was="pictures")
    time: bool = option(
        False,
        "Also what the blocks make of the time",
        help="As before TIAR. Otherwise those layers stay as they are.",
    )
    seed: int = option(0, "Seed", 0, 2**31 - 1)
    steps: int = option(
        0,
        "Iterations for activation step sizes",
        0,
        50_000,
        help="After the rounding; 0: the ranges stay.",
    )
    step_rate: float = option(
        0.004, "Their learning rate", choices=(0.0001, 0.0004, 0.001, 0.004, 0.01)
    )


# --- ranges along the quantized trajectory, and steps with more bits ------------------------------


@dataclass(frozen=True, kw_only=True)
class Progressive(Spec):
    """Set the activation ranges step by step on the trajectory that the quantized model really
    walks (PCR).
    """

    variant: str = option(
        "exact",
        "Procedure",
        choices=("exact", "strict", "one_pass"),
        help="exact: observe a step, set its ranges, generate it again. strict: observe with "
        "activations of the step in "
        "float. one_pass: do not generate it again, which takes half the time and means something "
        "else.",
    )
    inner: int = option(
        1, "Times a step is observed", 1, 8, help="Each time with the ranges set before."
    )


@dataclass(frozen=True, kw_only=True)
class Relaxing(Spec):
    """Give a part of the steps more activation bits (PCR's activation relaxing)."""

    bits: int = option(10, "Bits of relaxed steps", choices=BITS)
    fraction: float = option(0.2, "Part of the steps", 0.0, 1.0)
    where: str = option(
        "last",
        "Which steps",
        choices=("first", "last", "list", "auto"),
        help="The noisy end (first), the clean end (last), given ones, or the run of steps that "
        "measuring finds best.",
    )
    steps: tuple[int, ...] = ()
    judge: str = option(
        "fidelity",
        "What decides",
        choices=("fidelity", "text"),
        help="With auto: likeness to the float images, or how well images fit their prompts.",
    )
    windows: int = option(
        5, "Windows measured", 2, 50, help="With auto: the trajectory is cut into so many."
    )
    images: int = option(8, "Images measured on", 1, 1024, help="With auto.", was="pictures")
    match_reference_code: bool = option(
        False,
        "Steps as in the released code",
        help="Both ends of the interval included, which is one step more.",
        was="released",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.where == "list") != bool(self.steps):
            raise DmqError(
                "relaxing.steps names the relaxed steps if, and only if, relaxing.where is 'list'."
            )
        if not all(low < high for low, high in pairwise([-1, *self.steps])):
            raise DmqError(f"relaxing.steps must rise strictly from 0, got {list(self.steps)}.")


def check_prompts(prompts: tuple[str, ...]) -> None:
    """Raise DmqError for an empty prompt or one longer than MAX_PROMPT characters."""
    for prompt in prompts:
        if not prompt.strip():
            raise DmqError("a prompt is empty; write what to generate.")
        if len(prompt) > MAX_PROMPT:
            raise DmqError(f"a prompt has {len(prompt)} characters; at most {MAX_PROMPT} are read.")


# --- how many bits where --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Sensitivity(Spec):
    """A question: what does it cost to make one layer's weight into each of some choices? In noise,
    images or text.

    The bits, ranges and groups of the activations are the recipe's, or float.
    """

    choices: tuple[WeightFormat, ...] = tuple(
        WeightFormat(bits=bits, format=form)
        for bits in (4, 3, 2)
        for form in (Uaq(), KMeans(), KMeans(shared="tensor"))
    )
    how: str = option(
        "measure",
        "How",
        choices=("measure", "fisher", "local"),
        help="measure: run the model once for each layer and choice. fisher: estimate all of them "
        "from gradients in "
        "one pass. local: the error of the layer's own output.",
    )
    mode: str = option(
        "only",
        "What is quantized",
        choices=("only", "all_but"),
        help="Only this layer, or all layers but this one (then the cost is what its restoration "
        "saves).",
    )
    measure: str = option(
        "noise",
        "Judged by",
        choices=("noise", "image", "text"),
        was_choices={"image": "picture"},
        help="The noise prediction on recorded steps, the distance of images from float ones, or "
        "their match with "
        "the prompt.",
    )
    steps: int = option(8, "Steps looked at", 1, 1000, help="Spread evenly over the trajectory.")
    images: int = option(2, "Images", 1, 256, was="pictures")
    probes: int = option(
        4, "Probes", 1, 1024, help="Random directions for each step and image (fisher)."
    )
    activations: bool = option(False, "Activations as in the recipe", help="Otherwise in float.")
    seed: int = option(0, "Seed", 0, 2**31 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        labels = [format_name(choice) for choice in self.choices]
        if not labels or len(set(labels)) < len(labels):
            raise DmqError(f"sensitivity needs choices that differ, got {labels}.")
        if "float" in labels:
            raise DmqError("the choice 'float' costs nothing and need not be measured.")
        if self.how != "measure" and (self.mode, self.measure) != ("only", "noise"):
            raise DmqError(
                f"how {self.how!r} knows mode 'only' and measure 'noise' only; set how to "
                "'measure'."
            )


@dataclass(frozen=True, kw_only=True)
class Rule(Spec):
    """What a budget must respect for the layers whose name matches `layers`, a pattern with *."""

    layers: str
    choice: str = ""  # this one and no other, such as "UAQ-4" or "float"
    least: int = option(0, "Least bits", 0, FLOAT)
    same: bool = option(False, "All the same choice")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.choice:
            parse_format(self.choice)
        if not (self.choice or self.least or self.same):
            raise DmqError(
                f"rule for {self.layers!r} says nothing: give a choice, least bits, or same."
            )


@dataclass(frozen=True, kw_only=True)
class Budget(Spec):
    """How much the weights of the layers may take: in bytes, or in bits a weight on average."""

    bits: float | None = 4.0
    bytes: int | None = None
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.bits is None) == (self.bytes is None):
            raise DmqError("a budget is given in bits or in bytes: set the other one to null.")


LABELS = ("features", "noise", "latent", "fid_float", "fid_reference")


@dataclass(frozen=True, kw_only=True)
class Predictor(Spec):
    """A question: how good is the model with each mix of choices? Learned from random mixes
    (Qua²SeDiMo).

    Mixes are judged with activations in float. A label is better the higher it is.
    """

    choices: tuple[WeightFormat, ...] = tuple(
        WeightFormat(bits=bits, format=form)
        for bits in (4, 3)
        for form in (Uaq(), KMeans(), KMeans(shared="tensor"))
    )
    configurations: int = option(100, "Random mixes", 20, 100_000)
    label: str = option(
        "features",
        "Judged by",
        choices=LABELS,
        help="The distance from the float model's images in features of images, of its noise "
        "prediction, of its "
        "finished samples (the smaller the better, in logarithms); or the Fréchet distance to "
        "float or real images.",
    )
    images: int = option(
        8,
        "Images",
        1,
        100_000,
        help="Of each mix, the same prompts and noises for all.",
        was="pictures",
    )
    steps: int = option(
        10,
        "Steps of an image",
        1,
        1000,
        help="Fewer than in use: only the order of mixes matters.",
    )
    repeats: int = option(
        5, "Mixes judged twice", 0, 1000, help="With other noises: how sure is a label?"
    )
    bits_price: float = option(
        0.0,
        "Price of a bit",
        0.0,
        1e6,
        help="Taken off the label for each average bit; 0 for use with a budget.",
    )
    loss: str = option(
        "hybrid",
        "Loss",
        choices=("mse", "srcc", "ndcg", "hybrid"),
        help="Ranking beside regression.",
    )
    weight: float = option(1.0, "Weight of the ranking", 0.0, 1000.0)
    width: int = option(32, "Width of the network", 4, 256, help="64 in the paper.")
    epochs: int = option(60, "Epochs", 1, 100_000, help="10,000 in the paper.")
    rate: float = option(0.005, "Learning rate", 1e-6, 1.0, help="0.001 in the paper.")
    folds: int = option(5, "Folds", 2, 20)
    combinations: int = option(
        1296, "Mixes of a block", 1, 100_000, help="At most; of more, these many at random."
    )
    seed: int = option(0, "Seed", 0, 2**31 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        labels = [format_name(choice) for choice in self.choices]
        if len(labels) < 2 or len(set(labels)) < len(labels):
            raise DmqError(f"a predictor needs two choices or more that differ, got {labels}.")
        if self.configurations < 4 * self.folds:
            raise DmqError(
                f"{self.configurations} random mixes are too few for {self.folds} folds of four."
            )


@dataclass(frozen=True, kw_only=True)
class Mixed(Spec):
    """Give each layer the choice that a budget has for it, by what choices cost or score
    (Qua²SeDiMo, budgeted).

    Layers that stay in float by protection are left out, and overrides are stronger.
    """

    by: Predictor | Sensitivity = Predictor()
    level: str = option(
        "block",
        "Scores of",
        choices=("op", "block", "ridge"),
        help="With a predictor: of each layer by itself, within its block, or of its ridge "
        "regression.",
    )
    budget: Budget = Budget(bits=3.7)


# --- the whole recipe -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Override(Spec):
    """Other bits for the layers whose name matches `layers`; of several that match, the last one
    holds.
    """

    layers: str
    weight_bits: int | None = None
    activation_bits: int | None = None
    format: Format | None = field(
        default=None, metadata={"omit_default": True}
    )  # none: that of the recipe's weights

    def __post_init__(self) -> None:
        for name in ("weight_bits", "activation_bits"):
            if getattr(self, name) not in (None, *BITS):
                raise DmqError(
                    f"{name} is {getattr(self, name)!r}, not one of {', '.join(map(str, BITS))}."
                )

    def matches(self, layer: str) -> bool:
        return fnmatch.fnmatchcase(layer, self.layers)


@dataclass(frozen=True, kw_only=True)
class Protection(Spec):
    """What stays in float unless switched off here; an override for a layer is stronger."""

    first_last: bool = option(True, "Keep the first and the last layer in float")
    norms_and_biases: bool = option(
        True, "Keep 1-D parameters (norms, biases) in float", was="vectors"
    )


@dataclass(frozen=True, kw_only=True)
class Sampling(Spec):
    """How the pipeline is run. Guidance is ignored by models without a prompt."""

    steps: int = option(50, "Steps", 1, 1000)
    guidance: float = option(4.0, "Guidance", 0.0, 30.0)
    size: int = option(
        0,
        "Image side",
        0,
        4096,
        help="In pixels, both ways; 0: what the pipeline generates itself.",
    )


@dataclass(frozen=True, kw_only=True)
class Calibration(Spec):
    """Which images are generated to see the activations: `samples` prompts of a list, one seed
    each, in batches.
    """

    samples: int = option(16, "Calibration images", 1, 4096)
    batch: int = option(8, "Images at a time", 1, 256)
    prompts: tuple[str, ...] = ()  # none: the list that ships in assets/prompts
    seed: int = option(0, "Seed", 0, 2**31 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prompts(self.prompts)


SIMULATED = "simulated"
ENGINES = (SIMULATED, "executed", "executed bf16", "executed compiled", "executed bf16 compiled")


def lowered(engine: str) -> bool:
    """Is what stays in float computed in bfloat16?"""
    return "bf16" in engine


def compiles(engine: str) -> bool:
    """Is what is between the kernels compiled?"""
    return engine.endswith("compiled")


@dataclass(frozen=True, kw_only=True)
class Recipe(Spec):
    """Everything a quantized model depends on: two equal recipes give two equal models."""

    name: str = "W8A8"
    model: str = "emoji-sd"
    sampling: Sampling = Sampling()
    calibration: Calibration = Calibration()
    calibration_steps: CalibrationSteps = AllSteps()
    weights: Weights = Weights()
    activations: Activations = Activations()
    grouping: Grouping = SharedRange()
    temporal: Temporal | None = None  # none: the time embedding is treated as all other layers
    reconstruction: BlockReconstruction | None = None  # none: each weight takes its nearest code
    progressive: Progressive | None = None  # none: ranges come from the float model's trajectory
    relaxing: Relaxing | None = None  # none: all steps have the same bits
    split_shortcuts: bool = option(
        False,
        "Split shortcuts",
        help="In a U-Net: where a layer reads a shortcut beside what comes from below, each of the "
        "two has scales of "
        "its own, in weights and activations (Q-Diffusion).",
        was="split",
    )
    protection: Protection = Protection()
    overrides: tuple[Override, ...] = ()
    mixed: Mixed | None = field(
        default=None, metadata={"omit_default": True}
    )  # none: all layers as by weights and overrides
    unknown_timestep: str = option(
        "error",
        "Unknown timestep",
        choices=("error", "nearest"),
        help="What to do at a timestep that was not calibrated: stop, or use the nearest one and "
        "say so.",
        was="on_miss",
    )
    engine: str = option(
        SIMULATED,
        "Computed",
        choices=ENGINES,
        omit_default=True,
        help="Simulated: in floating point, rounded as if it had few bits. Executed: on integer "
        "kernels where there "
        "are some, what stays in float being float32 or bfloat16. Compiled: what is between them "
        "too, which takes a "
        "minute at first and needs a C++ compiler. It changes speed, and images hardly.",
    )
    version: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_model(self.model, EMBEDDED)
        if self.version != 1:
            raise DmqError(
                f"version is {self.version}; this dmq reads version 1. Update dmq or start anew."
            )
        per_tensor = isinstance(self.activations.granularity, PerTensor)
        if not isinstance(self.calibration_steps, AllSteps) and not per_tensor:
            raise DmqError("a choice of calibration_steps needs activations.granularity PerTensor.")
        if (
            self.temporal
            and self.temporal.fsc == "all"
            and not isinstance(self.grouping, (SharedRange, PerStep))
        ):
            raise DmqError(
                "temporal.fsc 'all' gives every activation a range per step, grouping is "
                f"{type(self.grouping).__name__}; set grouping to SharedRange or PerStep, or fsc "
                "to 'tib'."
            )
        self._check_trajectory()
        self._check_dynamic()
        if self.reconstruction and self.reconstruction.time and self.temporal:
            raise DmqError(
                "reconstruction.time would learn the time embedding's rounding with the blocks, "
                "temporal keeps it apart; "
                "set reconstruction.time to false, or temporal to null."
            )
        if isinstance(self.grouping, LearnedGroups):
            if self.grouping.count > self.sampling.steps:
                raise DmqError(
                    f"grouping.count is {self.grouping.count}, but there are only "
                    f"{self.sampling.steps} steps; use {self.sampling.steps} or fewer."
                )
            if not per_tensor:
                raise DmqError(
                    "learned groups have one range per tensor: set activations.granularity to "
                    "PerTensor."
                )
        if isinstance(self.grouping, ManualGroups) and any(
            b >= self.sampling.steps for b in self.grouping.boundaries
        ):
            raise DmqError(
                f"grouping.boundaries must lie in 1 to {self.sampling.steps - 1} for "
                f"{self.sampling.steps} steps, got {list(self.grouping.boundaries)}."
            )

    def _check_dynamic(self) -> None:
        if self.activations.dynamic == "none":
            return
        asked = {
            "temporal.fsc": self.temporal is not None and self.temporal.fsc != "none",
            "progressive": self.progressive is not None,
            "reconstruction.steps": self.reconstruction is not None
            and self.reconstruction.steps > 0,
            "grouping LearnedGroups": isinstance(self.grouping, LearnedGroups),
            "calibration_steps ActiveSteps": isinstance(self.calibration_steps, ActiveSteps),
        }
        if wrong := [name for name, given in asked.items() if given]:
            raise DmqError(
                f"activations.dynamic is {self.activations.dynamic!r}: ranges are taken as they "
                f"come, and {' and '.join(wrong)} would set them before. Set dynamic to 'none', or "
                "do without the other."
            )

    def _check_trajectory(self) -> None:
        if self.progressive and not isinstance(self.calibration_steps, AllSteps):
            raise DmqError(
                "progressive sets the ranges of every step on its own; set calibration_steps to "
                "AllSteps, or progressive to null."
            )
        if self.progressive and self.reconstruction and self.reconstruction.steps:
            raise DmqError(
                "reconstruction.steps would learn anew the step sizes that progressive sets; set "
                "reconstruction.steps to 0, or progressive to null."
            )
        relaxing = self.relaxing
        if relaxing and relaxing.bits < self.activations.bits:
            raise DmqError(
                f"relaxing.bits is {relaxing.bits}, below the {self.activations.bits} of "
                "activations.bits; relaxed steps have more bits, not fewer."
            )
        if relaxing and relaxing.steps and relaxing.steps[-1] >= self.sampling.steps:
            raise DmqError(
                f"relaxing.steps names step {relaxing.steps[-1]}, but {self.sampling.steps} steps "
                f"end with {self.sampling.steps - 1}."
            )


@dataclass(frozen=True, kw_only=True)
class Comparison(Spec):
    """Images to generate with the float model and with quantized ones, from the same noise."""

    prompts: tuple[str, ...] = (
        "grinning cat",
    )  # for a model without prompts, their number is what counts
    seeds: tuple[int, ...] = (0,)
    sampling: Sampling = Sampling()

    def __post_init__(self) -> None:
        check_prompts(self.prompts)
        if not self.prompts or not self.seeds:
            raise DmqError("a comparison needs at least one prompt and one seed.")
        if any(type(seed) is not int or not 0 <= seed < 2**63 for seed in self.seeds):
            raise DmqError(f"seeds must be whole numbers from 0, got {list(self.seeds)}.")


PAIRED = (
    "psnr",
    "ssim",
    "distance",
    "latent",
)  # one number for each image, against the float one of the same noise
SETS = ("fid", "kid", "cmmd")  # one number for all images of a domain
MEASURES = (*PAIRED, *SETS, "clip")


@dataclass(frozen=True, kw_only=True)
class Domain(Spec):
    """A named list of prompts; for a model without prompts, their number is what counts."""

    name: str
    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        check_prompts(self.prompts)
        if not self.name.strip() or len(self.name) > 60:
            raise DmqError(f"a domain needs a name of 1 to 60 characters, got {self.name!r:.80}.")
        if not self.prompts:
            raise DmqError(f"domain {self.name!r} has no prompts.")
        if len(set(self.prompts)) < len(self.prompts):
            twice = next(
                prompt for n, prompt in enumerate(self.prompts) if prompt in self.prompts[:n]
            )
            raise DmqError(
                f"domain {self.name!r} has the prompt {twice!r} twice: it would count as two."
            )


@dataclass(frozen=True, kw_only=True)
class Benchmark(Spec):
    """Images by which quantized models are measured against the float one (QDiffBench).

    The noise floor is the float model with as many other seeds.
    """

    domains: tuple[Domain, ...]
    seeds: tuple[int, ...] = (0,)
    sampling: Sampling = Sampling()
    features: str = "emoji-clip"  # or a folder or Hub id of a CLIP model
    reference: str = (
        ""  # a folder of real images; none: those that ship with the features, if any do
    )
    measures: tuple[str, ...] = MEASURES
    batch: int = option(8, "Images at a time", 1, 256)

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [domain.name for domain in self.domains]
        if not names or len(set(names)) < len(names):
            raise DmqError(f"a benchmark needs domains with different names, got {names}.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise DmqError(f"a benchmark needs seeds that differ, got {list(self.seeds)}.")
        if any(type(seed) is not int or not 0 <= seed < 2**62 for seed in self.seeds):
            raise DmqError(f"seeds must be whole numbers from 0, got {list(self.seeds)}.")
        if unknown := [name for name in self.measures if name not in MEASURES]:
            raise DmqError(f"measures: {unknown[0]!r} is none of {', '.join(MEASURES)}.")
        if not self.measures:
            raise DmqError(f"nothing to measure: choose among {', '.join(MEASURES)}.")

    @property
    def floor_seeds(self) -> tuple[int, ...]:
        """As many seeds as `seeds`, all of them others."""
        return tuple(max(self.seeds) + 1 + k for k in range(len(self.seeds)))

    @property
    def images(self) -> int:
        """How many images each model generates."""
        return len(self.seeds) * sum(len(domain.prompts) for domain in self.domains)


@dataclass(frozen=True, kw_only=True)
class Probe(Spec):
    """An experiment: the quantization error of some steps, amplified, with all other steps in
    float (PCR).
    """

    windows: int = option(
        4, "Windows", 1, 20, help="The trajectory is cut into so many, and each is tried."
    )
    first: int | None = None  # a single window from here …
    last: int | None = None  # … to here, both included
    gains: tuple[float, ...] = (1.0, 2.0, 4.0)
    prompt: str = "grinning cat"
    seed: int = option(0, "Seed", 0, 2**31 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prompts((self.prompt,))
        if (self.first is None) != (self.last is None):
            raise DmqError("a window of its own needs both its first and its last step.")
        if not self.gains or not all(0 <= gain <= 100 for gain in self.gains):
            raise DmqError(
                f"gains must be one or more numbers from 0 to 100, got {list(self.gains)}."
            )


# What ships in assets/models, with the sampling that each was captured with.
EMBEDDED = {
    "emoji-sd": Sampling(steps=50, guidance=4.0),
    "emoji-dit": Sampling(steps=25, guidance=4.0),
    "emoji-ddpm": Sampling(steps=100, guidance=0.0),
}
