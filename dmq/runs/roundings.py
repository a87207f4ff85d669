"""Codes whose rounding was learned: of the time embedding, and of blocks one after another."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from .. import jsonio
from . import folders
from .arrays import open_arrays, save_arrays
from .folders import home, written


def rounding_folder(*asked: Any, own: bool = False) -> Path:
    """Where the rounding is kept that was learned for `asked`: plain data and specs that it depends
    on.

    The user's place for it, unless only one that ships is there and the user's `own` is not
    insisted on."""
    digest = hashlib.sha256(
        json.dumps([jsonio.to_data(one, as_key=True) for one in asked], sort_keys=True).encode()
    )
    places = home() / "roundings", folders.ASSETS / "runs"
    place, shipped = (folder / f"rounding-{digest.hexdigest()[:16]}" for folder in places)
    return shipped if shipped.is_dir() and not (own or place.is_dir()) else place


def save_rounding(folder: Path, arrays: dict[str, np.ndarray], plain: dict[str, Any]) -> None:
    """Write learned codes, and what is needed to read them, into `folder`, which appears only
    when complete.
    """
    with written(folder) as part:
        save_arrays(part / "rounding.safetensors", "rounding", plain, arrays)


def load_rounding(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `save_rounding` wrote. Raises DmqError if the file is damaged."""
    return open_arrays(folder / "rounding.safetensors", "rounding", "learn the rounding again")


def discard(folder: Path) -> None:
    """Delete what was kept in `folder` of unfinished work, if anything was."""
    if folder.is_dir():
        shutil.rmtree(folder)
