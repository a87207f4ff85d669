"""What it costs to make each layer's weight into each of some choices, and the parts of a table
that is not finished.

A table is one file: arrays as safetensors, and all the rest as JSON in the file's metadata.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from .. import jsonio
from ..errors import DmqError
from ..recipe import WeightFormat
from ..results import Layer, ModelInfo, SensitivityTable
from . import folders
from .arrays import open_arrays, save_arrays
from .folders import home, written


ALWAYS, SOMETIMES = ("bytes", "cost", "spread"), ("per_step", "local")  # arrays of a table
FILES = "sensitivity-*/table.safetensors"
TEXTS = ("title", "kind", "unit", "model", "fingerprint", "note")


def table_folder(*asked: Any, own: bool = False) -> Path:
    """Where the table is kept that answers `asked`: plain data and specs that it depends on.

    The user's place for it, unless only one that ships is there and the user's `own` is not
    insisted on."""
    digest = hashlib.sha256(
        json.dumps([jsonio.to_data(one, as_key=True) for one in asked], sort_keys=True).encode()
    )
    name = f"sensitivity-{digest.hexdigest()[:16]}"
    place, shipped = home() / "tables" / name, folders.ASSETS / "runs" / name
    return shipped if shipped.is_dir() and not (own or place.is_dir()) else place


def save_table(folder: Path, table: SensitivityTable) -> None:
    """Write `table` into `folder`, which appears only when complete."""
    arrays = {
        name: getattr(table, name)
        for name in (*ALWAYS, *SOMETIMES)
        if getattr(table, name) is not None
    }
    plain = {name: getattr(table, name) for name in TEXTS} | {
        "version": 1,
        "timesteps": table.timesteps,
        "layers": [asdict(layer) for layer in table.layers],
        "choices": [jsonio.to_data(choice) for choice in table.choices],
    }
    with written(folder) as part:
        save_arrays(part / "table.safetensors", "table", plain, arrays)


def load_table(folder: Path, known: ModelInfo | None = None) -> SensitivityTable:
    """What `save_table` wrote.

    Raises DmqError if the folder is damaged, or if it is not of the model `known`.
    """
    arrays, plain = open_arrays(folder / "table.safetensors", "table")
    try:
        if plain.pop("version") != 1:
            raise DmqError(f"{folder.name}: a table of another version of dmq; make it again.")
        plain["layers"] = tuple(
            Layer(**layer | {"shape": tuple(layer["shape"])}) for layer in plain["layers"]
        )
        plain["choices"] = tuple(
            jsonio.from_data(WeightFormat, one, f"{folder.name}.choices[{n}]")
            for n, one in enumerate(plain["choices"])
        )
        plain["timesteps"] = tuple(plain["timesteps"])
        table = SensitivityTable(**plain, **arrays)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DmqError(f"{folder}: damaged ({error}); delete the folder and do it again.") from None
    _check_shapes(folder, table)
    if known is not None:
        _check_model(folder, table, known)
    return table


def find_tables(model: str = "", fingerprint: str = "") -> list[Path]:
    """The folders of finished tables, of that model or those weights if named: the user's, newest
    first, then shipped.

    Unreadable ones are left out, since nobody knows whose they are; `load_table` says what is wrong
    with them."""
    own = sorted((home() / "tables").glob(FILES), key=lambda file: -file.stat().st_mtime_ns)
    names = {file.parent.name for file in own}  # the user's own hides the same one that ships
    shipped = [
        file
        for file in sorted((folders.ASSETS / "runs").glob(FILES))
        if file.parent.name not in names
    ]
    return [file.parent for file in (*own, *shipped) if _is_of(file, model, fingerprint)]


def save_part(folder: Path, name: str, arrays: dict[str, np.ndarray]) -> None:
    """Keep a finished part of a table that is not finished, in `folder`/`name`."""
    with written(folder / name) as part:
        save_arrays(part / "part.safetensors", "part", {}, arrays)


def load_part(folder: Path, name: str) -> dict[str, np.ndarray] | None:
    """What `save_part` wrote; None if there is none of that name.

    Raises DmqError if it is damaged.
    """
    file = folder / name / "part.safetensors"
    return open_arrays(file, "part")[0] if file.parent.is_dir() else None


def part_names(folder: Path) -> list[str]:
    """The names of the parts kept in `folder`."""
    return sorted(file.parent.name for file in folder.glob("*/part.safetensors"))


def _is_of(file: Path, model: str, fingerprint: str) -> bool:
    try:
        with safe_open(file, "numpy") as held:
            plain = json.loads(held.metadata()["table"])
        return (model or plain["model"], fingerprint or plain["fingerprint"]) == (
            plain["model"],
            plain["fingerprint"],
        )
    except (OSError, KeyError, ValueError, TypeError, SafetensorError):
        return False


def _check_shapes(folder: Path, table: SensitivityTable) -> None:
    cells = (len(table.layers), len(table.choices))
    for name in (*ALWAYS, *SOMETIMES):
        array = getattr(table, name)
        expected = (*cells, len(table.timesteps)) if name == "per_step" else cells
        if array is not None and array.shape != expected:
            raise DmqError(
                f"{folder}: damaged ({name} has shape {array.shape}, expected {expected}); delete "
                "the folder and do "
                "it again."
            )


def _check_model(folder: Path, table: SensitivityTable, known: ModelInfo) -> None:
    if table.fingerprint == known.fingerprint:
        return
    whose = (
        f"of {table.model!r}"
        if table.model != known.name
        else f"of other weights of {table.model!r}"
    )
    raise DmqError(
        f"{folder.name}: a table {whose}, not of {known.name!r} as it is now; make one for this "
        "model."
    )
