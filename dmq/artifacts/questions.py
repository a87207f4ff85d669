"""The questions that dmq answers: frozen data that holds all that the answer depends on.

Two recipes that differ in nothing that a question holds share its answer. How a recipe's questions
are made is in `of_recipe`, what each is computed from in `inputs`.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from ..models.placement import Placement
from ..recipe import (
    Activations,
    Calibration,
    LearnedGroups,
    Override,
    Predictor,
    Recipe,
    Sampling,
    Sensitivity,
    Tiar,
    Weights,
)
from ..results import PredictorResult, SensitivityTable, WindowEffects
from ..store.artifact import Artifact


@dataclass(frozen=True, kw_only=True)
class Capture(Artifact):
    """Statistics of the float model's activations over its steps; answer: ActivationStats.

    Recorded denoiser calls lie beside them (`captures.load_trajectory`).
    """

    shared: ClassVar[bool] = True

    model: str
    sampling: Sampling
    calibration: Calibration

    @property
    def absent(self) -> str:
        return (
            f"nothing captured yet for {self.model} with {self.sampling.steps} steps and "
            f"{self.calibration.samples} images; press Capture, or run `dmq capture`."
        )

    @property
    def recipe(self) -> Recipe:
        """A recipe with this capture, all else by default."""
        return Recipe(model=self.model, sampling=self.sampling, calibration=self.calibration)


@dataclass(frozen=True, kw_only=True)
class GroupSearch(Artifact):
    """Groups of timesteps by differentiable search (ADP-DM); answer: SearchResult."""

    loaded_with: ClassVar[tuple[str, ...]] = ("statistics",)

    recipe: Recipe  # what a search reads of it, all else by default
    spec: LearnedGroups
    fingerprint: str

    @property
    def absent(self) -> str:
        return (
            f"no groups were learned yet for {self.recipe.model} with this recipe. Run the search "
            "first: press Search, or run `dmq search`."
        )


@dataclass(frozen=True, kw_only=True)
class LayerCodes(Artifact):
    """A layer's codes learned from its inputs in the float model (GPTQ, low rank with smoothing).

    Answer: LearnedWeight. What was learned for one recipe serves all others in which the layer is
    made into the same, and measurements of sensitivity too.
    """

    remembered: ClassVar[int] = 0  # codes are held where a whole model is
    shared: ClassVar[bool] = True
    named_by: ClassVar[tuple[str, ...]] = ("statistics",)

    capture: Capture
    layer: str
    weights: Weights  # bits and format; what else there is speaks of other formats
    split: int = 0
    inputs: Activations | None = None  # how its inputs are rounded, where that matters

    @property
    def absent(self) -> str:
        return (
            "recipe.weights.format: not all weights were learned from inputs yet; they are when "
            "images are generated, or run `dmq learn` with this recipe."
        )


@dataclass(frozen=True, kw_only=True)
class LayerCodeSet(Artifact):
    """Codes of several layers; answer: LearnedWeight by question."""

    stored: ClassVar[bool] = False
    remembered: ClassVar[int] = 1

    questions: tuple[LayerCodes, ...]


@dataclass(frozen=True, kw_only=True)
class TimeRounding(Artifact):
    """Rounding of the time embedding's weights (TIAR); answer: LearnedRounding."""

    named_by: ClassVar[tuple[str, ...]] = ("statistics",)

    capture: Capture
    formats: tuple[tuple[str, Weights], ...]  # of its layers on a uniform grid, by name
    spec: Tiar

    @property
    def absent(self) -> str:
        return (
            "recipe.temporal.rounding: the rounding of the time embedding was not learned yet; "
            "press Learn, or run `dmq run` with this recipe."
        )


@dataclass(frozen=True, kw_only=True)
class RecipeQuestion(Artifact):
    """A question about a whole recipe."""

    recipe: Recipe
    allocation: tuple[Override, ...] = ()  # what its budget of bits was shared out to

    @property
    def allocated(self) -> Recipe:
        """The recipe with its budget carried out."""
        if self.recipe.mixed is None:
            return self.recipe
        overrides = (*self.allocation, *self.recipe.overrides)
        return dataclasses.replace(self.recipe, mixed=None, overrides=overrides)


@dataclass(frozen=True, kw_only=True)
class BlockRounding(RecipeQuestion):
    """Rounding of weights, and step sizes, learned block by block; answer: LearnedBlocks.

    Inputs come from the whole quantized model, so all that the recipe says matters, but for what
    comes later: relaxed steps and ranges along the quantized trajectory.
    """

    named_by: ClassVar[tuple[str, ...]] = ("statistics",)
    parts: ClassVar[str] = "-blocks"

    @property
    def absent(self) -> str:
        return (
            "recipe.reconstruction: the rounding of the blocks was not learned yet; press Learn, "
            "or run `dmq reconstruct` or `dmq run` with this recipe."
        )


@dataclass(frozen=True, kw_only=True)
class Windows(RecipeQuestion):
    """What leaving each window of steps in float does to images (PCR); answer: WindowEffects."""

    remembered: ClassVar[int] = 8
    named_by: ClassVar[tuple[str, ...]] = ("statistics",)
    kept_as: ClassVar[tuple[str, type]] = ("windows", WindowEffects)

    windows: int
    images: int

    @property
    def absent(self) -> str:
        return (
            "recipe.relaxing: no window of steps was measured yet for this recipe; press Measure "
            "in Error over time, or run `dmq windows` or `dmq run` with this recipe."
        )


@dataclass(frozen=True, kw_only=True)
class Progressive(RecipeQuestion):
    """Ranges along the quantized trajectory (PCR); answer: ProgressiveRanges."""

    loaded_with: ClassVar[tuple[str, ...]] = ("statistics",)
    named_by: ClassVar[tuple[str, ...]] = ("statistics", "relaxed")

    @property
    def absent(self) -> str:
        return (
            "recipe.progressive: the ranges were not set along the quantized trajectory yet; press "
            "Calibrate in Error over time, or run `dmq calibrate` or `dmq run` with this recipe."
        )


@dataclass(frozen=True, kw_only=True)
class LayerCosts(Artifact):
    """What each layer costs as each of some choices; answer: SensitivityTable.

    It depends on the model, how it is run, and what is asked; of the recipe's weights only on how
    grids are laid, and of its activations only if they are asked about.
    """

    shared: ClassVar[bool] = True
    named_by: ClassVar[tuple[str, ...]] = ("statistics",)
    parts: ClassVar[str] = "-parts"
    kept_as: ClassVar[tuple[str, type]] = ("table", SensitivityTable)

    subject: Recipe  # of the model that is compared with
    ask: Sensitivity

    @property
    def absent(self) -> str:
        return (
            "recipe.mixed: layers were not measured yet; they are when images are generated, or by "
            "`dmq learn`."
        )


@dataclass(frozen=True, kw_only=True)
class MixScores(Artifact):
    """Scores of every choice of every layer, learned from random mixes (Qua²SeDiMo); answer:
    PredictorResult.
    """

    shared: ClassVar[bool] = True
    kept_as: ClassVar[tuple[str, type]] = ("predictor", PredictorResult)

    subject: Recipe  # of the float model, with as many steps as are asked for
    spec: Predictor

    @property
    def absent(self) -> str:
        return (
            "recipe.mixed: random mixes were not judged yet; they are when images are generated, "
            "or by `dmq learn`."
        )


# --- what takes seconds at most, remembered only --------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RelaxedSteps(RecipeQuestion):
    """The steps with more bits, in sampling order; answer: a tuple of integers."""

    stored: ClassVar[bool] = False
    remembered: ClassVar[int] = 16


@dataclass(frozen=True, kw_only=True)
class SiteErrors(RecipeQuestion):
    """The error of every partition of the steps at each site, with at least `least` bits wherever
    anything is quantized; answer: ErrorTable.
    """

    stored: ClassVar[bool] = False
    remembered: ClassVar[int] = 8

    least: int = 0


@dataclass(frozen=True, kw_only=True)
class ActivationErrors(RecipeQuestion):
    """The activations' error under the recipe's partition, without running a model; answer:
    GroupErrors.
    """

    stored: ClassVar[bool] = False
    remembered: ClassVar[int] = 32


@dataclass(frozen=True, kw_only=True)
class ModelPlan(RecipeQuestion):
    """The recipe resolved for its model; answer: Plan."""

    stored: ClassVar[bool] = False
    remembered: ClassVar[int] = 16

    blocks: bool = False  # with what was learned of the blocks


@dataclass(frozen=True, kw_only=True)
class TimeErrors(RecipeQuestion):
    """What the recipe does to temporal features; answer: TemporalErrors."""

    stored: ClassVar[bool] = False
    remembered: ClassVar[int] = 8

    codes: bool = False  # with the codes that are learned from inputs


@dataclass(frozen=True, kw_only=True)
class RecipeCodes(RecipeQuestion):
    """All codes of the recipe that are learned; answer: `codes.LearnedCodes`."""

    stored: ClassVar[bool] = False
    remembered: ClassVar[int] = 2


@dataclass(frozen=True, kw_only=True)
class QuantizedModel(RecipeQuestion):
    """The quantized denoiser; answer: a module that belongs to the store: borrow it."""

    stored: ClassVar[bool] = False
    remembered: ClassVar[int] = 3  # searching ranges takes seconds; the same recipe comes again

    placement: Placement
