"""Tables of what layers cost, as they are kept in the run folder, and what they depend on."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from .. import jsonio
from ..errors import DmqError
from ..recipe import FLOAT, Activations, Recipe, Sensitivity, Uniform, Weights
from ..results import SensitivityTable
from ..store import learned
from .known import captured, info, statistics


def sensitivity_table(recipe: Recipe, ask: Sensitivity) -> SensitivityTable | None:
    """The answer to `ask` for the model of `recipe`, if it is there."""
    ask, subject = normal(ask), subject_of(recipe, ask)
    if not captured(subject):
        return None
    folder = folder_of(subject, ask)
    return learned.load_table(folder) if folder.is_dir() else None


def tables(model: str) -> list[tuple[str, Path]]:
    """Title and folder of everything kept for that model as it is now: the user's, newest first,
    then what ships.
    """
    found = []
    for folder in learned.find_tables(fingerprint=info(model).fingerprint):
        with contextlib.suppress(DmqError):  # a damaged one; who opens it by name is told
            found.append((learned.load_table(folder), folder))
    titles = [table.title for table, _ in found]
    return [
        (title if titles.count(title) == 1 else f"{title}: {', '.join(table.labels)}", folder)
        for title, (table, folder) in zip(titles, found, strict=True)
    ]


def load_table(folder: Path, model: str = "") -> SensitivityTable:
    """The table in a folder that `tables` named.

    Raises DmqError if it is damaged, or not of `model`.
    """
    return learned.load_table(folder, info(model) if model else None)


def normal(ask: Sensitivity) -> Sensitivity:
    """`ask` with settings that do not matter as they are by default."""
    changes: dict[str, Any] = {} if ask.how == "fisher" else {"probes": Sensitivity.probes}
    if ask.measure != "noise":
        changes["steps"] = Sensitivity.steps
    elif ask.how != "fisher":
        changes["seed"] = Sensitivity.seed
    return dataclasses.replace(ask, **changes)


def subject_of(recipe: Recipe, ask: Sensitivity) -> Recipe:
    """The recipe of the model that is compared with: weights in float, and activations too
    unless asked for.
    """
    laid = any(isinstance(choice.format, Uniform) for choice in ask.choices)
    weights = (
        dataclasses.replace(recipe.weights, bits=FLOAT, format=Uniform())
        if laid
        else Weights(bits=FLOAT)
    )
    if not ask.activations:
        return Recipe(
            name="",
            model=recipe.model,
            sampling=recipe.sampling,
            calibration=recipe.calibration,
            weights=weights,
            activations=Activations(bits=FLOAT),
            split_shortcuts=recipe.split_shortcuts,
        )
    kept = [over for over in recipe.overrides if over.activation_bits is not None]
    return dataclasses.replace(
        recipe,
        name="",
        unknown_timestep="error",
        weights=weights,
        temporal=None,
        reconstruction=None,
        progressive=None,
        relaxing=None,
        mixed=None,
        overrides=tuple(dataclasses.replace(over, weight_bits=None, format=None) for over in kept),
    )


def folder_of(subject: Recipe, ask: Sensitivity, *, own: bool = False) -> Path:
    # Fields with their defaults are left out, so that tables are found again when specs have more
    # fields.
    stats = statistics(subject)
    asked = jsonio.key_data(subject), jsonio.key_data(ask)
    return learned.table_folder(*asked, stats.fingerprint, stats.sampler, stats.timesteps, own=own)
