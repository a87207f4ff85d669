"""Which predictors are kept of a model, and the tables that can be made of one."""

import json
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..results import PredictorResult, SensitivityTable
from . import folders
from .folders import home


FILES = "predictor-*/predictor.safetensors"
TABLES: dict[str, Callable[[PredictorResult], SensitivityTable]] = {
    "block": lambda found: found.table("block"),
    "op": lambda found: found.table("op"),
    "ridge": lambda found: found.ridge_table(),
}


def find_predictors(fingerprint: str) -> list[Path]:
    """The folders of predictors of those weights: the user's, newest first, then shipped;
    unreadable ones left out.
    """
    own = sorted((home() / "tables").glob(FILES), key=lambda file: -file.stat().st_mtime_ns)
    names = {file.parent.name for file in own}  # the user's own hides the same one that ships
    shipped = [
        file
        for file in sorted((folders.ASSETS / "runs").glob(FILES))
        if file.parent.name not in names
    ]
    return [file.parent for file in (*own, *shipped) if _whose(file) == fingerprint]


def _whose(file: Path) -> str:
    try:
        with safe_open(file, "numpy") as held:
            return str(json.loads(held.metadata()["predictor"])["fingerprint"])
    except (OSError, KeyError, ValueError, TypeError, SafetensorError):
        return ""
