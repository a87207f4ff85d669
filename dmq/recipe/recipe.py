"""The whole recipe, and the models that ship."""

import fnmatch
from dataclasses import dataclass, field

from ..errors import DmqError
from ..public import check_model
from .allocation import Mixed
from .formats import Activations, Format, PerTensor, Weights
from .learning import BlockReconstruction, Progressive, Temporal
from .spec import BITS, Spec, check_prompts, option
from .time import (
    ActiveSteps,
    AllSteps,
    CalibrationSteps,
    Grouping,
    LearnedGroups,
    ManualGroups,
    PerStep,
    Relaxing,
    SharedRange,
)


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


# What ships in assets/models, with the sampling that each was captured with.
EMBEDDED = {
    "emoji-sd": Sampling(steps=50, guidance=4.0),
    "emoji-dit": Sampling(steps=25, guidance=4.0),
    "emoji-ddpm": Sampling(steps=100, guidance=0.0),
}
