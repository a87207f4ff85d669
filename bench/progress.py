"""What progressive calibration and relaxed steps (PCR) do to images, all in one run; or what
calibration costs.

    python -m bench.progress [--model emoji-sd] [--settings W8A8 W4A8 W4A6] [--ranges MseSearch MinMax] [--out FILE]
    python -m bench.progress --speed [--images 64]

Static ranges for every step, from the float trajectory ("float") or along the quantized one
("progressive"; "strict" observes a step with its activations in float); a fifth of the steps with
10-bit activations, at the noisy end ("first"), in the middle, at the clean end ("last"), or where
leaving windows of steps in float pays most by likeness to the float images ("auto") or by match
with the prompt ("auto text"); and both together. Latent error: squared distance of the finished
sample from the float one over its squared length; its geometric mean counts all images alike.
PSNR is of the images, match 100 * cosine of image and prompt by emoji-clip. All on images
with seeds that nothing has seen; +- is 95 % over the seeds, "better" the share of images with a
smaller latent error than with float ranges and the same bits, with its one-sided sign test."""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from bench.timing.generated import GeneratedBatch, half
from bench.timing.results import Results, Row, asked
from dmq.capture.activations import calibration_images
from dmq.errors import DmqError
from dmq.models import libraries
from dmq.models.loading import sample, with_denoiser
from dmq.progress import run_to_end
from dmq.recipe import (
    EMBEDDED,
    Activations,
    Calibration,
    MinMax,
    MseSearch,
    PerStep,
    Progressive,
    Recipe,
    Relaxing,
    Sampling,
    Weights,
)
from dmq.workflow.answers import get_errors, get_plan, get_statistics
from dmq.workflow.learning import capture_statistics
from dmq.workflow.steps import carry_out


RANGES = {"MseSearch": MseSearch(), "MinMax": MinMax()}
HEADS = (
    f"{'':<26}{'bits':>6}{'latent error':>14}{'+-':>9}{'geometric':>11}{'+-':>9}{'better':>8}{'p':>8}{'PSNR dB':>9}"
    f"{'+-':>6}{'match':>8}{'+-':>6}{'bytes':>12}"
)


def recipe_for(model: str, setting: str, ranges: str, chosen: argparse.Namespace) -> Recipe:
    """A range for every step, from the float trajectory."""
    weights, _, activations = setting.removeprefix("W").partition("A")
    sampling = EMBEDDED.get(model, Sampling())
    return Recipe(
        name=f"{setting} {ranges}",
        model=model,
        sampling=replace(sampling, steps=chosen.steps or sampling.steps),
        calibration=Calibration(samples=chosen.samples),
        weights=Weights(bits=int(weights)),
        activations=Activations(bits=int(activations), range=RANGES[ranges]),
        grouping=PerStep(),
    )


def candidates(recipe: Recipe, chosen: argparse.Namespace) -> Iterator[tuple[str, str, Recipe]]:
    """Name of each row, the row it is compared to, and its recipe."""
    steps, walked = recipe.sampling.steps, Progressive()
    count = round(0.2 * steps)
    middle = (steps - count) // 2
    auto = Relaxing(where="auto", images=chosen.window_images)
    relaxed = {
        "first": Relaxing(where="first"),
        "middle": Relaxing(where="list", steps=tuple(range(middle, middle + count))),
        "last": Relaxing(where="last"),
        "auto": auto,
    }
    if chosen.text:
        relaxed["auto text"] = replace(auto, judge="text")
    yield "float", "", recipe
    yield "progressive", "float", replace(recipe, progressive=walked)
    yield "strict", "float", replace(recipe, progressive=Progressive(variant="strict"))
    for name, spec in relaxed.items():
        yield f"float + {name}", "float", replace(recipe, relaxing=spec)
    yield "progressive + auto", "float + auto", replace(recipe, progressive=walked, relaxing=auto)
    yield (
        "strict + auto",
        "float + auto",
        replace(recipe, progressive=Progressive(variant="strict"), relaxing=auto),
    )


def line(row: Row, other: Row | None, generated: GeneratedBatch) -> str:
    """A row as it is printed."""
    error = generated.of_seeds(row["error"])
    geometric = np.exp(np.log(np.maximum(error, 1e-30)).mean(1))
    match = generated.of_seeds([np.nan if x is None else x for x in row["match"]]).mean(1)
    near = generated.of_seeds(row["psnr"]).mean(1)
    better = p = ""
    if other is not None:
        wins, total = (
            int((np.array(row["error"]) < np.array(other["error"])).sum()),
            len(row["error"]),
        )
        better, p = f"{wins}/{total}", f"{binomtest(wins, total, alternative='greater').pvalue:.3f}"
    return (
        f"{row['name']:<26}{row['bits']:>6.2f}{error.mean():>14.3e}{half(error.mean(1)):>9}{geometric.mean():>11.3e}"
        f"{half(geometric):>9}{better:>8}{p:>8}{near.mean():>9.2f}{half(near, '.2f'):>6}{match.mean():>8.2f}"
        f"{half(match, '.2f'):>6}{row['bytes']:>12,}"
    )


def bars(rows: dict[str, Row]) -> list[tuple[str, bool]]:
    """What should hold, and whether it does, in the geometric mean of the latent error over all
    images.
    """
    error = {
        name: float(np.exp(np.log(np.maximum(row["error"], 1e-30)).mean()))
        for name, row in rows.items()
    }
    ends = [error[f"float + {name}"] for name in ("first", "middle", "last")]
    return [
        ("progressive < float", error["progressive"] < error["float"]),
        ("strict < float", error["strict"] < error["float"]),
        (
            "progressive and relaxed together best",
            error["progressive + auto"] <= min(error.values()),
        ),
        ("strict and relaxed together best", error["strict + auto"] <= min(error.values())),
        ("auto <= first, middle, last at equal bits", error["float + auto"] <= min(ends) * 1.0001),
    ]


def report(
    recipe: Recipe, generated: GeneratedBatch, results: Results, chosen: argparse.Namespace
) -> None:
    """Measure and print one setting."""
    print(
        f"\n{recipe.model} {recipe.name}, {recipe.sampling.steps} steps, {chosen.images} unseen "
        "images for each "
        f"of {chosen.seeds} seeds; match of the float model {generated.match.mean():.2f}\n{HEADS}"
    )
    rows: dict[str, Row] = {}
    for name, other, candidate in candidates(recipe, chosen):
        if chosen.rows and name not in chosen.rows:
            continue
        key = asked(candidate, generated.loaded.info.fingerprint, generated.seeds, generated.images)
        place = (recipe.model, recipe.name, "progress", name)
        row = results.find(place, key)
        if row is None:
            begun = time.process_time()
            run_to_end(carry_out(candidate))
            row = dict(zip(("model", "setting", "table", "name"), place, strict=True)) | {
                "asked": key
            }
            row |= generated.measure(candidate) | {"took": time.process_time() - begun}
        results.put(row)
        rows[name] = row
        print(line(row, rows.get(other), generated) + f"   {_run(row['relaxed'])}", flush=True)
    for words, holds in () if chosen.rows else bars(rows):
        print(f"  {'holds' if holds else 'FAILS'}: {words}", flush=True)


def _run(steps: list[int]) -> str:
    return f"steps {steps[0]} to {steps[-1]}" if steps else ""


def speed(model: str, chosen: argparse.Namespace) -> None:
    """Progressive calibration against plain sampling of the same images, in turn."""
    from dmq.calibration.progressive import calibrate_progressively

    recipe = replace(recipe_for(model, "W8A8", "MseSearch", chosen), progressive=Progressive())
    small, start = recipe, replace(recipe, progressive=None)
    run_to_end(capture_statistics(start))
    plan, ranges = get_plan(start), (get_statistics(start), get_errors(start))
    recipe = replace(recipe, calibration=replace(small.calibration, samples=chosen.images))
    loaded = libraries.load(model)
    prompts, seeds = zip(*calibration_images(loaded, recipe.calibration), strict=True)
    batch, times = recipe.calibration.batch, {"sampling": [], "calibration": []}
    for _ in range(chosen.repeats):
        begun = time.perf_counter()
        for n in range(0, len(seeds), batch):
            part = slice(n, n + batch)
            pipe = with_denoiser(loaded, loaded.denoiser)
            sample(pipe, loaded, prompts=prompts[part], seeds=seeds[part], sampling=recipe.sampling)
        times["sampling"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        run_to_end(calibrate_progressively(loaded, recipe, plan, ranges))
        times["calibration"].append(time.perf_counter() - begun)
    a, b = (statistics.median(times[name]) for name in ("sampling", "calibration"))
    ratios = [y / x for x, y in zip(*times.values(), strict=True)]
    print(
        f"{model}: {len(seeds)} images, {recipe.sampling.steps} steps: sampling {a:.1f} s, "
        f"progressive calibration {b:.1f} s, ratio {b / a:.2f} ({min(ratios):.2f} to "
        f"{max(ratios):.2f})"
    )


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", dest="models", help="default: emoji-sd")
    parser.add_argument("--settings", nargs="+", default=["W8A8", "W4A8", "W4A6"], metavar="W4A8")
    parser.add_argument("--ranges", nargs="+", default=["MseSearch"], choices=RANGES)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="JSON of all rows, to quote and to go on from"
    )
    parser.add_argument("--again", action="store_true", help="measure also what is in FILE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--images", type=int, default=8, help="measured for each seed; with --speed in all"
    )
    parser.add_argument(
        "--samples", type=int, default=Calibration().samples, help="calibration images"
    )
    parser.add_argument(
        "--window-images", type=int, default=8, help="that the windows are measured on"
    )
    parser.add_argument("--steps", type=int, help="other than the model's own")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only these rows, and no bars")
    parser.add_argument(
        "--text", action="store_true", help="also the steps that match with prompts chooses"
    )
    parser.add_argument(
        "--speed", action="store_true", help="only the time of calibration beside that of sampling"
    )
    parser.add_argument("--repeats", type=int, default=3, help="with --speed")
    return parser


def main(arguments: list[str] | None = None) -> None:
    chosen = options().parse_args(arguments)
    try:
        for model in chosen.models or ["emoji-sd"]:
            if chosen.speed:
                speed(model, chosen)
                continue
            results = Results(chosen.out, chosen.again)
            every = [
                recipe_for(model, s, ranges, chosen)
                for s in chosen.settings
                for ranges in chosen.ranges
            ]
            run_to_end(capture_statistics(every[0]))
            generated = GeneratedBatch(every[0], chosen.seeds, chosen.images)
            for recipe in every:
                report(recipe, generated, results, chosen)
    except DmqError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
