"""The questions whose answers are kept: frozen data that holds all that the answer depends on.

Two recipes that differ in nothing that a question holds share its answer.
"""

from dataclasses import dataclass
from typing import ClassVar

from ..recipe import Calibration, LearnedGroups, Recipe, Sampling
from ..results import WindowEffects
from ..store.artifact import Artifact


@dataclass(frozen=True, kw_only=True)
class Capture(Artifact):
    """Statistics of the float model's activations over its steps; answer: ActivationStats.

    Recorded denoiser calls lie beside them (`captures.load_trajectory`).
    """

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

    @classmethod
    def of(cls, recipe: Recipe) -> "Capture":
        """The capture that `recipe` stands on."""
        return cls(model=recipe.model, sampling=recipe.sampling, calibration=recipe.calibration)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a captured run was of: weights by their fingerprint, the sampler, and its timesteps."""

    fingerprint: str
    sampler: str
    timesteps: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class GroupSearch(Artifact):
    """Groups of timesteps by differentiable search (ADP-DM); answer: SearchResult."""

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
class Windows(Artifact):
    """What leaving each window of steps in float does to images (PCR); answer: WindowEffects."""

    remembered: ClassVar[int] = 8
    kept_as: ClassVar[tuple[str, type]] = ("windows", WindowEffects)

    recipe: Recipe  # without relaxed steps and ranges along the quantized trajectory
    windows: int
    images: int
    run: Run

    @property
    def absent(self) -> str:
        return (
            "recipe.relaxing: no window of steps was measured yet for this recipe; press Measure "
            "in Error over time, or run `dmq windows` or `dmq run` with this recipe."
        )


@dataclass(frozen=True, kw_only=True)
class Progressive(Artifact):
    """Ranges along the quantized trajectory (PCR); answer: ProgressiveRanges."""

    loaded_with: ClassVar[tuple[str, ...]] = ("statistics",)

    recipe: Recipe
    relaxed: tuple[int, ...]  # steps, in sampling order
    run: Run

    @property
    def absent(self) -> str:
        return (
            "recipe.progressive: the ranges were not set along the quantized trajectory yet; press "
            "Calibrate in Error over time, or run `dmq calibrate` or `dmq run` with this recipe."
        )
