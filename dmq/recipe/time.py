"""The time axis: groups of timesteps, the steps calibrated on, and steps with more bits."""

from dataclasses import dataclass
from itertools import pairwise

from ..errors import DmqError
from .spec import BITS, Spec, option


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
