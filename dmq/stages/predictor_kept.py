"""What was learned from random mixes, as it is kept in the run folder, and what it depends on."""

import dataclasses
from pathlib import Path
from typing import Any

from .. import jsonio
from ..recipe import Predictor, Recipe
from ..results import PredictorResult
from ..store import learned as kept
from .known import info


def predictor_result(recipe: Recipe, spec: Predictor) -> PredictorResult | None:
    """What `predict` found for the model of `recipe`; None if it was not asked yet."""
    folder = folder_of(recipe, spec)
    return kept.load_predictor(folder) if folder.is_dir() else None


def subject_of(recipe: Recipe, spec: Predictor) -> Recipe:
    """The recipe of the float model that generates in as many steps as are asked for."""
    return Recipe(
        name="",
        model=recipe.model,
        sampling=dataclasses.replace(recipe.sampling, steps=spec.steps),
        calibration=recipe.calibration,
    )


def key_of(recipe: Recipe, spec: Predictor) -> tuple[Any, ...]:
    known, subject = info(recipe.model), subject_of(recipe, spec)
    # The model's fingerprint instead of its name; fields with their defaults are left out, so that
    # what is kept is found again when specs have more fields.
    plain = jsonio.key_data(dataclasses.replace(subject, model=""))
    return plain, jsonio.key_data(spec), known.fingerprint, known.scheduler


def folder_of(recipe: Recipe, spec: Predictor, *, own: bool = False) -> Path:
    return kept.predictor_folder("predictor", *key_of(recipe, spec), own=own)
