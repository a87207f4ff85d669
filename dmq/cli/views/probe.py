"""The quantization error amplified within windows of steps, the rest in float (PCR), as text."""

import argparse
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import DmqError
from ...recipe import Probe, Recipe
from ...results import ProbeImage
from ..arguments import choose_recipe
from ..terminal import check_place, print_table, show_progress
from .over_time import prompts_for


def add_arguments(to: argparse._ActionsContainer) -> None:
    """Options of the question besides prompt and seed."""
    to.add_argument(
        "--windows", type=int, metavar="N", help="equal windows that are tried; 4 unless given"
    )
    to.add_argument("--first", type=int, metavar="I", help="a single window from this step …")
    to.add_argument("--last", type=int, metavar="J", help="… to this one")
    to.add_argument(
        "--gains", type=float, nargs="+", metavar="G", help="the error is multiplied by; 1 2 4"
    )
    to.add_argument(
        "--out", metavar="FILE.png", help="also write the images, a row for each window"
    )


def probe(given: argparse.Namespace) -> None:
    from ...evaluation import probe as probe_
    from ...store import contact_sheets

    recipe = choose_recipe(_single("recipes", given.recipes), given.model)
    spec = choose_probe(given, recipe)
    if given.out:
        check_place(given.out, ".png")
    images = show_progress(probe_.run_probe(recipe, spec, again=given.again))
    rows = [
        [
            f"{one.start} to {one.end - 1}",
            f"{one.gain:g}",
            f"{one.psnr:.2f}",
            f"{one.error:.4g}",
            _two(one.match),
            _two(one.match_float),
        ]
        for one in images
    ]
    print(f"{recipe.name} on {recipe.model}: one image each, an impression and no measurement")
    print_table(["steps", "gain", "PSNR dB", "latent error", "match", "of float"], rows)
    if given.out:
        contact_sheets.save_png(given.out, contact_sheets.sheet(*grid_of(images)))


def choose_probe(given: argparse.Namespace, recipe: Recipe) -> Probe:
    """The probe that the command line asks for."""
    if given.windows is not None and (given.first, given.last) != (None, None):
        raise DmqError(
            "--windows cuts the steps into equal windows, --first and --last name one; give either."
        )
    prompt = _single("prompts", given.prompts or (Probe.prompt,))
    (prompt,) = prompts_for(recipe, (prompt,))
    seed = _single("seeds", given.seeds or (0,))
    wishes = {"windows": given.windows, "gains": given.gains and tuple(given.gains)}
    wishes = {name: value for name, value in wishes.items() if value is not None}
    return Probe(first=given.first, last=given.last, prompt=prompt, seed=seed, **wishes)


def grid_of(images: tuple[ProbeImage, ...]) -> tuple[dict[str, list[np.ndarray]], list[str]]:
    """Rows of images by window, the float one first, and the names of the columns."""
    rows: dict[str, list[np.ndarray]] = {}
    for one in images:
        rows.setdefault(f"steps {one.start} to {one.end - 1}", [one.exact]).append(one.pixels)
    return rows, ["float", *dict.fromkeys(f"gain {one.gain:g}" for one in images)]


def _two(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"


def _single(name: str, given: Sequence[Any]) -> Any:
    if len(given) > 1:
        raise DmqError(f"a probe takes one of the {name}, got {len(given)}.")
    return given[0]
