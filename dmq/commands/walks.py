"""`dmq calibrate | windows | overtime | probe`: what happens along the steps (PCR), in a
terminal.
"""

import argparse
import csv
import io
import math
import time
from collections.abc import Callable

import numpy as np

from ..errors import DmqError
from ..recipe import Comparison, Probe, Recipe, Relaxing
from ..results import OverTime, ProbePicture, WindowEffects
from ..runs.prompts import UNPROMPTED
from .asking import (
    check_place,
    chosen_recipe,
    picture_arguments,
    print_table,
    recipe_argument,
    recipes_argument,
    told,
    write,
)


MOVED = 8  # inputs whose ranges moved most
WAYS = {
    "first": "noisy end (first)",
    "last": "clean end (last)",
    "list": "given steps",
    "auto": "measured (auto)",
}


def add_to(add: Callable[[str, Callable, str], argparse.ArgumentParser]) -> None:
    """Offer the commands of this file; `add` makes a parser from name, function and help."""
    one = add(
        "calibrate",
        calibrate,
        "Set the ranges along the trajectory that the quantized model walks (PCR).",
    )
    recipe_argument(one)
    one.add_argument("--again", action="store_true", help="even if they were set already")
    one = add(
        "windows",
        windows,
        "Measure what windows of steps are worth, and which steps that would relax (PCR).",
    )
    recipe_argument(one)
    one.add_argument("--again", action="store_true", help="even if they were measured already")
    one = add(
        "overtime", overtime, "Follow the errors of recipes along the steps, from the same noise."
    )
    recipes_argument(one)
    picture_arguments(one)
    one.add_argument("--csv", metavar="FILE", help="also write every step")
    one.add_argument("--again", action="store_true", help="even if the same was asked before")
    one = add(
        "probe",
        probe,
        "Amplify the quantization error within windows of steps, the rest in float (PCR).",
    )
    recipe_argument(one)
    one.add_argument(
        "--windows", type=int, metavar="N", help="equal windows that are tried; 4 unless given"
    )
    one.add_argument("--first", type=int, metavar="I", help="a single window from this step …")
    one.add_argument("--last", type=int, metavar="J", help="… to this one")
    one.add_argument(
        "--gains", type=float, nargs="+", metavar="G", help="the error is multiplied by; 1 2 4"
    )
    one.add_argument("--prompt", default=Probe.prompt, metavar="TEXT")
    one.add_argument("--seed", type=int, default=0, metavar="N")
    one.add_argument(
        "--out", metavar="FILE.png", help="also write the pictures, a row for each window"
    )
    one.add_argument("--again", action="store_true", help="even if the same was asked before")


# --- ranges along the quantized trajectory --------------------------------------------------------


def calibrate(given: argparse.Namespace) -> None:
    from .. import stages

    recipe = chosen_recipe(given.recipe, given.model)
    if recipe.progressive is None:
        raise DmqError("nothing to set: set the recipe's progressive to Progressive.")
    told(stages.capture(recipe))
    before, start = stages.calibrated(recipe) and not given.again, time.monotonic()
    told(stages.calibrate(recipe, again=given.again))
    ranges, change = stages.progressive_ranges(recipe), stages.range_change(recipe)
    when = "in an earlier run" if before else f"in {time.monotonic() - start:.1f} s"
    print(
        f"{recipe.name}: ranges set on {recipe.calibration.samples} pictures, {ranges.calls} "
        f"denoiser calls, {when}"
    )
    wider = change.wider
    print(
        f"a range is {100 * np.abs(wider).mean():.2f} % wider or narrower than on the float "
        "trajectory on average"
    )
    most = np.abs(wider).max(1)
    rows = []
    for s in np.argsort(-most, kind="stable")[:MOVED]:
        i = int(np.abs(wider[s]).argmax())
        ends = (change.float_low, change.float_high, change.low, change.high)
        rows.append(
            [
                change.sites[s].label,
                str(i),
                f"{100 * wider[s, i]:+.2f} %",
                *(f"{x[s, i]:.4g}" for x in ends),
            ]
        )
    print_table(["moved most", "step", "wider", "float low", "high", "set low", "high"], rows)
    if ranges.widest_change > 0:
        print(
            "note: some range serves several calls, and grew by up to "
            f"{100 * ranges.widest_change:.2f} % after it "
            "was first used; a range per step avoids this."
        )


# --- windows --------------------------------------------------------------------------------------


def windows(given: argparse.Namespace) -> None:
    from .. import stages

    recipe = chosen_recipe(given.recipe, given.model)
    spec = recipe.relaxing or Relaxing()
    if spec.where == "auto" and spec.judge == "text" and not stages.info(recipe.model).prompted:
        raise DmqError(
            "relaxing.judge is 'text', but this model draws without prompts; set it to fidelity."
        )
    told(stages.capture(recipe))
    effects = told(stages.measure_windows(recipe, again=given.again))
    print_windows(effects)
    own, *others = stages.relaxed_choices(recipe)
    print_choices(
        [
            *([("this recipe", own)] if recipe.relaxing else []),
            *((WAYS[one.where], one) for one in others),
        ]
    )


def print_windows(effects: WindowEffects) -> None:
    """Both curves: what each step of a window brings whose activations are in float."""
    judged = bool(np.isfinite(effects.text_all).any())
    each, match = effects.gains("fidelity"), effects.gains("text") if judged else None
    count = len(effects.fidelity_all)
    print(
        f"all steps quantized: latent error {effects.typical_error:.4g}, geometric mean of {count} "
        "pictures",
        end="",
    )
    text = (
        f", match {effects.text_all.mean():.2f} (float {effects.text_float.mean():.2f})"
        if judged
        else ""
    )
    print(text)
    left = effects.typical_error * 10 ** (-effects.won("fidelity").mean(1) / 10)
    rows = [
        [
            f"{start} to {end - 1}",
            f"{left[w]:.4g}",
            f"{each[w]:+.4g} dB",
            f"{effects.text[w].mean():.2f}" if judged else "–",
            f"{match[w]:+.4f}" if judged else "–",
        ]
        for w, (start, end) in enumerate(effects.windows)
    ]
    print_table(["unrounded", "latent error", "less, per step", "match", "more, per step"], rows)


def print_choices(choices: list) -> None:
    """Ways to choose as many steps, what they cost and promise at best."""
    from ..figures.over_time import steps_text

    rows = [
        [
            name + (f", {one.judge}" if one.judge else ""),
            steps_text(one.steps) or "none",
            f"{one.mean_bits:.4g}",
            f"{one.fidelity:.4g} dB",
            f"{one.text:+.2f}" if math.isfinite(one.text) else "–",
        ]
        for name, one in choices
    ]
    print_table(
        ["more bits for", "steps", "mean bits", "less error, at best", "more match, at best"],
        rows,
        left=2,
    )


# --- errors along the steps -----------------------------------------------------------------------


def overtime(given: argparse.Namespace) -> None:
    from .. import stages

    recipes = tuple(chosen_recipe(name, given.model) for name in given.recipes)
    comparison = Comparison(
        prompts=prompts_for(recipes[0], given.prompts or Comparison().prompts),
        seeds=tuple(given.seeds or (0,)),
        sampling=recipes[0].sampling,
    )
    if given.csv:
        check_place(given.csv)
    found = told(stages.over_time(comparison, recipes, again=given.again))
    rows = [
        [
            recipe.name,
            f"{found.accumulated[recipe.name][-1].mean():.4e}",
            f"{found.isolated[recipe.name].mean():.4e}",
            f"{found.mean_bits[recipe.name]:.2f}",
            f"{stages.plan(recipe).bytes:,}",
        ]
        for recipe in recipes
    ]
    pictures = len(comparison.prompts) * len(comparison.seeds)
    print(
        f"{recipes[0].model}: squared distance to the float model over its squared length, "
        f"{pictures} picture{'s' if pictures > 1 else ''}"
    )
    print_table(["recipe", "finished error", "isolated, mean", "mean bits", "bytes"], rows)
    if given.csv:
        write(given.csv, as_csv(found, recipes, comparison))


def prompts_for(recipe: Recipe, wanted: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """The prompts to draw, or what stands for one if the model takes none."""
    from .. import stages

    return tuple(wanted) if stages.info(recipe.model).prompted else (UNPROMPTED,)


def as_csv(found: OverTime, recipes: tuple[Recipe, ...], comparison: Comparison) -> str:
    """A line for each recipe and step: errors (those of several pictures as mean, least and
    most), |c_i|, context.
    """
    parts = {"accumulated": found.accumulated} | (
        {"foreseen": found.foreseen} if found.foreseen else {}
    )
    heads = [f"{part}{end}" for part in parts for end in ("", "_least", "_most")]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        [
            "model",
            "recipe",
            "step",
            "timestep",
            *heads,
            "isolated",
            "coefficient",
            "isolated_weighed",
            "mean_bits",
            "pictures",
            "seeds",
            "prompts",
        ]
    )
    context = [
        len(comparison.prompts) * len(comparison.seeds),
        " ".join(map(str, comparison.seeds)),
        " | ".join(comparison.prompts),
    ]
    for recipe in recipes:
        for i, t in enumerate(found.timesteps):
            errors = [
                f(part[recipe.name][i])
                for part in parts.values()
                for f in (np.mean, np.min, np.max)
            ]
            alone, weight = found.isolated[recipe.name][i], found.coefficients[i]
            table.writerow(
                [
                    recipe.model,
                    recipe.name,
                    i,
                    f"{t:g}",
                    *map(_plain, errors),
                    _plain(alone),
                    _plain(weight),
                    _plain(weight**2 * alone),
                    _plain(found.mean_bits[recipe.name]),
                    *context,
                ]
            )
    return text.getvalue()


def _plain(value: float) -> str:
    """A number that reads back as itself; nothing where none is known."""
    return repr(float(value)) if math.isfinite(value) else ""


# --- the probe ------------------------------------------------------------------------------------


def probe(given: argparse.Namespace) -> None:
    from .. import stages
    from ..runs import sheets

    recipe = chosen_recipe(given.recipe, given.model)
    spec = chosen_probe(given, recipe)
    if given.out:
        check_place(given.out, ".png")
    pictures = told(stages.probe(recipe, spec, again=given.again))
    rows = [
        [
            f"{one.start} to {one.end - 1}",
            f"{one.gain:g}",
            f"{one.psnr:.2f}",
            f"{one.error:.4g}",
            _two(one.match),
            _two(one.match_float),
        ]
        for one in pictures
    ]
    print(f"{recipe.name} on {recipe.model}: one picture each, an impression and no measurement")
    print_table(["steps", "gain", "PSNR dB", "latent error", "match", "of float"], rows)
    if given.out:
        sheets.save_png(given.out, sheets.sheet(*grid_of(pictures)))


def chosen_probe(given: argparse.Namespace, recipe: Recipe) -> Probe:
    """The probe that the command line asks for."""
    if given.windows is not None and (given.first, given.last) != (None, None):
        raise DmqError(
            "--windows cuts the steps into equal windows, --first and --last name one; give either."
        )
    (prompt,) = prompts_for(recipe, (given.prompt,))
    wishes = {"windows": given.windows, "gains": given.gains and tuple(given.gains)}
    wishes = {name: value for name, value in wishes.items() if value is not None}
    return Probe(first=given.first, last=given.last, prompt=prompt, seed=given.seed, **wishes)


def grid_of(pictures: tuple[ProbePicture, ...]) -> tuple[dict[str, list[np.ndarray]], list[str]]:
    """Rows of pictures by window, the float one first, and the names of the columns."""
    rows: dict[str, list[np.ndarray]] = {}
    for one in pictures:
        rows.setdefault(f"steps {one.start} to {one.end - 1}", [one.exact]).append(one.pixels)
    return rows, ["float", *dict.fromkeys(f"gain {one.gain:g}" for one in pictures)]


def _two(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"
