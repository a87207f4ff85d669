"""What ships in assets/runs: captures, and what recipes that ship must learn; `python -m training.captures [MODEL]`.

Run it after the weights have changed. Two hours on two cores, most of it for the blocks of BRECQ and Q-Diffusion. With
models named, what ships already stays, and only what these lack is made.
"""

import argparse
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

from dmq import runs, stages
from dmq.recipe import EMBEDDED, Comparison, Predictor, Probe, Recipe, Sensitivity
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


def tables(model: str) -> None:
    """What Layers opens on: costs by gradients and measured, and scores learned from random mixes."""
    recipe = stages.for_model(Recipe(), model)
    told(model, stages.sensitivity(recipe, Sensitivity(how="fisher")))
    told(model, stages.sensitivity(recipe, Sensitivity()))
    told(model, stages.predict(recipe, Predictor()))


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    given.add_argument("models", nargs="*", choices=[[], *EMBEDDED], metavar="MODEL")
    chosen, place = given.parse_args(), runs.ASSETS / "runs"
    for old in () if chosen.models else place.glob("*-*"):
        shutil.rmtree(old)
    with tempfile.TemporaryDirectory() as home:
        os.environ["DMQ_RUNS"] = home  # else what the user has of his own would be found, and nothing made
        for model in chosen.models or EMBEDDED:
            told(model, stages.capture(stages.for_model(Recipe(), model)))
            for shipped in runs.shipped_recipes().values():
                recipe = stages.for_model(shipped, model)
                # Not what is learned from inputs (GPTQ, smoothing): a minute's work, and as large as a model each.
                told(model, stages.learn_mix(recipe))
                if not stages.searched(recipe):
                    told(model, stages.search(recipe))
                told(model, stages.learn_temporal(recipe))
                told(model, stages.reconstruct(recipe))
                told(model, stages.calibrate(recipe))
                ship(Path(home), place)  # at once: what follows takes long
            trajectories(model)
            tables(model)
            ship(Path(home), place)


def ship(home: Path, place: Path) -> None:
    """Move what was made into the folder that ships; labels of random mixes have done their work."""
    for kind in ("captures", "searches", "roundings", "trajectories", "tables"):
        for made in (home / kind).glob("[!.]*"):
            if not made.name.startswith("labels-"):
                shutil.move(made, place / made.name)


if __name__ == "__main__":
    main()
