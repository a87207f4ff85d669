"""The benchmarks that ship in assets/runs: `python -m training.benchmarks [MODEL ...]`, after the
captures.

Images are drawn into $DMQ_RUNS, or `runs`, batch by batch: what was interrupted goes on. With
--measure-again the images that were drawn are measured anew, as after emoji-clip has changed.
Hours on two cores. A recipe that is appended to a list below is drawn behind the others, which are
not drawn again."""

import argparse
import json
import shutil
from pathlib import Path

from dmq.artifacts.model_info import for_model
from dmq.errors import DmqError
from dmq.evaluation.benchmark import run_benchmark
from dmq.models import libraries
from dmq.models.generation import generate_batch
from dmq.progress import FLOAT_NAME, Progress, run_to_end
from dmq.recipe import EMBEDDED, Benchmark, Recipe
from dmq.results import FLOOR_NAME
from dmq.store import benchmarks as kept
from dmq.store import folders, runs
from dmq.store.prompts import UNCONDITIONAL, shipped_domains
from dmq.workflow.answers import get_simulated


RECIPES = {
    "emoji-sd": (
        "W8A8, one range",
        "W8A6, one range",
        "W8A6, 8 best groups",
        "TFMQ-DM W4A8",
        "BRECQ W4A8",
        "PCR W4A8",
        "ADP-DM W6A6",
        "W3A4, to see it break",
        "Q-Diffusion W4A8",
    ),
    "emoji-ddpm": (
        "W8A8, one range",
        "W8A8, 8 best groups",
        "W8A6, one range",
        "W8A6, 8 best groups",
        "W4A8, 8 best groups",
        "BRECQ W4A8",
        "TFMQ-DM W4A8",
        "ADP-DM W6A6",
        "W4, activations in float",
        "W3A4, to see it break",
        "PCR W4A8",
        "Q-Diffusion W4A8",
    ),
}
SHIPPED = (
    "report.json",
    "benchmark.json",
    "manifest.json",
    "pictures.parquet",
    "worst",
    "recipe-*.json",
)


def asked(model: str) -> tuple[Benchmark, tuple[Recipe, ...]]:
    """What is drawn of `model`, and its recipes."""
    shipped = runs.shipped_recipes()
    recipes = tuple(for_model(shipped[name], model) for name in RECIPES[model])
    if model == "emoji-sd":
        domains, seeds = tuple(shipped_domains().values()), (100,)
    else:
        domains, seeds = (UNCONDITIONAL,), tuple(range(100, 164))
    return Benchmark(domains=domains, seeds=seeds, sampling=EMBEDDED[model], batch=16), recipes


def told(model: str) -> None:
    """Draw and measure, with progress on lines of their own every ten parts of a hundred."""
    said = ""
    benchmark, recipes = asked(model)
    for seen in run_benchmark(benchmark, recipes, name=model):
        if isinstance(seen, Progress):
            line = f"{model}: {seen.stage}, {10 * (10 * seen.done // max(1, seen.total))} %"
            if line != said:
                print(line, flush=True)
            said = line


def forget_figures(model: str) -> None:
    """Delete what was measured, and which weights measured it; the images stay."""
    folder = folders.home() / "benchmarks" / model
    if not folder.is_dir():
        raise DmqError(f"{model}: nothing was drawn yet.")
    shutil.rmtree(folder / "rows", ignore_errors=True)
    (folder / "report.json").unlink(missing_ok=True)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    for part in ("features", "reference"):
        manifest["known"].pop(part)
    (folder / "manifest.json").write_text(
        json.dumps(manifest, ensure_ascii=False, indent=1), "utf-8"
    )


def time_again(model: str) -> None:
    """Take the seconds anew, from one batch of every model in turn: images may have been drawn
    on a busy machine.
    """
    benchmark, recipes = asked(model)
    file = folders.home() / "benchmarks" / model / "report.json"
    loaded, seconds = libraries.load(recipes[0].model), {}
    for recipe in (None, *recipes):
        denoiser = loaded.denoiser if recipe is None else get_simulated(recipe)
        jobs = [(prompt, seed) for _, prompt, seed in kept.jobs_of(benchmark)[: benchmark.batch]]
        drawn = run_to_end(generate_batch(loaded, denoiser, jobs, benchmark.sampling))
        seconds[recipe.name if recipe else FLOAT_NAME] = drawn.seconds / len(jobs)
    seconds[FLOOR_NAME] = seconds[FLOAT_NAME]
    report = json.loads(file.read_text("utf-8"))
    for row in report["rows"]:
        row["seconds"] = seconds[row["recipe"]] * (row["samples"] + row["failed"])
    file.write_text(json.dumps(report, indent=1), "utf-8")


def ship(model: str) -> Path:
    """Copy what the app shows into assets/runs."""
    own, place = folders.home() / "benchmarks" / model, folders.ASSETS / "runs" / f"bench-{model}"
    with folders.write_folder(place) as part:
        for pattern in SHIPPED:
            for found in own.glob(pattern):
                (shutil.copytree if found.is_dir() else shutil.copy)(found, part / found.name)
    return place


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    given.add_argument("models", nargs="*", default=list(RECIPES))
    given.add_argument("--measure-again", action="store_true")
    given.add_argument(
        "--time-again", action="store_true", help="do this on a machine that does nothing else"
    )
    chosen = given.parse_args()
    for model in chosen.models:
        if chosen.measure_again:
            forget_figures(model)
        told(model)
        if chosen.time_again:
            time_again(model)
        print(ship(model))


if __name__ == "__main__":
    main()
