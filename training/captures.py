"""The captures that ship in assets/runs: run after the weights have changed. `python -m training.captures`."""

import os
import shutil
import tempfile
from pathlib import Path

from dmq import runs, stages
from dmq.recipe import EMBEDDED, Recipe


def main() -> None:
    place = runs.ASSETS / "runs"
    with tempfile.TemporaryDirectory() as home:
        os.environ["DMQ_RUNS"] = home  # else a capture of the user's own would be found, and nothing captured
        for model in EMBEDDED:
            recipe = stages.for_model(Recipe(), model)
            for progress in (work := stages.capture(recipe, again=True)):
                print(f"\r{model}: {progress}   ", end="", flush=True)
            work.close()
            print()
        for old in place.glob("*-*"):
            shutil.rmtree(old)
        for made in (Path(home) / "captures").iterdir():
            shutil.move(made, place / made.name)


if __name__ == "__main__":
    main()
