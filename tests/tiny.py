"""A tiny pipeline with its statistics, for the tests of the pages, the browser and the whole path."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmq import stages
from dmq.models.tiny import tiny_sd
from dmq.recipe import Activations, Calibration, Recipe, Sampling, UniformGroups


@contextlib.contextmanager
def runs_in(folder: Path) -> Iterator[Path]:
    """Runs are kept in `folder`/runs while the block lasts, in this process and in those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DMQ_RUNS", str(folder / "runs"))
        yield folder


def captured_recipe(folder: Path, steps: int) -> Recipe:
    """Six bits in two groups of `steps` steps, for a tiny prompted model in `folder` whose statistics are there."""
    tiny_sd().save_pretrained(folder / "tiny-sd", safe_serialization=True)
    made = Recipe(
        name="tiny",
        model=str(folder / "tiny-sd"),
        sampling=Sampling(steps=steps, guidance=2.0),
        calibration=Calibration(samples=2, batch=2, prompts=("a", "b")),
        activations=Activations(bits=6),
        grouping=UniformGroups(count=2),
    )
    stages.finish(stages.capture(made))
    return made
