"""What ships in assets/runs: captures, and what recipes that ship must learn; `python -m
training.captures [MODEL]`.

Run it after the weights have changed. Two hours on two cores, most of it for the blocks of BRECQ
and Q-Diffusion. Stop it at any time: what is finished, and what is begun of most of the rest, is in
`--work`, and the same command goes on from there; assets/runs stays as it is until all is done.
With models named, what ships already stays, and only what these lack is made."""

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from dmq.artifacts.model_info import for_model, get_info
from dmq.evaluation import error_curves, probe
from dmq.models import libraries
from dmq.recipe import EMBEDDED, Comparison, Predictor, Probe, Recipe, Sensitivity
from dmq.store import folders, runs
from dmq.store.prompts import UNPROMPTED
from dmq.workflow.answers import has_search
from dmq.workflow.learning import (
    calibrate_ranges,
    capture_statistics,
    learn_blocks,
    learn_scores,
    learn_time_rounding,
    measure_costs,
    measure_windows,
    search_groups,
    share_out_bits,
)
from pages import session


KINDS = ("captures", "searches", "roundings", "trajectories", "tables")


def told(model: str, work: Generator[Any, None, Any]) -> None:
    """Run a stage to its end, its progress on one line."""
    for progress in work:
        print(f"\r{model}: {progress}   ", end="", flush=True)
    print()


def trajectories(model: str) -> None:
    """What Error over time opens on: windows, errors along the steps and a probe, of what the app
    opens with and of PCR.
    """
    opening, pcr = (
        for_model(recipe, model) for recipe in (session.OPENING, runs.shipped_recipes()["PCR W4A8"])
    )
    prompts = ("grinning cat", "red heart") if get_info(model).prompted else (UNPROMPTED,)
    comparison = Comparison(prompts=prompts, seeds=(0, 1), sampling=opening.sampling)
    plain = dataclasses.replace(pcr, name="PCR W4A8 without PCR", progressive=None, relaxing=None)
    for recipe, others in ((opening, ()), (pcr, (plain,))):
        told(model, measure_windows(recipe))
        told(model, error_curves.measure_error_curves(comparison, (recipe, *others)))
        told(model, probe.run_probe(recipe, Probe(prompt=prompts[0])))


def tables(model: str) -> None:
    """What Layers opens on: costs by gradients and measured, and scores learned from random
    mixes.
    """
    recipe = for_model(Recipe(), model)
    told(model, measure_costs(recipe, Sensitivity(how="fisher")))
    told(model, measure_costs(recipe, Sensitivity()))
    told(model, learn_scores(recipe, Predictor()))


def make(model: str) -> None:
    """All that ships of a model, in `$DMQ_RUNS`; what is there is not made again."""
    told(model, capture_statistics(for_model(Recipe(), model)))
    for shipped in runs.shipped_recipes().values():
        recipe = for_model(shipped, model)
        # Not what is learned from inputs (GPTQ, smoothing): a minute's work, and as large as a
        # model each.
        told(model, share_out_bits(recipe))
        if not has_search(recipe):
            told(model, search_groups(recipe))
        told(model, learn_time_rounding(recipe))
        told(model, learn_blocks(recipe))
        told(model, calibrate_ranges(recipe))
    trajectories(model)
    tables(model)


def begin(work: Path, models: list[str]) -> None:
    """Go on in `work`, unless what is there was made of other weights: then begin anew."""
    weights = {model: libraries.load(model).info.fingerprint for model in models}
    file = work / "weights.json"
    known = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if any(known.get(model, found) != found for model, found in weights.items()):
        shutil.rmtree(work)
        known = {}
    work.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(known | weights), "utf-8")


@contextlib.contextmanager
def made_in(work: Path, hidden: bool) -> Iterator[Path]:
    """Runs are kept in `work`/runs; if `hidden`, those that ship are not found, else nothing
    would be made anew.
    """
    before, assets = os.environ.get("DMQ_RUNS"), folders.ASSETS
    os.environ["DMQ_RUNS"] = str(work / "runs")
    if hidden:
        folders.ASSETS = work / "assets"
        folders.ASSETS.mkdir(parents=True, exist_ok=True)
        for needed in ("recipes", "prompts"):
            shutil.copytree(assets / needed, folders.ASSETS / needed, dirs_exist_ok=True)
    try:
        yield work / "runs"
    finally:
        folders.ASSETS = assets
        os.environ.pop("DMQ_RUNS") if before is None else os.environ.update(DMQ_RUNS=before)


def clear(place: Path) -> None:
    """Delete what ships, but for tables of results: those are `training.benchmarks`' to make."""
    for old in place.glob("*-*"):
        if not old.name.startswith("bench-"):
            shutil.rmtree(old)


def ship(home: Path, place: Path) -> None:
    """Move what was made into the folder that ships; labels of random mixes have done their
    work.
    """
    for kind in KINDS:
        for made in sorted((home / kind).glob("[!.]*")):
            if not made.name.startswith("labels-"):
                shutil.rmtree(place / made.name, ignore_errors=True)
                shutil.move(made, place / made.name)


def main() -> int:
    given = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    given.add_argument("models", nargs="*", choices=[[], *EMBEDDED], metavar="MODEL")
    given.add_argument(
        "--work", type=Path, default=Path(".training/captures"), help="where it is made"
    )
    chosen, place = given.parse_args(), folders.ASSETS / "runs"
    models = chosen.models or list(EMBEDDED)
    try:
        begin(chosen.work, models)
        with made_in(chosen.work, hidden=not chosen.models) as home:
            for model in models:
                make(model)
            if not chosen.models:
                clear(place)
            ship(home, place)
    except KeyboardInterrupt:
        print(
            "\ntraining.captures: interrupted; the same command goes on from there", file=sys.stderr
        )
        return 1
    shutil.rmtree(chosen.work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
