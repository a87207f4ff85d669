"""Benchmarks as they are kept: what was drawn by now, so that an interrupted one goes on, and what
was found.

    RUNS/benchmarks/NAME/    manifest.json: number, domain, prompt and seed of every picture; the models, in order
                             benchmark.json, recipe-1.json, …
                             pictures/W/BBBB/: NNNNN.png and batch.safetensors of a finished batch of model W
                             rows/W/: pictures.parquet, rows.json and features.safetensors of a finished model
                             report.json, pictures.parquet, worst/NNN.png: the end

What ships in assets/runs/bench-NAME has the last line only. Nothing is named by a prompt's text.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from .. import jsonio
from ..errors import DmqError
from ..recipe import Benchmark, Recipe
from ..results import BenchPicture, BenchReport, BenchRow, Figure
from . import folders
from .folders import fit_to_name, free_stem, own_home, written


WORST = 8  # pictures kept of each model and domain for the gallery: those with the lowest PSNR
Jobs = list[tuple[str, str, int]]  # domain, prompt, seed of every picture, by number


def folder_of(name: str) -> Path:
    """The folder of a benchmark.

    Raises DmqError for a name that could lead out of the run folder.
    """
    if not fit_to_name(name):
        raise DmqError(
            f"{name!r:.80} cannot name a benchmark: use letters, digits, spaces, dots and dashes."
        )
    own, shipped = own_home() / "benchmarks" / name, folders.ASSETS / "runs" / f"bench-{name}"
    return shipped if shipped.is_dir() and not own.is_dir() else own


def free_name(wanted: str) -> str:
    """`wanted` made fit to name a benchmark, with a number behind it if there is such a one
    already.
    """
    return free_stem(wanted, folder_of, "benchmark")


def finished() -> list[str]:
    """The finished benchmarks: those that ship, then the user's own, newest first."""
    shipped = [
        file.parent.name.removeprefix("bench-") for file in _shipped().glob("bench-*/report.json")
    ]
    own = sorted(_own("report.json"), key=lambda file: -file.stat().st_mtime)
    return [
        *sorted(shipped, reverse=True),
        *(f.parent.name for f in own if f.parent.name not in shipped),
    ]


def model_of(name: str) -> str:
    """The model of a benchmark."""
    recipes = load_recipes(name)
    return recipes[0].model if recipes else ""


def unfinished() -> list[str]:
    """The user's benchmarks that were interrupted, newest first; finished ones with recipes to
    come among them.
    """
    found = [file for file in _own("manifest.json") if not complete(file.parent)]
    return [file.parent.name for file in sorted(found, key=lambda file: -file.stat().st_mtime)]


def _own(file: str) -> list[Path]:
    return [
        found
        for found in (own_home() / "benchmarks").glob(f"*/{file}")
        if fit_to_name(found.parent.name)
    ]


def _shipped() -> Path:
    return folders.ASSETS / "runs"


# --- while it is drawn ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """A finished batch of one model."""

    pictures: list[np.ndarray]
    latents: np.ndarray
    seconds: float


def jobs_of(benchmark: Benchmark) -> Jobs:
    """Domain, prompt and seed of every picture, by number."""
    return [
        (d.name, prompt, seed)
        for d in benchmark.domains
        for prompt in d.prompts
        for seed in benchmark.seeds
    ]


def begin(
    name: str, benchmark: Benchmark, recipes: Sequence[Recipe], known: dict[str, Any]
) -> Path:
    """The folder of a benchmark that is begun, or that goes on. `known` is what else the pictures
    depend on.

    One that goes on may get recipes behind those it has, whose pictures and figures stay as they
    are. Raises DmqError, naming both, if there is one of that name with other prompts, seeds,
    sampling or recipes."""
    folder = own_home() / "benchmarks" / name
    if folder_of(name).exists():
        used = load_recipes(name)
        check_alike(name, load_benchmark(name), "what is asked now", benchmark)
        if tuple(recipes[: len(used)]) != used:
            raise DmqError(
                f"benchmark {name!r} is of {_listed(used)}, asked now are {_listed(recipes)} with "
                "these settings; new recipes may come behind those that it has, or give another "
                "name."
            )
        old = _manifest(folder_of(name))
        if changed := [
            key for key in known if key in old["known"] and old["known"][key] != known[key]
        ]:
            raise DmqError(
                f"benchmark {name!r}: {changed[0]} was {old['known'][changed[0]]!r}, now it is "
                f"{known[changed[0]]!r}; give another name."
            )
        return _extended(name, recipes, len(used), old | {"known": known})
    with written(folder) as part:
        (part / "benchmark.json").write_text(jsonio.dumps(benchmark), "utf-8")
        _write_recipes(part, recipes, 0)
        pictures = [
            dict(zip(("domain", "prompt", "seed"), job, strict=True)) for job in jobs_of(benchmark)
        ]
        _write_manifest(
            part, {"version": 1, "models": [], "known": known, "pictures": pictures}, recipes
        )
    return folder


def _extended(name: str, recipes: Sequence[Recipe], there: int, manifest: dict[str, Any]) -> Path:
    """The folder of a benchmark that has the first `there` of `recipes`, with the others behind
    them.
    """
    folder = folder_of(name)
    if folder != own_home() / "benchmarks" / name:
        if len(recipes) > there:
            raise DmqError(
                f"benchmark {name!r} ships without most of its pictures: no recipe can be added to "
                "it; give another "
                "name, and look at both beside each other."
            )
        return folder
    _write_recipes(
        folder, recipes, there
    )  # before the manifest: stopped half way, the next call writes the rest
    _write_manifest(folder, manifest, recipes)
    return folder


def _write_recipes(folder: Path, recipes: Sequence[Recipe], there: int) -> None:
    for n, recipe in enumerate(recipes[there:], there + 1):
        _replace(folder / f"recipe-{n}.json", jsonio.dumps(recipe))


def _write_manifest(folder: Path, manifest: dict[str, Any], recipes: Sequence[Recipe]) -> None:
    whole = manifest | {"models": [recipe.name for recipe in recipes]}
    _replace(folder / "manifest.json", json.dumps(whole, ensure_ascii=False, indent=1))


def _replace(file: Path, text: str) -> None:
    """Write a file so that a reader finds the old or the new one, never a half."""
    part = file.with_name(f".{file.name}")
    part.write_text(text, "utf-8")
    part.replace(file)


def complete(folder: Path) -> bool:
    """Is there a report of all models in the folder of a benchmark?"""
    try:
        plain = json.loads((folder / "report.json").read_text("utf-8"))
        return [*plain["coverage"]] == _manifest(folder)["models"]
    except FileNotFoundError:
        return False
    except (OSError, KeyError, ValueError, TypeError, DmqError):
        return True  # damaged: who opens it is told


def _listed(recipes: Sequence[Recipe]) -> str:
    return ", ".join(recipe.name for recipe in recipes)


def check_alike(name: str, one: Benchmark, other_name: str, other: Benchmark) -> None:
    """Raise DmqError, naming both, unless figures of the two may stand side by side."""
    for part, said in (
        (
            "sampling",
            lambda b: (
                f"{b.sampling.steps} steps, guidance {b.sampling.guidance:g}, side "
                f"{b.sampling.size}"
            ),
        ),
        ("seeds", lambda b: f"seeds {_few(b.seeds)}"),
        ("features", lambda b: f"features of {b.features}"),
        ("reference", lambda b: f"real pictures {b.reference or 'that ship'}"),
        ("batch", lambda b: f"{b.batch} pictures at a time"),
        ("measures", lambda b: f"measures {', '.join(b.measures)}"),
        (
            "domains",
            lambda b: "prompts " + _few([f"{d.name} ({len(d.prompts)})" for d in b.domains]),
        ),
    ):
        if getattr(one, part) != getattr(other, part):
            a, b = said(one), said(other)
            different = "" if a != b else " of other texts"
            raise DmqError(
                f"{name} has {a}, {other_name} has {b}{different}: their figures cannot be "
                "compared."
            )


def _few(items: Sequence) -> str:
    shown = ", ".join(map(str, items[:6]))
    return shown if len(items) <= 6 else f"{shown}, … ({len(items)})"


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "manifest.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DmqError(f"{folder}: a damaged benchmark ({error}); delete the folder.") from None


def save_batch(folder: Path, who: int, number: int, first: int, batch: Batch) -> None:
    """Keep batch `number` of model `who`, whose first picture has the number `first`."""
    with written(_batch(folder, who, number)) as part:
        for n, picture in enumerate(batch.pictures, first):
            Image.fromarray(picture).save(part / f"{n:05d}.png")
        save_file(
            {"latents": batch.latents},
            part / "batch.safetensors",
            metadata={"seconds": repr(batch.seconds)},
        )


def load_batch(folder: Path, who: int, number: int) -> Batch | None:
    """What `save_batch` kept; None if that batch was not finished."""
    place = _batch(folder, who, number)
    if not place.is_dir():
        return None
    try:
        with safe_open(place / "batch.safetensors", "numpy") as opened:
            seconds, latents = float(opened.metadata()["seconds"]), opened.get_tensor("latents")
        return Batch([_pixels(file) for file in sorted(place.glob("*.png"))], latents, seconds)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise DmqError(
            f"{place}: damaged ({error}); delete this folder, and it is drawn again."
        ) from None


def _batch(folder: Path, who: int, number: int) -> Path:
    return folder / "pictures" / str(who) / f"{number:04d}"


def _pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file))


@dataclass(frozen=True)
class Found:
    """What was found of one model, and the arrays [pictures, ...] that others are measured
    against.
    """

    rows: tuple[BenchRow, ...]
    pictures: tuple[BenchPicture, ...]
    arrays: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()  # what could not be measured, and why


def save_rows(folder: Path, who: int, found: Found) -> None:
    """Keep what was found of model `who`."""
    with written(folder / "rows" / str(who)) as part:
        _frame(found.pictures).to_parquet(part / "pictures.parquet")
        plain = {"rows": [asdict(row) for row in found.rows], "notes": found.notes}
        (part / "rows.json").write_text(json.dumps(plain), "utf-8")
        save_file(found.arrays, part / "features.safetensors")


def load_rows(folder: Path, who: int) -> Found | None:
    """What `save_rows` kept; None if model `who` is not finished."""
    place = folder / "rows" / str(who)
    if not place.is_dir():
        return None
    try:
        plain = json.loads((place / "rows.json").read_text("utf-8"))
        rows, notes = tuple(map(_row, plain["rows"])), tuple(plain["notes"])
        return Found(
            rows,
            _pictures(place / "pictures.parquet"),
            load_file(place / "features.safetensors"),
            notes,
        )
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException, SafetensorError) as error:
        raise DmqError(
            f"{place}: damaged ({error}); delete this folder, and it is measured again."
        ) from None


def _row(plain: dict[str, Any]) -> BenchRow:
    return BenchRow(
        **plain | {"figures": {name: Figure(**value) for name, value in plain["figures"].items()}}
    )


def _frame(pictures: Sequence[BenchPicture]) -> pd.DataFrame:
    plain = [asdict(picture) for picture in pictures]
    return pd.DataFrame(
        [{k: v for k, v in row.items() if k != "values"} | row["values"] for row in plain]
    )


def _pictures(file: Path) -> tuple[BenchPicture, ...]:
    table = pd.read_parquet(file)
    own = ("recipe", "domain", "number", "prompt", "seed", "finite")
    measures = [name for name in table.columns if name not in own]
    made = []
    for row in table.to_dict("records"):
        # A picture that is not finite has no values; one that is may have an infinite PSNR.
        values = {
            name: float(row[name]) for name in measures if row["finite"] and row[name] == row[name]
        }
        made.append(BenchPicture(**{name: row[name] for name in own}, values=values))
    return tuple(made)


# --- when it is done ------------------------------------------------------------------------------


def worst(report: BenchReport, count: int = WORST) -> list[BenchPicture]:
    """The pictures farthest from the float ones, `count` of each model and domain, the worst of all
    first.

    Those that are not finite come first; then by PSNR, or by the first measure that there is.
    """
    quantized = [picture for picture in report.pictures if picture.recipe in report.coverage]
    chosen: list[BenchPicture] = []
    for key in dict.fromkeys((picture.recipe, picture.domain) for picture in quantized):
        own = [picture for picture in quantized if (picture.recipe, picture.domain) == key]
        chosen += sorted(own, key=_goodness)[:count]
    return sorted(chosen, key=_goodness)


def _goodness(picture: BenchPicture) -> tuple[bool, float]:
    for name, sign in (("psnr", 1), ("ssim", 1), ("distance", -1), ("latent", -1), ("clip", 1)):
        if name in picture.values:
            return picture.finite, sign * picture.values[name]
    return picture.finite, 0.0


def save_report(folder: Path, report: BenchReport, models: Sequence[str]) -> None:
    """Write the end of a benchmark; `models` are its models in the order of their folders."""
    plain = {
        f: getattr(report, f) for f in ("model", "sampler", "features", "reference", "machine")
    }
    plain |= {
        "version": 1,
        "bytes": report.bytes,
        "coverage": report.coverage,
        "warnings": list(report.warnings),
    }
    plain |= {"rows": [asdict(row) for row in report.rows]}
    shown = worst(report)
    wanted = {(who, picture.number) for picture in shown for who in (picture.recipe, models[0])}
    with written(folder / "worst") as part:
        pairs = sorted(wanted, key=lambda pair: (models.index(pair[0]), pair[1]))
        for n, (who, number) in enumerate(pairs):
            found = next((folder / "pictures" / str(models.index(who))).glob(f"*/{number:05d}.png"))
            shutil.copyfile(found, part / f"{n:03d}.png")
        (part / "worst.json").write_text(json.dumps(pairs), "utf-8")
    _frame(report.pictures).to_parquet(folder / ".pictures.parquet", compression="zstd")
    (folder / ".pictures.parquet").replace(folder / "pictures.parquet")
    _replace(folder / "report.json", json.dumps(plain, indent=1))


def load_report(name: str) -> BenchReport:
    """The report of a finished benchmark. Raises DmqError if there is none, or it is damaged."""
    folder = folder_of(name)
    if not (folder / "report.json").is_file():
        more = (
            " It was interrupted: draw the rest first."
            if (folder / "manifest.json").is_file()
            else ""
        )
        raise DmqError(f"there is no finished benchmark called {name!r}.{more}")
    try:
        plain = json.loads((folder / "report.json").read_text("utf-8"))
        if plain.pop("version") != 1:
            raise DmqError(f"benchmark {name!r} is of another version of dmq; draw it again.")
        rows = tuple(map(_row, plain.pop("rows")))
        made = {
            "rows": rows,
            "warnings": tuple(plain.pop("warnings")),
            "benchmark": load_benchmark(name),
        }
        return BenchReport(pictures=_pictures(folder / "pictures.parquet"), **made, **plain)
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException) as error:
        raise DmqError(
            f"{folder}: a damaged benchmark ({error}); delete the folder and draw it again."
        ) from None


def load_benchmark(name: str) -> Benchmark:
    """What was or is to be drawn in a benchmark. Raises DmqError if there is none of that name."""
    file = folder_of(name) / "benchmark.json"
    if not file.is_file():
        raise DmqError(f"there is no benchmark called {name!r}.")
    return jsonio.read(file, Benchmark)


def load_recipes(name: str) -> tuple[Recipe, ...]:
    """The recipes of a benchmark, in order."""
    files = sorted(
        folder_of(name).glob("recipe-*.json"), key=lambda file: (len(file.name), file.name)
    )
    return tuple(jsonio.read(file) for file in files)


def load_worst(name: str) -> dict[tuple[str, int], np.ndarray]:
    """The pictures kept for the gallery, uint8 [H, W, 3], by model and number; float ones among
    them.
    """
    place = folder_of(name) / "worst"
    pairs = json.loads((place / "worst.json").read_text("utf-8"))
    return {(who, number): _pixels(place / f"{n:03d}.png") for n, (who, number) in enumerate(pairs)}


def as_csv(report: BenchReport) -> str:
    """Every row of the report as CSV: a line for each model, domain and measure, with its
    context.
    """
    lines = []
    for row in report.rows:
        context = {
            "model": report.model,
            "recipe": row.recipe,
            "domain": row.domain,
            "pictures": row.samples,
            "not_finite": row.failed,
            "seconds": row.seconds,
            "bytes": report.bytes.get(row.recipe),
            "seeds": " ".join(map(str, report.benchmark.seeds)),
            "steps": report.benchmark.sampling.steps,
            "guidance": report.benchmark.sampling.guidance,
            "sampler": report.sampler,
            "features": report.features,
            "reference": report.reference,
            "coverage": report.coverage.get(row.recipe, ""),
            "machine": report.machine,
        }
        for name, figure in row.figures.items():
            own = {"measure": name, "value": figure.value, "low": figure.low, "high": figure.high}
            lines.append(own | {"noise_floor": report.floor(row.domain, name)} | context)
    return pd.DataFrame(lines).to_csv(index=False)


def remove(name: str) -> None:
    """Delete a benchmark of the user's own. Raises DmqError if there is none of that name."""
    folder = own_home() / "benchmarks" / name
    if not fit_to_name(name) or not folder.is_dir():
        raise DmqError(f"there is no benchmark of your own called {name!r}.")
    shutil.rmtree(folder)
