"""What was learned or measured: each answer is one folder, most of them are one file.

An answer that is not complete is kept in parts beside it, so that an interruption loses none."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from .. import jsonio
from ..errors import DmqError
from ..recipe import LearnedGroups, MseSearch, Recipe
from ..results import (
    ActivationStats,
    ModelInfo,
    OverTime,
    PredictorResult,
    ProbeImage,
    ProgressiveRanges,
    SearchResult,
    SensitivityTable,
)
from . import codec
from .arrays import save_arrays
from .captures import load_stats, model_key, save_stats
from .extremes import EXACT, ROUNDED, SIDES
from .folders import answer_folder, find_answers, find_finished, home, write_folder, write_whole


trajectory_folder = predictor_folder = answer_folder
table_folder, rounding_folder = (
    partial(answer_folder, "sensitivity"),
    partial(answer_folder, "rounding"),
)
CURVES = {"accumulated": "accumulated", "foreseen": "predicted_x0", "isolated": "isolated"}
NUMBERS = ("start", "end", "gain", "error", "psnr", "match", "match_float")
TABLES: dict[str, Callable[[PredictorResult], SensitivityTable]] = {  # that a predictor gives
    "block": lambda found: found.table("block"),
    "op": lambda found: found.table("op"),
    "ridge": lambda found: found.ridge_table(),
}


def _save(folder: Path, name: str, value: Any) -> None:
    with write_folder(folder) as part:
        codec.save(part / f"{name}.safetensors", name, value)


# --- groups, roundings ----------------------------------------------------------------------------


def search_key(recipe: Recipe, spec: LearnedGroups, fingerprint: str) -> str:
    """A name for what a search depends on: model, sampling, quantization, its settings."""
    # Learned ranges take the place of any.
    activations = replace(recipe.activations, range=MseSearch())
    run = (recipe.sampling, recipe.calibration, recipe.weights, activations)
    specs = (spec, *run, recipe.protection, recipe.overrides)
    asked = [recipe.model, fingerprint, *(jsonio.to_data(one, as_key=True) for one in specs)]
    return model_key(recipe.model, asked, "search-")


def find_search(recipe: Recipe, spec: LearnedGroups, fingerprint: str) -> Path | None:
    """The folder of a finished search: the user's own before one that ships."""
    return find_finished("searches", search_key(recipe, spec, fingerprint), "search.safetensors")


def save_search(recipe: Recipe, spec: LearnedGroups, result: SearchResult) -> Path:
    """Write what a search found, and its recipe; returns the folder."""
    folder = home() / "searches" / search_key(recipe, spec, result.fingerprint)
    with write_folder(folder) as part:
        codec.save(part / "search.safetensors", "search", result)
        (part / "recipe.json").write_text(jsonio.dumps(recipe), encoding="utf-8")
    return folder


def load_search(folder: Path) -> SearchResult:
    """What `save_search` wrote. Raises DmqError if the folder is damaged or of another version."""
    remedy = "delete the folder and search again"
    return codec.load(folder / "search.safetensors", "search", SearchResult, remedy)


def save_rounding(folder: Path, arrays: dict[str, np.ndarray], plain: dict[str, Any]) -> None:
    """Write learned codes, and what is needed to read them, into `folder`."""
    with write_folder(folder) as part:
        save_arrays(part / "rounding.safetensors", "rounding", plain, arrays)


def load_rounding(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `save_rounding` wrote. Raises DmqError if the file is damaged."""
    remedy = "delete the folder and learn the rounding again"
    return codec.open_arrays(folder / "rounding.safetensors", "rounding", remedy)


# --- progressive ranges ---------------------------------------------------------------------------


def save_progressive(
    folder: Path,
    made: ProgressiveRanges,
    base: ActivationStats,
    *,
    by_channel: bool,
    splits: Mapping[str, int] | None = None,
) -> None:
    """Write ranges, and what else was seen than in the capture `base`, into `folder`, once it is
    complete.

    Extremes of channels are kept only `by_channel`, where ranges are of channels or groups of them;
    else those of each side of the inputs that `splits` names."""
    seen = made.stats.only(made.stats.unlike(base))
    with write_folder(folder) as part:
        save_stats(part / "stats", seen, channels=ROUNDED if by_channel else SIDES, splits=splits)
        plain = {"version": 2, "calls": made.calls, "widest_change": made.widest_change}
        arrays = {name: getattr(made, name) for name in ("low", "high")}
        save_arrays(part / "ranges.safetensors", "progressive", plain, arrays)


def load_progressive(folder: Path, base: ActivationStats) -> ProgressiveRanges:
    """What `save_progressive` wrote, the rest of the statistics from their capture `base`.

    Raises DmqError if the folder is damaged or belongs to another capture.
    """
    arrays, plain = codec.open_arrays(folder / "ranges.safetensors", "progressive")
    seen = load_stats(folder / "stats")
    with codec.reading(folder):
        whole = codec.check_version(plain, folder, known=(1, 2)) == 1
        for name in () if whole else ("fingerprint", "sampler", "timesteps", "subset"):
            if getattr(seen, name) != getattr(base, name):
                raise DmqError(
                    f"{folder}: of a capture with another {name}; delete the folder and do it again."
                )
        try:
            stats = seen if whole else base.updated(seen)
        except KeyError as error:
            raise ValueError(f"no site {error}") from None
        return codec.from_parts(ProgressiveRanges, plain, arrays, stats=stats)


def save_call(folder: Path, n: int, stats: ActivationStats, grids: dict[str, np.ndarray]) -> None:
    """Keep what call `n` of an unfinished calibration saw, and the grids that answered it."""
    with write_folder(folder / f"{n:05d}") as part:
        save_stats(part / "stats", stats, channels=EXACT)  # so that an interruption changes nothing
        save_file(
            {name: np.ascontiguousarray(x) for name, x in grids.items()}, part / "grids.safetensors"
        )


def load_calls(folder: Path) -> list[tuple[ActivationStats, dict[str, np.ndarray]]]:
    """The calls kept of an unfinished calibration, in order, as far as there is no gap."""
    calls: list[tuple[ActivationStats, dict[str, np.ndarray]]] = []
    while (place := folder / f"{len(calls):05d}").is_dir():
        with codec.reading(place):
            calls.append((load_stats(place / "stats"), load_file(place / "grids.safetensors")))
    return calls


# --- what layers cost -----------------------------------------------------------------------------


def save_table(folder: Path, table: SensitivityTable) -> None:
    """Write `table` into `folder`, which appears only when complete."""
    _save(folder, "table", table)


def load_table(folder: Path, known: ModelInfo | None = None) -> SensitivityTable:
    """What `save_table` wrote.

    Raises DmqError if the folder is damaged, or if it is not of the model `known`.
    """
    file = folder / "table.safetensors"
    table = codec.load(file, "table", SensitivityTable)
    # Titles of tables that were kept before images were called so.
    table = replace(table, title=table.title.replace("picture", "image"))
    cells = (len(table.layers), len(table.choices))
    with codec.reading(file):
        for name in ("bytes", "cost", "spread", "per_step", "local"):
            array = getattr(table, name)
            expected = (*cells, len(table.timesteps)) if name == "per_step" else cells
            if array is not None and array.shape != expected:
                raise ValueError(f"{name} has shape {array.shape}, expected {expected}")
    if known is not None and table.fingerprint != known.fingerprint:
        weights = "" if table.model != known.name else "other weights of "
        raise DmqError(
            f"{folder.name}: a table of {weights}{table.model!r}, not of {known.name!r} as it is "
            "now; make one for this model."
        )
    return table


def find_tables(model: str = "", fingerprint: str = "", kind: str = "sensitivity") -> list[Path]:
    """The folders of finished tables, of that model or those weights if named: the user's, newest
    first, then shipped.

    Unreadable ones are left out, since nobody knows whose they are; `load_table` says what is wrong
    with them."""
    name = "predictor" if kind == "predictor" else "table"
    found = []
    for folder in find_answers(kind):
        plain = codec.peek(folder / f"{name}.safetensors", name)
        named = {"model": model, "fingerprint": fingerprint}
        if all(key in plain and value in ("", plain[key]) for key, value in named.items()):
            found.append(folder)
    return found


def save_part(folder: Path, name: str, arrays: dict[str, np.ndarray]) -> None:
    """Keep a finished part of a table that is not finished, in `folder`/`name`."""
    with write_folder(folder / name) as part:
        save_arrays(part / "part.safetensors", "part", {}, arrays)


def load_part(folder: Path, name: str) -> dict[str, np.ndarray] | None:
    """What `save_part` wrote; None if there is none of that name.

    Raises DmqError if it is damaged.
    """
    file = folder / name / "part.safetensors"
    return codec.open_arrays(file, "part")[0] if file.parent.is_dir() else None


def part_names(folder: Path) -> list[str]:
    """The names of the parts kept in `folder`."""
    return sorted(file.parent.name for file in folder.glob("*/part.safetensors"))


def save_predictor(folder: Path, result: PredictorResult) -> None:
    """Write `result` into `folder`, which appears only when complete."""
    _save(folder, "predictor", result)


def load_predictor(folder: Path) -> PredictorResult:
    """What `save_predictor` wrote. Raises DmqError if the folder is damaged."""
    return codec.load(folder / "predictor.safetensors", "predictor", PredictorResult)


def find_predictors(fingerprint: str) -> list[Path]:
    """The folders of predictors of those weights, in the order and with the gaps of `find_tables`."""
    return find_tables(fingerprint=fingerprint, kind="predictor")


def save_label(folder: Path, name: str, label: float) -> None:
    """Keep one label of a random mix; a reader finds all of it or nothing."""
    write_whole(folder / f"{name}.json", json.dumps({"label": label}))


def load_label(folder: Path, name: str) -> float | None:
    """What `save_label` wrote; None if there is none of that name.

    Raises DmqError if it is damaged.
    """
    file = folder / f"{name}.json"
    with codec.reading(file, "delete it and go on"):
        return float(codec.read_json(file)["label"]) if file.is_file() else None


# --- errors along the steps, kept with their question ---------------------------------------------


def save_over_time(folder: Path, question: dict[str, Any], made: OverTime) -> None:
    """Write `made` and the `question` that it answers (specs by name) into `folder`."""
    arrays = {
        f"{name}.{n}": x
        for name, curve in CURVES.items()
        for n, x in enumerate(getattr(made, curve).values())
    }
    arrays |= {f"strip.{n}": np.stack(strip) for n, strip in enumerate(made.strips.values())}
    plain = {name: getattr(made, name) for name in ("timesteps", "mean_bits", "watched")}
    plain |= {"names": list(made.isolated), "strips": list(made.strips)}
    plain |= {"foreseen": bool(made.predicted_x0)}
    _save_answer(folder, question, arrays | {"coefficients": made.coefficients}, plain)


def load_over_time(folder: Path) -> OverTime:
    """What `save_over_time` wrote. Raises DmqError if the folder is damaged."""
    arrays, plain = codec.open_arrays(folder / "answer.safetensors", "answer")
    with codec.reading(folder):
        names, strips, is_known = (plain.pop(key) for key in ("names", "strips", "foreseen"))
        given: dict[str, Any] = {
            curve: {who: arrays.pop(f"{name}.{n}") for n, who in enumerate(names)}
            for name, curve in CURVES.items()
            if name != "foreseen" or is_known
        }
        given |= {} if is_known else {"predicted_x0": {}}
        given["strips"] = {who: tuple(arrays.pop(f"strip.{n}")) for n, who in enumerate(strips)}
        return codec.from_parts(OverTime, plain, arrays, **given)


def save_probe(folder: Path, question: dict[str, Any], made: tuple[ProbeImage, ...]) -> None:
    """Write a finished probe and the `question` that it answers (specs by name) into `folder`."""
    numbers = np.array([[getattr(one, name) for name in NUMBERS] for one in made], np.float64)
    images = np.stack([made[0].exact, *(one.pixels for one in made)])
    _save_answer(folder, question, {"numbers": numbers, "pictures": images}, {})


def load_probe(folder: Path) -> tuple[ProbeImage, ...]:
    """What `save_probe` wrote. Raises DmqError if the folder is damaged."""
    arrays, _ = codec.open_arrays(folder / "answer.safetensors", "answer")
    with codec.reading(folder):
        exact, *images = arrays["pictures"]
        rows = [dict(zip(NUMBERS, row.tolist(), strict=True)) for row in arrays["numbers"]]
        return tuple(
            ProbeImage(
                pixels=x,
                exact=exact,
                **row | {name: int(row[name]) for name in ("start", "end")},
            )
            for row, x in zip(rows, images, strict=True)
        )


def load_question(folder: Path, **expected: Any) -> dict[str, Any]:
    """The question behind an answer, for the types `expected` by name.

    Raises DmqError if it cannot be read.
    """
    with codec.reading(folder):
        data = codec.read_json(folder / "question.json")
    return {name: jsonio.from_data(kind, data.get(name), name) for name, kind in expected.items()}


answers = find_answers


def _save_answer(
    folder: Path, question: dict[str, Any], arrays: dict[str, np.ndarray], plain: dict[str, Any]
) -> None:
    with write_folder(folder) as part:
        data = {name: jsonio.to_data(value) for name, value in question.items()}
        (part / "question.json").write_text(
            json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8"
        )
        save_arrays(part / "answer.safetensors", "answer", plain, arrays)
