"""Run folders: what was captured and measured, saved so that it can be opened again.

    RUNS/captures/KEY/    capture.json, steps.parquet, histograms-*.parquet, channels-*.safetensors, model.json,
                          trajectory.safetensors if asked for
    RUNS/searches/KEY/    search.safetensors, recipe.json
    RUNS/roundings/KEY/   rounding.safetensors; KEY-blocks/BLOCK/ the same of each block while not all are done
    RUNS/NAME/            recipe.json, recipe-2.json, …, comparison.json, report.json
                          pictures/W/NNN.png and NNN-at-STEP.png, W = 0 for float, then the recipes

Everything is written under a temporary name and renamed, so a folder is either whole or not there.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from . import jsonio
from .errors import DmqError
from .recipe import Comparison, LearnedGroups, MseSearch, Recipe
from .results import (
    ActivationStats,
    Layer,
    ModelInfo,
    PictureScore,
    Projection,
    Report,
    SearchResult,
    Site,
    TemporalBlock,
    Trajectory,
)


ASSETS = Path(__file__).resolve().parent.parent / "assets"
SHARD = 8_000_000  # bytes before compression; every file stays below the 10 MB that a Space accepts
SCALARS = ("elements", "minimum", "maximum")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,79}")


def home() -> Path:
    """Where runs are kept: `$DMQ_RUNS`, or `runs` in the current folder."""
    return Path(os.environ.get("DMQ_RUNS", "runs"))


@contextlib.contextmanager
def written(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` if the block ends well, and disappears if it does not."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    try:
        yield part
        part.chmod(0o755)
        if folder.exists():
            # Two renames instead of remove-then-rename: a reader never finds half a folder.
            old = Path(tempfile.mkdtemp(prefix=".old-", dir=folder.parent))
            folder.rename(old / "was")
            part.rename(folder)
            shutil.rmtree(old)
        else:
            part.rename(folder)
    finally:
        if part.exists():
            shutil.rmtree(part)


# --- captures ------------------------------------------------------------------------------------------------------


def capture_key(recipe: Recipe) -> str:
    """A name for what `recipe` must know of the activations: two recipes that differ only in bits share it."""
    asked = [recipe.model, jsonio.to_data(recipe.sampling), jsonio.to_data(recipe.calibration)]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:10]
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', recipe.model).strip('-')[-40:]}-{digest}"


def find_capture(recipe: Recipe) -> Path | None:
    """The folder of a finished capture for `recipe`: the user's own before the one that ships."""
    key = capture_key(recipe)
    places = [home() / "captures" / key, ASSETS / "runs" / key]
    return next((place for place in places if (place / "capture.json").is_file()), None)


def save_stats(
    folder: Path, stats: ActivationStats, info: ModelInfo | None = None, trajectory: Trajectory | None = None
) -> None:
    """Write `stats`, and what else there is to keep, into `folder`, which appears only when complete."""
    with written(folder) as part:
        if info is not None:
            (part / "model.json").write_text(json.dumps(asdict(info)), encoding="utf-8")
        if trajectory is not None:
            _save_trajectory(part, trajectory)
        rows = np.arange(len(stats.sites))
        table = {"site": np.repeat(rows, stats.steps), "step": np.tile(np.arange(stats.steps), len(rows))}
        table |= {name: getattr(stats, name).reshape(-1) for name in SCALARS}
        table |= {f"sum_x{k + 1}": stats.power_sums[..., k].reshape(-1) for k in range(4)}
        table |= {name: getattr(stats, name).astype(np.float32).reshape(-1) for name in ("mean", "std", "kurtosis")}
        for q in (0.001, 0.01, 0.5, 0.99, 0.999):
            table[f"q{q}"] = np.concatenate([stats.quantile(s, q) for s in rows]).astype(np.float32)
        pd.DataFrame(table).to_parquet(part / "steps.parquet", compression="zstd")
        counts = [_narrow(c) for c in stats.counts]
        for n, (a, b) in enumerate(_shards([c.nbytes for c in counts])):
            _save_histograms(part / f"histograms-{n:05d}.parquet", range(a, b), counts[a:b])
        channels = [np.stack([low, high]) for low, high in zip(stats.channel_min, stats.channel_max, strict=True)]
        for n, (a, b) in enumerate(_shards([c.nbytes for c in channels])):
            save_file({str(s): channels[s] for s in range(a, b)}, part / f"channels-{n:05d}.safetensors")
        plain = {name: getattr(stats, name) for name in ("model", "fingerprint", "sampler", "samples", "subset")}
        plain |= {"version": 1, "timesteps": stats.timesteps, "sites": [asdict(site) for site in stats.sites]}
        plain |= {"exponent": stats.exponent.tolist(), "first": stats.first.tolist()}
        (part / "capture.json").write_text(json.dumps(plain), encoding="utf-8")


def load_stats(folder: Path) -> ActivationStats:
    """The statistics that `save_stats` wrote. Raises DmqError if the folder is damaged or of another version."""
    try:
        plain = json.loads((folder / "capture.json").read_text(encoding="utf-8"))
        if plain.pop("version") != 1:
            raise DmqError(f"{folder.name}: a capture of another version of dmq; capture again.")
        shape = (len(plain["sites"]), len(plain["timesteps"]))
        table = pq.read_table(folder / "steps.parquet")
        column = {name: table[name].to_numpy().reshape(shape) for name in table.column_names if name[0] != "q"}
        counts = _load_histograms(folder, *shape)
        channels: dict[str, np.ndarray] = {}
        for file in sorted(folder.glob("channels-*.safetensors")):
            channels |= load_file(file)
        both = [channels[str(s)] for s in range(shape[0])]
        plain["sites"] = tuple(Site(**site) for site in plain["sites"])
        plain["timesteps"] = tuple(plain["timesteps"])
        return ActivationStats(
            **plain | {"exponent": np.array(plain["exponent"], np.int16), "first": np.array(plain["first"], np.int32)},
            counts=counts,
            power_sums=np.stack([column[f"sum_x{k + 1}"] for k in range(4)], -1),
            channel_min=tuple(pair[0] for pair in both),
            channel_max=tuple(pair[1] for pair in both),
            **{name: column[name] for name in SCALARS},
        )
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException, SafetensorError) as error:
        why = f"{type(error).__name__}: {error}"
        raise DmqError(f"{folder}: a damaged capture ({why}); delete the folder and capture again.") from None


def load_info(folder: Path) -> ModelInfo | None:
    """The description of the captured model, if it was kept; None for a folder without one."""
    file = folder / "model.json"
    if not file.is_file():
        return None
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        layers = tuple(Layer(**row | {"shape": tuple(row["shape"])}) for row in plain.pop("layers"))
        plain |= {name: tuple(plain[name]) for name in ("size", "vectors")}
        plain["temporal"] = plain.get("temporal") and _temporal_block(plain["temporal"])
        return ModelInfo(layers=layers, **plain)
    except (OSError, KeyError, ValueError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise DmqError(f"{file}: damaged ({why}); delete the folder and capture again.") from None


def _temporal_block(plain: dict) -> TemporalBlock:
    projections = tuple(Projection(**row) for row in plain["projections"])
    return TemporalBlock(**{name: tuple(value) for name, value in plain.items()} | {"projections": projections})


def _save_trajectory(part: Path, trajectory: Trajectory) -> None:
    arrays = {"step": trajectory.step} | {f"conditioning/{key}": x for key, x in trajectory.conditioning.items()}
    for name in ("inputs", "outputs", "half"):
        arrays |= {f"{name}/{n}": np.ascontiguousarray(x) for n, x in enumerate(getattr(trajectory, name))}
    plain = {"timesteps": trajectory.timesteps, "arguments": trajectory.arguments}
    save_file(arrays, part / "trajectory.safetensors", metadata={"trajectory": json.dumps(plain)})


def load_trajectory(folder: Path) -> Trajectory:
    """The denoiser calls saved in a capture. Raises DmqError if none were recorded or the file is damaged."""
    file = folder / "trajectory.safetensors"
    if not file.is_file():
        raise DmqError(f"{folder}: no denoiser calls were recorded; `dmq capture --again --trajectories N` does that.")
    try:
        with safe_open(file, "numpy") as opened:
            plain = json.loads(opened.metadata()["trajectory"])
        arrays = load_file(file)
        calls = range(len(arrays["step"]))
        return Trajectory(
            timesteps=tuple(plain["timesteps"]),
            arguments=tuple(plain["arguments"]),
            step=arrays["step"],
            conditioning={key.partition("/")[2]: x for key, x in arrays.items() if key.startswith("conditioning/")},
            **{name: tuple(arrays[f"{name}/{n}"] for n in calls) for name in ("inputs", "outputs", "half")},
        )
    except (OSError, KeyError, ValueError, TypeError, SafetensorError) as error:
        raise DmqError(f"{file}: damaged ({error}); delete the folder and capture again.") from None


def _narrow(counts: np.ndarray) -> np.ndarray:
    """The same counts in the smallest unsigned type that holds them: exact, and a quarter of the bytes."""
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))))


def _shards(sizes: list[int]) -> list[tuple[int, int]]:
    """Runs [a, b) of neighbours, each of at most SHARD bytes unless one alone is larger."""
    cuts, filled = [0], 0
    for s, size in enumerate(sizes):
        if filled and filled + size > SHARD:
            cuts.append(s)
            filled = 0
        filled += size
    return list(pairwise([*cuts, len(sizes)]))


def _save_histograms(file: Path, rows: range, counts: list[np.ndarray]) -> None:
    widest = np.result_type(*counts)
    flat = pa.array(np.concatenate([c.reshape(-1) for c in counts]).astype(widest))
    offsets = np.cumsum([0, *(c.size for c in counts)]).astype(np.int32)
    table = pa.table({"site": list(rows), "counts": pa.ListArray.from_arrays(offsets, flat)})
    pq.write_table(table, file, compression="zstd")


def _load_histograms(folder: Path, sites: int, steps: int) -> tuple[np.ndarray, ...]:
    found: dict[int, np.ndarray] = {}
    for file in sorted(folder.glob("histograms-*.parquet")):
        table = pq.read_table(file)
        lists = table["counts"].combine_chunks()
        flat, offsets = lists.flatten().to_numpy(), lists.offsets.to_numpy()
        for row, (a, b) in zip(table["site"].to_pylist(), pairwise(offsets), strict=True):
            found[row] = flat[a:b].reshape(steps, -1)
    return tuple(found[s] for s in range(sites))


# --- searches for groups -------------------------------------------------------------------------------------------


def search_key(recipe: Recipe, spec: LearnedGroups, fingerprint: str) -> str:
    """A name for what a search depends on: the model, how it is run and quantized, the settings of the search."""
    activations = replace(recipe.activations, range=MseSearch())  # learned ranges take the place of any
    asked = (spec, recipe.sampling, recipe.calibration, recipe.weights, activations, recipe.protection)
    data = [recipe.model, fingerprint, *map(jsonio.to_data, (*asked, recipe.overrides))]
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:10]
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', recipe.model).strip('-')[-40:]}-search-{digest}"


def find_search(recipe: Recipe, spec: LearnedGroups, fingerprint: str) -> Path | None:
    """The folder of a finished search: the user's own before one that ships."""
    key = search_key(recipe, spec, fingerprint)
    places = [home() / "searches" / key, ASSETS / "runs" / key]
    return next((place for place in places if (place / "search.safetensors").is_file()), None)


def save_search(recipe: Recipe, spec: LearnedGroups, result: SearchResult) -> Path:
    """Write what a search found, and the recipe it was for; returns the folder, which appears only when complete."""
    folder = home() / "searches" / search_key(recipe, spec, result.fingerprint)
    held = {f.name: getattr(result, f.name) for f in fields(result)}
    arrays = {name: np.ascontiguousarray(x) for name, x in held.items() if isinstance(x, np.ndarray)}
    arrays |= {f"local/{name}": np.ascontiguousarray(x) for name, x in result.local.items()}
    plain = {name: held[name] for name in ("model", "fingerprint", "sampler", "timesteps", "note")}
    plain |= {"version": 1, "sites": [asdict(site) for site in result.sites], "local": list(result.local)}
    with written(folder) as part:
        save_file(arrays, part / "search.safetensors", metadata={"search": json.dumps(plain)})
        (part / "recipe.json").write_text(jsonio.dumps(recipe), encoding="utf-8")
    return folder


def load_search(folder: Path) -> SearchResult:
    """What `save_search` wrote. Raises DmqError if the folder is damaged or of another version."""
    file = folder / "search.safetensors"
    try:
        with safe_open(file, "numpy") as opened:
            plain = json.loads(opened.metadata()["search"])
        if plain.pop("version") != 1:
            raise DmqError(f"{folder.name}: a search of another version of dmq; search again.")
        arrays = load_file(file)
        plain["sites"] = tuple(Site(**site) for site in plain["sites"])
        plain["timesteps"] = tuple(plain["timesteps"])
        plain["local"] = {name: arrays.pop(f"local/{name}") for name in plain["local"]}
        return SearchResult(**plain, **arrays)
    except (OSError, KeyError, ValueError, TypeError, SafetensorError) as error:
        raise DmqError(f"{file}: damaged ({error}); delete the folder and search again.") from None


# --- learned rounding ----------------------------------------------------------------------------------------------


def rounding_folder(*asked: Any, own: bool = False) -> Path:
    """Where the rounding is kept that was learned for `asked`: plain data and specs that it depends on.

    The user's place for it, unless only one that ships is there and the user's `own` is not insisted on.
    """
    digest = hashlib.sha256(json.dumps([jsonio.to_data(one) for one in asked], sort_keys=True).encode())
    places = home() / "roundings", ASSETS / "runs"
    place, shipped = (folder / f"rounding-{digest.hexdigest()[:16]}" for folder in places)
    return shipped if shipped.is_dir() and not (own or place.is_dir()) else place


def save_rounding(folder: Path, arrays: dict[str, np.ndarray], plain: dict[str, Any]) -> None:
    """Write learned codes, and what is needed to read them, into `folder`, which appears only when complete."""
    with written(folder) as part:
        arrays = {name: np.ascontiguousarray(x) for name, x in arrays.items()}
        save_file(arrays, part / "rounding.safetensors", metadata={"rounding": json.dumps(plain)})


def load_rounding(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `save_rounding` wrote. Raises DmqError if the file is damaged."""
    file = folder / "rounding.safetensors"
    try:
        with safe_open(file, "numpy") as opened:
            plain = json.loads(opened.metadata()["rounding"])
        return load_file(file), plain
    except (OSError, KeyError, ValueError, TypeError, SafetensorError) as error:
        raise DmqError(f"{file}: damaged ({error}); delete the folder and learn the rounding again.") from None


def discard(folder: Path) -> None:
    """Delete what was kept in `folder` of unfinished work, if anything was."""
    if folder.is_dir():
        shutil.rmtree(folder)


# --- runs ----------------------------------------------------------------------------------------------------------


def folder_of(name: str) -> Path:
    """The folder of a run. Raises DmqError for a name that could lead out of the run folder."""
    if not NAME.fullmatch(name) or name in ("captures", "searches", "roundings"):
        raise DmqError(f"{name!r:.80} cannot name a run: use letters, digits, spaces, dots and dashes.")
    return home() / name


def names() -> list[str]:
    """The finished runs, newest first."""
    found = [file.parent for file in home().glob("*/report.json") if not file.parent.name.startswith(".")]
    return [f.name for f in sorted(found, key=lambda f: -(f / "report.json").stat().st_mtime)]


def free_name(wanted: str) -> str:
    """`wanted` made fit to name a run, with a number behind it if there is such a run already."""
    stem = re.sub(r"[^A-Za-z0-9 ._+-]+", "-", wanted).strip(" .-")[:60] or "run"
    return next(n for n in (stem, *(f"{stem} {k}" for k in range(2, 10_000))) if not folder_of(n).exists())


def save_run(
    name: str,
    recipes: tuple[Recipe, ...],
    comparison: Comparison,
    report: Report,
    pictures: dict[str, list[np.ndarray]],
    on_the_way: dict[str, dict[tuple[int, int], np.ndarray]],
) -> Path:
    """Write a finished comparison and return its folder.

    Pictures are uint8 [H, W, 3], by recipe name in the report's order (float first); those `on_the_way` by
    (position among the pictures, step).
    """
    folder = folder_of(name)
    with written(folder) as part:
        for n, recipe in enumerate(recipes):
            (part / ("recipe.json" if n == 0 else f"recipe-{n + 1}.json")).write_text(jsonio.dumps(recipe), "utf-8")
        (part / "comparison.json").write_text(jsonio.dumps(comparison), "utf-8")
        for w, who in enumerate(report.seconds):
            place = part / "pictures" / str(w)
            place.mkdir(parents=True)
            for n, picture in enumerate(pictures[who]):
                Image.fromarray(picture).save(place / f"{n:03d}.png")
            for (n, i), picture in on_the_way[who].items():
                Image.fromarray(picture).save(place / f"{n:03d}-at-{i:04d}.png")
        (part / "report.json").write_text(json.dumps(asdict(report), indent=2), "utf-8")
    return folder


def load_report(name: str) -> Report:
    """The report of a run. Raises DmqError if there is no such run or it cannot be read."""
    file = folder_of(name) / "report.json"
    if not file.is_file():
        raise DmqError(f"there is no run called {name!r}; `dmq show` lists them.")
    try:
        data = json.loads(file.read_text("utf-8"))
        scores = tuple(PictureScore(**row) for row in data.pop("scores"))
        return Report(scores=scores, warnings=tuple(data.pop("warnings")), **data)
    except (ValueError, TypeError, KeyError) as error:
        raise DmqError(f"{file}: a damaged report ({error}).") from None


def load_recipes(name: str) -> tuple[Recipe, ...]:
    """The recipes of a run, in the order they were compared."""
    files = sorted(folder_of(name).glob("recipe*.json"), key=lambda file: (len(file.name), file.name))
    return tuple(jsonio.read(file) for file in files)


def load_pictures(name: str) -> dict[str, list[np.ndarray]]:
    """The finished pictures of a run, uint8 [H, W, 3], by recipe name with float first."""
    place = folder_of(name) / "pictures"
    return {
        who: [np.asarray(Image.open(file)) for file in sorted((place / str(w)).glob("[0-9][0-9][0-9].png"))]
        for w, who in enumerate(load_report(name).seconds)
    }


def load_steps(name: str) -> dict[str, dict[tuple[int, int], np.ndarray]]:
    """The pictures on the way of a run, by recipe name and (position among its pictures, step)."""
    found: dict[str, dict[tuple[int, int], np.ndarray]] = {}
    for w, who in enumerate(load_report(name).seconds):
        files = sorted((folder_of(name) / "pictures" / str(w)).glob("*-at-*.png"))
        keys = (tuple(int(number) for number in file.stem.split("-at-")) for file in files)
        found[who] = {key: np.asarray(Image.open(file)) for key, file in zip(keys, files, strict=True)}
    return found


def load_comparison(name: str) -> Comparison:
    """What was drawn in a run."""
    return jsonio.read(folder_of(name) / "comparison.json", Comparison)


def remove(name: str) -> None:
    """Delete a run. Raises DmqError if there is none of that name."""
    folder = folder_of(name)
    if not folder.is_dir():
        raise DmqError(f"there is no run called {name!r}; `dmq show` lists them.")
    shutil.rmtree(folder)


# --- what ships ----------------------------------------------------------------------------------------------------


def shipped_recipes() -> dict[str, Recipe]:
    """The recipes of assets/recipes by name, in the order of their files."""
    found = (jsonio.read(file) for file in sorted((ASSETS / "recipes").glob("*.json")))
    return {recipe.name: recipe for recipe in found}


def contact_sheet(name: str, gap: int = 4) -> Path:
    """A PNG with all pictures of a run, in a temporary folder: a row for each recipe with its name on the left."""
    rows = load_pictures(name)
    height, width = next(iter(rows.values()))[0].shape[:2]
    font = ImageFont.load_default(size=13)
    margin = round(max(font.getlength(who) for who in rows)) + 2 * gap
    across = max(len(row) for row in rows.values())
    sheet = Image.new("RGB", (margin + across * (width + gap), len(rows) * (height + gap) + gap), "white")
    for y, (who, row) in enumerate(rows.items()):
        top = gap + y * (height + gap)
        ImageDraw.Draw(sheet).text((gap, top + height // 2), who, fill="black", font=font, anchor="lm")
        for x, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (margin + x * (width + gap), top))
    file = Path(tempfile.mkdtemp(prefix="dmq-")) / f"{name}.png"
    sheet.save(file)
    return file
