"""Rows that were measured, in one JSON file that is always whole: an interrupted run goes on behind
them.

    {"rows": [{"model", "setting", "table", "name", "asked", figures...}], "learned": {what: seconds}}

Figures are means over the seeds; "*_interval" is half of their 95 % interval, null for a single
seed."""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from dmq import jsonio
from dmq.errors import DmqError
from dmq.recipe import Recipe


Row = dict[str, Any]
PLACE = ("model", "setting", "table", "name")


class Results:
    """The rows of a file, or of this run alone if it is None; every change is written at once.

    With `again`, rows that the file holds are measured anew, each only once.
    """

    def __init__(self, file: Path | None, again: bool = False) -> None:
        self.file = file
        held = _read(file) if file is not None and file.is_file() else {"rows": [], "learned": {}}
        self.rows: dict[tuple[str, ...], Row] = {
            tuple(row[key] for key in PLACE): row for row in held["rows"]
        }
        self.learned: dict[str, float] = held["learned"]
        self.old = {row["asked"] for row in held["rows"]} if again else set()

    def find(self, place: tuple[str, ...], asked: str) -> Row | None:
        """The row at `place` if the same was measured, there or under another name; None if not."""
        same = [
            row for row in self.rows.values() if row["asked"] == asked and asked not in self.old
        ]
        if not same:
            return None
        return (
            self.rows[place]
            if self.rows.get(place) in same
            else same[0] | dict(zip(PLACE, place, strict=True))
        )

    def put(self, row: Row) -> None:
        """Keep `row` in place of the one that was there."""
        self.old.discard(row["asked"])
        self.rows[tuple(row[key] for key in PLACE)] = row
        self.write()

    def write(self) -> None:
        """Write the file whole or not at all."""
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.file.parent, prefix=".part-") as part:
            made = Path(part) / self.file.name
            held = {"rows": list(self.rows.values()), "learned": self.learned}
            made.write_text(json.dumps(held, indent=1, allow_nan=False), encoding="utf-8")
            made.replace(self.file)


def asked(recipe: Recipe, *conditions: Any) -> str:
    """A name for all that a row's figures depend on: the recipe without its name, and plain data
    beside it.
    """
    data = [jsonio.to_data(recipe, as_key=True) | {"name": ""}, *conditions]
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def interval(values: np.ndarray) -> float | None:
    """Half of the 95 % interval of the mean; None for a single value.

    >>> round(interval(np.array([1.0, 2.0, 3.0])), 3)
    2.484
    """
    if len(values) < 2:
        return None
    return float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)


def _read(file: Path) -> dict[str, Any]:
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        if (
            all(key in row for row in held["rows"] for key in (*PLACE, "asked"))
            and "learned" in held
        ):
            return held
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise DmqError(f"{file}: not a file of this bench. Give another --out, or delete it.")
