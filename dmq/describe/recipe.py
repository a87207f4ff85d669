"""A recipe in plain sentences, its name, and the labels of its choices."""

from typing import Any

from ..recipe import (
    FLOAT,
    SIMULATED,
    Activations,
    AllSteps,
    Cache,
    Gptq,
    Hqq,
    KMeans,
    LearnedGroups,
    LowRank,
    ManualGroups,
    MinMax,
    Mixed,
    MseSearch,
    NearestRounding,
    NoCache,
    OptimalGroups,
    Override,
    Percentile,
    PerChannel,
    PerGroup,
    PerStep,
    PerTensor,
    PowerOfTwo,
    Predictor,
    Recipe,
    Relaxing,
    SharedRange,
    Temporal,
    Tiar,
    Uaq,
    Uniform,
    UniformGroups,
    format_name,
    lowered,
)


SPEC_LABELS = {
    SharedRange: "One range for all steps",
    UniformGroups: "Equal groups",
    ManualGroups: "Cuts set by hand",
    OptimalGroups: "Optimal cuts",
    LearnedGroups: "Learned groups",
    PerStep: "A range per step",
    PerTensor: "Per tensor",
    PerChannel: "Per channel",
    PerGroup: "Per group",
    MinMax: "Min–max",
    Percentile: "Percentile",
    MseSearch: "Smallest squared error",
    NearestRounding: "Nearest code",
    Tiar: "Learned for all steps (TIAR)",
    NoCache: "Compute the features",
    Cache: "Cache the features",
    Uniform: "Uniform grid, as above",
    Uaq: "Uniform, range by |error|^2.4 (UAQ)",
    KMeans: "Codebooks (k-means)",
    Hqq: "Half-quadratic zero points (HQQ)",
    Gptq: "Second-order rounding (GPTQ)",
    PowerOfTwo: "Powers of two",
    LowRank: "Low rank and rest (SVDQuant)",
}
DYNAMIC_NOTE = (
    "This recipe takes dynamic ranges; what is shown is what one calibrated range would do."
)
PROCEDURES = {"exact": "PCR", "strict": "PCR, strict", "one_pass": "PCR in one pass"}


def _bits(count: int) -> str:
    """A number of bits as people say it."""
    return "float" if count == FLOAT else f"{count} bits"


def describe_grouping(recipe: Recipe) -> str:
    """The recipe's partition of the time axis, in words."""
    spec, steps = recipe.grouping, recipe.sampling.steps
    if isinstance(spec, SharedRange):
        return f"one range for all {steps} steps"
    if isinstance(spec, PerStep):
        return f"a range for each of the {steps} steps"
    if isinstance(spec, ManualGroups):
        count = len(spec.boundaries) + 1
        return f"{count} group{'s' if count > 1 else ''} of the {steps} steps cut by hand"
    how = {OptimalGroups: "optimal", LearnedGroups: "learned"}.get(type(spec), "equal")
    own = ", each layer its own" if getattr(spec, "per_layer", False) else ""
    return f"{spec.count} {how} group{'s' if spec.count > 1 else ''} of the {steps} steps{own}"


def _range(spec: Any) -> str:
    """How a range becomes a grid, in words."""
    if isinstance(spec, Percentile):
        return f"{spec.percent:g} % of the values"
    return "min–max" if isinstance(spec, MinMax) else "smallest squared error"


def _granularity(spec: Any) -> str:
    """What shares a scale, in words."""
    return (
        f"per {spec.size} inputs" if isinstance(spec, PerGroup) else SPEC_LABELS[type(spec)].lower()
    )


def describe_temporal(spec: Temporal) -> str:
    """How the time embedding is kept, in words; empty if like everything else."""
    parts = ["rounding learned"] if isinstance(spec.rounding, Tiar) else []
    parts += {"tib": ["ranges per step"], "all": ["ranges per step everywhere"]}.get(spec.fsc, [])
    if isinstance(spec.cache, Cache):
        some = {"none": "", "block": " where a block errs less", "row": " where a step errs less"}[
            spec.cache.selection
        ]
        parts.append(f"{spec.cache.bits}-bit cache{some}")
    return ", ".join(parts)


def _relaxing(spec: Relaxing) -> str:
    """Which steps have more activation bits, in words."""
    if spec.where == "list":
        return (
            f"{spec.bits} bits at {len(spec.steps)} given step{'s' if len(spec.steps) > 1 else ''}"
        )
    which = f"best {100 * spec.fraction:.3g} % of the steps ({spec.judge} decides)"
    return f"{spec.bits} bits at the " + (
        which if spec.where == "auto" else f"{spec.where} {100 * spec.fraction:.3g} % of the steps"
    )


def _weight_format(recipe: Recipe) -> str:
    """How weights are quantized, in words that follow their bits."""
    spec, a = recipe.weights, recipe.activations
    match spec.format:
        case Uaq():
            return "per channel (UAQ)"
        case KMeans(shared=shared):
            return f"in codebooks per {shared} (k-means)"
        case Hqq(group=group):
            return f"per {group} inputs (HQQ)"
        case Gptq(group=group):
            return f"per {f'{group} inputs' if group else 'channel'} (GPTQ)"
        case PowerOfTwo():
            return "as powers of two per channel"
        case LowRank(group=group, rank=rank, smooth=smooth):
            # Not with calibrated ranges, which are those of inputs as they are.
            smoothed = ", smoothed" if smooth and (a.bits == FLOAT or a.dynamic != "none") else ""
            return f"per {group} inputs beside factors of rank {rank} (SVDQuant{smoothed})"
    return f"{_granularity(spec.granularity)} ({_range(spec.range)}{', symmetric' if spec.symmetric else ''})"


CONV_RANGES = {"token": "sample", "call": "call (of 1 x 1: pixel)"}  # where layers have no tokens


def _activation_format(spec: Activations) -> str:
    """How activations are quantized, in words that follow their bits."""
    symmetric = ", symmetric" if spec.symmetric else ""
    if spec.dynamic != "none":
        if spec.dynamic == "sample":
            return f"with the range of each sample{symmetric}"
        return f"with the range of each token, in convolutions of each {CONV_RANGES[spec.dynamic]}{symmetric}"
    return f"{_granularity(spec.granularity)} ({_range(spec.range)}{symmetric})"


def _overrides(overrides: tuple[Override, ...]) -> str:
    """How many layers are apart from the others, in a sentence or two; empty if none are."""
    own = [override.layers for override in overrides if override.format]
    what = "override" if any("*" in name or "?" in name for name in own) else "layer"
    said = f" {len(own)} {what}s have formats of their own." if own else ""
    if len(own) == 1:
        said = f" 1 {what} has a format of its own."
    others = len(overrides) - len(own)
    return said + (
        f" {others} override{'s' if others > 1 else ''} for single layers." if others else ""
    )


def _mixed(spec: Mixed) -> str:
    """How a budget is shared out, in a sentence."""
    size = (
        f"{spec.budget.bits:g} bits a weight"
        if spec.budget.bits is not None
        else f"{spec.budget.bytes:,} bytes"
    )
    scores = {
        "op": "scores of layers",
        "block": "scores within blocks",
        "ridge": "ridge regression",
    }[spec.level]
    by = (
        f"{scores}, learned from {spec.by.configurations} random mixes"
        if isinstance(spec.by, Predictor)
        else (f"sensitivities ({spec.by.how}, {spec.by.measure})")
    )
    rules = len(spec.budget.rules)
    return f"On average {size}, shared out by {by}{f' under {rules} rules' if rules else ''}."


def describe_recipe(recipe: Recipe) -> str:
    """The recipe in two or three plain sentences."""
    w, a = recipe.weights, recipe.activations
    weights = f"Weights {_bits(w.bits)}{f' {_weight_format(recipe)}' if w.bits != FLOAT else ''}"
    activations = (
        f"activations {_bits(a.bits)}{f' {_activation_format(a)}' if a.bits != FLOAT else ''}"
    )
    if a.attention_bits != FLOAT:
        activations += f", attention {_bits(a.attention_bits)}"
    kept = [
        text
        for yes, text in (
            (recipe.protection.first_last, "the first and last layer"),
            (recipe.protection.norms_and_biases, "norms and biases"),
        )
        if yes
    ]
    said = f"{weights}, {activations}{f'; {describe_grouping(recipe)}' if a.dynamic == 'none' else ''}."
    if recipe.temporal and (own := describe_temporal(recipe.temporal)):
        said += f" Time embedding: {own}."
    if recipe.reconstruction:
        said += f" Rounding learned block by block{', the time embedding too' if recipe.reconstruction.time else ''}"
        said += ", then the step sizes of activations." if recipe.reconstruction.steps else "."
    if recipe.split_shortcuts:
        said += " Shortcuts have scales of their own."
    if recipe.progressive:
        said += f" Ranges set along the quantized trajectory ({PROCEDURES[recipe.progressive.variant]})."
    if recipe.relaxing:
        said += f" Activations with {_relaxing(recipe.relaxing)}."
    if not isinstance(recipe.calibration_steps, AllSteps):
        said += " Ranges from chosen calibration steps."
    if recipe.mixed:
        said += f" {_mixed(recipe.mixed)}"
    if recipe.engine != SIMULATED:
        said += f" Executed on integer kernels{', the rest in bfloat16' if lowered(recipe.engine) else ''}."
    if kept:
        said += f" In float: {' and '.join(kept)}."
    return said + _overrides(recipe.overrides)


def short_name(recipe: Recipe) -> str:
    """A name that tells recipes apart: "W4A6 8 optimal groups, cached time"."""
    name, own = _grouped_name(recipe), recipe.temporal
    name += (
        ", mixed" if recipe.mixed or any(override.format for override in recipe.overrides) else ""
    )
    name += ", split" if recipe.split_shortcuts else ""
    name += ", BRECQ" if recipe.reconstruction else ""
    name += " + step sizes" if recipe.reconstruction and recipe.reconstruction.steps else ""
    name += ", PCR" if recipe.progressive else ""
    name += f", {_relaxed_name(recipe.relaxing)}" if recipe.relaxing else ""
    executed = [recipe.engine] if recipe.engine != SIMULATED else []
    if own is None:
        return ", ".join([name, *executed])
    marks = ["TIAR"] if isinstance(own.rounding, Tiar) else []
    marks += {"tib": ["FSC"], "all": ["FSC all"]}.get(own.fsc, [])
    marks += [f"{own.cache.bits}-bit time cache"] if isinstance(own.cache, Cache) else []
    return ", ".join([name, *marks, *executed])


def _relaxed_name(spec: Relaxing) -> str:
    """Relaxed steps in a name: "last 20 % A10"."""
    if spec.where == "list":
        return f"{len(spec.steps)} steps A{spec.bits}"
    judged = " by text" if (spec.where, spec.judge) == ("auto", "text") else ""
    return f"{spec.where} {100 * spec.fraction:.3g} %{judged} A{spec.bits}"


def _grouped_name(recipe: Recipe) -> str:
    """Formats, bits and groups of a recipe: "W4A6 8 optimal groups", "KMC-4 A8 per token"."""
    spec, weights, a = recipe.grouping, recipe.weights, recipe.activations.bits
    plain = weights.bits == FLOAT or isinstance(weights.format, Uniform)
    name = f"W{weights.bits}A{a}" if plain else f"{format_name(weights)} A{a}"
    if recipe.activations.attention_bits != FLOAT:
        name += f" attention {recipe.activations.attention_bits}"
    if recipe.activations.dynamic != "none":
        return f"{name} per {recipe.activations.dynamic}"
    if isinstance(spec, PerStep):
        return f"{name} per step"
    if isinstance(spec, ManualGroups):
        return f"{name} {len(spec.boundaries) + 1} groups by hand"
    if isinstance(spec, SharedRange):
        return name
    if isinstance(spec, LearnedGroups):
        return f"{name} {spec.count} learned groups"
    how = "equal" if isinstance(spec, UniformGroups) else "own" if spec.per_layer else "optimal"
    return f"{name} {spec.count} {how} groups"
