"""What ships in assets/runs: captures, and what recipes that ship must learn. `python -m training.captures`.

Run it after the weights have changed. An hour on two cores, most of it for the blocks of BRECQ and Q-Diffusion.
"""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

from dmq import runs, stages
from dmq.recipe import EMBEDDED, Comparison, Probe, Recipe
from dmq.runs.prompts import UNPROMPTED
from pages import links


def told(model: str, work: Generator[Any, None, Any]) -> None:
    """Run a stage to its end, its progress on one line."""
    for progress in work:
        print(f"\r{model}: {progress}   ", end="", flush=True)
    print()


def trajectories(model: str) -> None:
    """What Over time opens on: windows, errors along the steps and a probe, of what the app opens with and of PCR."""
    opening, pcr = (
        stages.for_model(recipe, model) for recipe in (links.OPENING, runs.shipped_recipes()["PCR W4A8"])
    )
    prompts = ("grinning cat", "red heart") if stages.info(model).prompted else (UNPROMPTED,)
    comparison = Comparison(prompts=prompts, seeds=(0, 1), sampling=opening.sampling)
    plain = dataclasses.replace(pcr, name="PCR W4A8 without PCR", progressive=None, relaxing=None)
    for recipe, others in ((opening, ()), (pcr, (plain,))):
        told(model, stages.measure_windows(recipe))
        told(model, stages.over_time(comparison, (recipe, *others)))
        told(model, stages.probe(recipe, Probe(prompt=prompts[0])))


def main() -> None:
    place = runs.ASSETS / "runs"
    for old in place.glob("*-*"):
        shutil.rmtree(old)
    with tempfile.TemporaryDirectory() as home:
        os.environ["DMQ_RUNS"] = home  # else what the user has of his own would be found, and nothing made
        for model in EMBEDDED:
            told(model, stages.capture(stages.for_model(Recipe(), model), again=True))
            for shipped in runs.shipped_recipes().values():
                recipe = stages.for_model(shipped, model)
                if not stages.searched(recipe):
                    told(model, stages.search(recipe))
                told(model, stages.learn_temporal(recipe))
                told(model, stages.reconstruct(recipe))
                told(model, stages.calibrate(recipe))
            trajectories(model)
        for kind in ("captures", "searches", "roundings", "trajectories"):
            for made in (Path(home) / kind).iterdir():
                shutil.move(made, place / made.name)


if __name__ == "__main__":
    main()
