"""Predictors as they are kept, and the labels of random mixes one by one, so that an interruption
loses none of them.

RUNS/tables/    predictor-KEY/: predictor.safetensors, with all that is no array as JSON in its metadata
                labels-KEY/: NNNNN.json, NNNNN-again.json: a label each; more mixes only add to them
"""

import hashlib
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import jsonio
from ..errors import DmqError
from ..recipe import WeightFormat
from ..results import Layer, PieceScores, Prediction, PredictorResult
from . import folders
from .arrays import open_arrays, save_arrays
from .folders import home, written


ARRAYS = (
    "bytes",
    "local",
    "mixes",
    "labels",
    "again",
    "average_bits",
    "fold",
    "predicted",
    "op_scores",
    "op_spread",
    "ridge",
    "ridge_spread",
)
TEXTS = ("model", "fingerprint", "types", "label", "note")
PIECE_ARRAYS, PIECE_TEXTS = ("mixes", "scores", "spread"), ("piece", "kind", "layers", "complete")


def predictor_folder(kind: str, *asked: Any, own: bool = False) -> Path:
    """Where the `kind` "predictor" or "labels" is kept that answers `asked`: plain data and specs
    it depends on.

    The user's place for it, unless only one that ships is there and the user's `own` is not
    insisted on."""
    digest = hashlib.sha256(
        json.dumps([jsonio.to_data(one, as_key=True) for one in asked], sort_keys=True).encode()
    )
    name = f"{kind}-{digest.hexdigest()[:16]}"
    place, shipped = home() / "tables" / name, folders.ASSETS / "runs" / name
    return shipped if shipped.is_dir() and not (own or place.is_dir()) else place


def save_predictor(folder: Path, result: PredictorResult) -> None:
    """Write `result` into `folder`, which appears only when complete."""
    arrays = {name: getattr(result, name) for name in ARRAYS}
    for n, piece in enumerate(result.pieces):
        arrays |= {f"pieces.{n}.{name}": getattr(piece, name) for name in PIECE_ARRAYS}
    plain = {name: getattr(result, name) for name in TEXTS} | {
        "version": 1,
        "layers": [asdict(layer) for layer in result.layers],
        "choices": [jsonio.to_data(choice) for choice in result.choices],
        "predictions": [asdict(one) for one in result.predictions],
        "pieces": [{name: getattr(piece, name) for name in PIECE_TEXTS} for piece in result.pieces],
    }
    with written(folder) as part:
        save_arrays(part / "predictor.safetensors", "predictor", plain, arrays)


def load_predictor(folder: Path) -> PredictorResult:
    """What `save_predictor` wrote. Raises DmqError if the folder is damaged."""
    arrays, plain = open_arrays(folder / "predictor.safetensors", "predictor")
    try:
        if plain.pop("version") != 1:
            raise DmqError(f"{folder.name}: a predictor of another version of dmq; make it again.")
        plain["layers"] = tuple(
            Layer(**layer | {"shape": tuple(layer["shape"])}) for layer in plain["layers"]
        )
        plain["choices"] = tuple(
            jsonio.from_data(WeightFormat, one, f"{folder.name}.choices[{n}]")
            for n, one in enumerate(plain["choices"])
        )
        plain["types"] = tuple(plain["types"])
        plain["predictions"] = tuple(Prediction(**one) for one in plain["predictions"])
        plain["pieces"] = tuple(
            PieceScores(
                **one | {"layers": tuple(one["layers"])},
                **{name: arrays.pop(f"pieces.{n}.{name}") for name in PIECE_ARRAYS},
            )
            for n, one in enumerate(plain["pieces"])
        )
        return PredictorResult(**plain, **arrays)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DmqError(f"{folder}: damaged ({error}); delete the folder and do it again.") from None


def save_label(folder: Path, name: str, label: float) -> None:
    """Keep one label; a reader finds all of it or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=".part-", dir=folder)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump({"label": label}, file)
    Path(part).replace(folder / f"{name}.json")


def load_label(folder: Path, name: str) -> float | None:
    """What `save_label` wrote; None if there is none of that name.

    Raises DmqError if it is damaged.
    """
    file = folder / f"{name}.json"
    try:
        return float(json.loads(file.read_text("utf-8"))["label"]) if file.is_file() else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DmqError(f"{file}: damaged ({error}); delete it and go on.") from None
