"""What is learned or observed: the time embedding, the rounding of blocks, ranges step by step."""

from dataclasses import dataclass

from .spec import Spec, option


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
