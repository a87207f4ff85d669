"""What ships in assets/runs: captures, and what recipes that ship must learn. `python -m training.captures`.

Run it after the weights have changed. Half an hour on two cores, most of it for the blocks of BRECQ.
"""

import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

from dmq import runs, stages
from dmq.recipe import EMBEDDED, Recipe


def told(model: str, work: Generator[Any, None, Any]) -> None:
    """Run a stage to its end, its progress on one line."""
    for progress in work:
        print(f"\r{model}: {progress}   ", end="", flush=True)
    print()


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
        for kind in ("captures", "searches", "roundings"):
            for made in (Path(home) / kind).iterdir():
                shutil.move(made, place / made.name)


if __name__ == "__main__":
    main()
