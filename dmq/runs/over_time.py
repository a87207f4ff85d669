"""Answers about errors along the steps, kept with their question: the curves of recipes, and the
probe.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from .. import jsonio
from ..errors import DmqError
from ..results import OverTime, ProbeImage
from . import folders
from .arrays import open_arrays, save_arrays
from .folders import own_home, written


CURVES = {"accumulated": "accumulated", "foreseen": "predicted_x0", "isolated": "isolated"}
NUMBERS = ("start", "end", "gain", "error", "psnr", "match", "match_float")


def save_over_time(folder: Path, question: dict[str, Any], made: OverTime) -> None:
    """Write `made` and the `question` that it answers (specs by name) into `folder`, once it is
    complete.
    """
    arrays = {
        f"{name}.{n}": x
        for name, curve in CURVES.items()
        for n, x in enumerate(getattr(made, curve).values())
    }
    arrays |= {f"strip.{n}": np.stack(strip) for n, strip in enumerate(made.strips.values())}
    plain = {
        "names": list(made.isolated),
        "strips": list(made.strips),
        "foreseen": bool(made.predicted_x0),
        "timesteps": made.timesteps,
        "mean_bits": made.mean_bits,
        "watched": made.watched,
    }
    _save(folder, question, arrays | {"coefficients": made.coefficients}, plain)


def load_over_time(folder: Path) -> OverTime:
    """What `save_over_time` wrote. Raises DmqError if the folder is damaged."""
    arrays, plain = open_arrays(folder / "answer.safetensors", "answer")
    try:
        known = {name: name != "foreseen" or plain["foreseen"] for name in CURVES}
        return OverTime(
            timesteps=tuple(plain["timesteps"]),
            coefficients=arrays["coefficients"],
            mean_bits=plain["mean_bits"],
            watched=tuple(plain["watched"]),
            strips={who: tuple(arrays[f"strip.{n}"]) for n, who in enumerate(plain["strips"])},
            **{
                curve: {
                    who: arrays[f"{name}.{n}"]
                    for n, who in enumerate(plain["names"])
                    if known[name]
                }
                for name, curve in CURVES.items()
            },
        )
    except (KeyError, TypeError) as error:
        raise DmqError(f"{folder}: damaged ({error}); delete the folder and do it again.") from None


def save_probe(folder: Path, question: dict[str, Any], made: tuple[ProbeImage, ...]) -> None:
    """Write a finished probe and the `question` that it answers (specs by name) into `folder`."""
    numbers = np.array([[getattr(one, name) for name in NUMBERS] for one in made], np.float64)
    images = np.stack([made[0].exact, *(one.pixels for one in made)])
    _save(folder, question, {"numbers": numbers, "pictures": images}, {})


def load_probe(folder: Path) -> tuple[ProbeImage, ...]:
    """What `save_probe` wrote. Raises DmqError if the folder is damaged."""
    arrays, _ = open_arrays(folder / "answer.safetensors", "answer")
    try:
        exact, *images = arrays["pictures"]
        rows = [dict(zip(NUMBERS, row.tolist(), strict=True)) for row in arrays["numbers"]]
    except (KeyError, ValueError) as error:
        raise DmqError(f"{folder}: damaged ({error}); delete the folder and do it again.") from None
    whole = [row | {"start": int(row["start"]), "end": int(row["end"])} for row in rows]
    return tuple(
        ProbeImage(pixels=x, exact=exact, **row) for row, x in zip(whole, images, strict=True)
    )


def load_question(folder: Path, **expected: Any) -> dict[str, Any]:
    """The question behind an answer, for the types `expected` by name.

    Raises DmqError if it cannot be read.
    """
    try:
        data = json.loads((folder / "question.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DmqError(f"{folder}: damaged ({error}); delete the folder and do it again.") from None
    return {name: jsonio.from_data(kind, data.get(name), name) for name, kind in expected.items()}


def answers(kind: str) -> list[Path]:
    """The folders of all answers of a kind ("over-time", "probe"): the user's, newest first,
    then those that ship.
    """
    own = (own_home() / "trajectories").glob(f"{kind}-*/question.json")
    shipped = (folders.ASSETS / "runs").glob(f"{kind}-*/question.json")
    return [
        file.parent
        for file in (*sorted(own, key=lambda file: -file.stat().st_mtime_ns), *sorted(shipped))
    ]


def _save(
    folder: Path, question: dict[str, Any], arrays: dict[str, np.ndarray], plain: dict[str, Any]
) -> None:
    with written(folder) as part:
        data = {name: jsonio.to_data(value) for name, value in question.items()}
        (part / "question.json").write_text(
            json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8"
        )
        save_arrays(part / "answer.safetensors", "answer", plain, arrays)
