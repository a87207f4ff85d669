"""Finished comparisons: recipes, images, report."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .. import jsonio
from ..errors import DmqError
from ..recipe import Comparison, Recipe
from ..results import ImageScore, Report
from .folders import download_folder, folder_of, written


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
    with written(folder) as part:
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
        (part / "report.json").write_text(json.dumps(asdict(report), indent=2), "utf-8")
    return folder


def load_report(name: str) -> Report:
    """The report of a run. Raises DmqError if there is no such run or it cannot be read."""
    file = folder_of(name) / "report.json"
    if not file.is_file():
        raise DmqError(f"there is no run called {name!r}; `dmq show` lists them.")
    try:
        data = json.loads(file.read_text("utf-8"))
        scores = tuple(ImageScore(**row) for row in data.pop("scores"))
        return Report(scores=scores, warnings=tuple(data.pop("warnings")), **data)
    except (ValueError, TypeError, KeyError) as error:
        raise DmqError(f"{file}: a damaged report ({error}).") from None


def load_recipes(name: str) -> tuple[Recipe, ...]:
    """The recipes of a run, in the order they were compared."""
    files = sorted(
        folder_of(name).glob("recipe*.json"), key=lambda file: (len(file.name), file.name)
    )
    return tuple(jsonio.read(file) for file in files)


def load_images(name: str) -> dict[str, list[np.ndarray]]:
    """The finished images of a run, uint8 [H, W, 3], by recipe name with float first."""
    place = folder_of(name) / "pictures"
    return {
        who: [
            np.asarray(Image.open(file))
            for file in sorted((place / str(w)).glob("[0-9][0-9][0-9].png"))
        ]
        for w, who in enumerate(load_report(name).seconds)
    }


def load_steps(name: str) -> dict[str, dict[tuple[int, int], np.ndarray]]:
    """The images on the way of a run, by recipe name and (position among its images, step)."""
    found: dict[str, dict[tuple[int, int], np.ndarray]] = {}
    for w, who in enumerate(load_report(name).seconds):
        files = sorted((folder_of(name) / "pictures" / str(w)).glob("*-at-*.png"))
        keys = (tuple(int(number) for number in file.stem.split("-at-")) for file in files)
        found[who] = {
            key: np.asarray(Image.open(file)) for key, file in zip(keys, files, strict=True)
        }
    return found


def load_comparison(name: str) -> Comparison:
    """What was generated in a run."""
    return jsonio.read(folder_of(name) / "comparison.json", Comparison)


def contact_sheet(name: str, gap: int = 4) -> Path:
    """A PNG with all images of a run, in a temporary folder: a row for each recipe with its
    name on the left.
    """
    rows = load_images(name)
    height, width = next(iter(rows.values()))[0].shape[:2]
    font = ImageFont.load_default(size=13)
    margin = round(max(font.getlength(who) for who in rows)) + 2 * gap
    across = max(len(row) for row in rows.values())
    sheet = Image.new(
        "RGB", (margin + across * (width + gap), len(rows) * (height + gap) + gap), "white"
    )
    for y, (who, row) in enumerate(rows.items()):
        top = gap + y * (height + gap)
        ImageDraw.Draw(sheet).text(
            (gap, top + height // 2), who, fill="black", font=font, anchor="lm"
        )
        for x, image in enumerate(row):
            sheet.paste(Image.fromarray(image), (margin + x * (width + gap), top))
    file = download_folder() / f"{name}.png"
    sheet.save(file)
    return file
