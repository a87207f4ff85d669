"""Runs: finished comparisons, which people named, with their recipes, images and report."""

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from .. import jsonio
from ..errors import DmqError
from ..recipe import Comparison, Recipe
from ..results import Report
from . import codec, folders, quota
from .contact_sheets import read_image, sheet
from .folders import download_folder, fit_to_name, free_stem, own_home, write_folder
from .former_reports import with_coverage


REMEDY = "delete the folder and compare again"
RESERVED = (*quota.KINDS, quota.VISITORS)  # folders beside the runs


def folder_of(name: str) -> Path:
    """The folder of a run. Raises DmqError for a name that could lead out of the run folder."""
    # Some disks take Tables and tables for the same.
    if name.lower() in RESERVED or not fit_to_name(name):
        raise DmqError(
            f"{name!r:.80} cannot name a run: use letters, digits, spaces, dots and dashes."
        )
    return own_home() / name


def names() -> list[str]:
    """The finished runs, newest first."""
    found = [
        file.parent
        for file in own_home().glob("*/report.json")
        if not file.parent.name.startswith(".")
    ]
    return [f.name for f in sorted(found, key=lambda f: -(f / "report.json").stat().st_mtime)]


def free_name(wanted: str) -> str:
    """`wanted` made fit to name a run, with a number behind it if there is such a run already."""
    return free_stem(wanted, folder_of)


def remove(name: str) -> None:
    """Delete a run. Raises DmqError if there is none of that name."""
    folder = folder_of(name)
    if not folder.is_dir():
        raise DmqError(f"there is no run called {name!r}; `dmq show` lists them.")
    shutil.rmtree(folder)


def save_run(
    name: str,
    recipes: tuple[Recipe, ...],
    comparison: Comparison,
    report: Report,
    images: dict[str, list[np.ndarray]],
    on_the_way: dict[str, dict[tuple[int, int], np.ndarray]],
) -> Path:
    """Write a finished comparison and return its folder.

    Images are uint8 [H, W, 3], by recipe name in the report's order (float first); those
    `on_the_way` by (position among the images, step)."""
    folder = folder_of(name)
    with write_folder(folder) as part:
        for n, recipe in enumerate(recipes):
            (part / ("recipe.json" if n == 0 else f"recipe-{n + 1}.json")).write_text(
                jsonio.dumps(recipe), "utf-8"
            )
        (part / "comparison.json").write_text(jsonio.dumps(comparison), "utf-8")
        for w, who in enumerate(report.seconds):
            place = part / "pictures" / str(w)
            place.mkdir(parents=True)
            for n, image in enumerate(images[who]):
                Image.fromarray(image).save(place / f"{n:03d}.png")
            for (n, i), image in on_the_way[who].items():
                Image.fromarray(image).save(place / f"{n:03d}-at-{i:04d}.png")
        (part / "report.json").write_text(json.dumps(codec.to_parts(report)[0], indent=2), "utf-8")
    return folder


def load_report(name: str) -> Report:
    """The report of a run. Raises DmqError if there is no such run or it cannot be read."""
    file = folder_of(name) / "report.json"
    if not file.is_file():
        raise DmqError(f"there is no run called {name!r}; `dmq show` lists them.")
    with codec.reading(file, REMEDY):
        return codec.from_parts(Report, with_coverage(codec.read_json(file)))


def load_recipes(name: str) -> tuple[Recipe, ...]:
    """The recipes of a run, in the order they were compared."""
    files = sorted(
        folder_of(name).glob("recipe*.json"), key=lambda file: (len(file.name), file.name)
    )
    return tuple(jsonio.read(file) for file in files)


def load_images(name: str) -> dict[str, list[np.ndarray]]:
    """The finished images of a run, uint8 [H, W, 3], by recipe name with float first."""
    found = _image_files(name, "[0-9][0-9][0-9].png")
    return {who: [read_image(file, REMEDY) for file in files] for who, files in found.items()}


def load_steps(name: str) -> dict[str, dict[tuple[int, int], np.ndarray]]:
    """The images on the way of a run, by recipe name and (position among its images, step)."""
    steps: dict[str, dict[tuple[int, int], np.ndarray]] = {}
    for who, files in _image_files(name, "[0-9]*-at-[0-9]*.png").items():
        steps[who] = {}
        for file in files:
            n, step = map(int, file.stem.split("-at-"))
            steps[who][n, step] = read_image(file, REMEDY)
    return steps


def _image_files(name: str, pattern: str) -> dict[str, list[Path]]:
    place = folder_of(name) / "pictures"
    order = enumerate(load_report(name).seconds)
    return {who: sorted((place / str(w)).glob(pattern)) for w, who in order}


def load_comparison(name: str) -> Comparison:
    """What was generated in a run."""
    return jsonio.read(folder_of(name) / "comparison.json", Comparison)


def contact_sheet(name: str) -> Path:
    """A PNG with all images of a run, in a temporary folder: a named row for each recipe."""
    rows = load_images(name)
    file = download_folder() / f"{name}.png"
    sheet(rows, [""] * max(map(len, rows.values())), least=1).save(file)
    return file


def shipped_recipes() -> dict[str, Recipe]:
    """The recipes of assets/recipes by name, in the order of their files."""
    found = (jsonio.read(file) for file in sorted((folders.ASSETS / "recipes").glob("*.json")))
    return {recipe.name: recipe for recipe in found}
