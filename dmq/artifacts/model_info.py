"""What is known of a model, and recipes for another one."""

import dataclasses
from functools import lru_cache
from typing import Any, cast

from ..models.libraries import load
from ..recipe import EMBEDDED, ManualGroups, Recipe, Sampling
from ..results import ModelInfo, TemporalBlock
from ..store import captures, folders


def get_info(model: str) -> ModelInfo:
    """What is known of a model: an embedded name, a folder or a Hub id. Raises DmqError if it
    cannot be loaded.

    An embedded model need not be loaded for that: its description ships with its capture.
    """
    shipped = _shipped_info(model) if model in EMBEDDED else None
    return shipped or load(model).info


@lru_cache
def _shipped_info(model: str) -> ModelInfo | None:
    folder = folders.ASSETS / "runs" / captures.capture_key(for_model(Recipe(), model))
    return captures.load_info(folder)


def for_model(recipe: Recipe, model: str, sampling: Sampling | None = None) -> Recipe:
    """`recipe` for another model, with that model's sampling unless another is given.

    Boundaries set by hand keep their places in time, and there are no more groups than steps.
    """
    sampling = sampling or EMBEDDED.get(model, recipe.sampling)
    grouping, old, new = recipe.grouping, recipe.sampling.steps, sampling.steps
    if isinstance(grouping, ManualGroups):
        moved = {round(b * new / old) for b in grouping.boundaries}
        grouping = ManualGroups(boundaries=tuple(sorted(b for b in moved if 0 < b < new)))
    elif hasattr(grouping, "count"):
        grouping = dataclasses.replace(cast(Any, grouping), count=min(grouping.count, new))
    return dataclasses.replace(recipe, model=model, sampling=sampling, grouping=grouping)


def get_temporal_block(model: str) -> TemporalBlock | None:
    """The part of `model` that sees the time only; None if dmq knows none in it."""
    # Descriptions that were kept with a capture may be older than dmq's knowledge of such blocks.
    return get_info(model).temporal or load(model).info.temporal


def get_info_for(recipe: Recipe) -> ModelInfo:
    """The description of the model, with its temporal block and its splits if `recipe` needs
    them.
    """
    known = get_info(recipe.model)
    # Descriptions that were kept with a capture may be older than dmq's knowledge of such things.
    missing = (recipe.temporal is not None and known.temporal is None) or (
        recipe.split_shortcuts and known.splits is None
    )
    return load(recipe.model).info if missing else known
