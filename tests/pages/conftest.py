"""A tiny model with its statistics, in a run folder of the test session."""

import os

import pytest

from dmq import stages
from dmq.models.tiny import tiny_sd
from dmq.recipe import Activations, Calibration, Recipe, Sampling, UniformGroups


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    before = os.environ.get("DMQ_RUNS")
    os.environ["DMQ_RUNS"] = str(folder / "runs")
    tiny_sd().save_pretrained(folder / "tiny-sd", safe_serialization=True)
    made = Recipe(
        name="tiny",
        model=str(folder / "tiny-sd"),
        sampling=Sampling(steps=6, guidance=2.0),
        calibration=Calibration(samples=2, batch=2, prompts=("a", "b")),
        activations=Activations(bits=6),
        grouping=UniformGroups(count=2),
    )
    stages.finish(stages.capture(made))
    yield made
    os.environ.pop("DMQ_RUNS") if before is None else os.environ.update(DMQ_RUNS=before)
