"""Denoiser calls that are counted beforehand are those that are made, of a tiny real model."""

import dataclasses

import pytest

from dmq.artifacts import store
from dmq.artifacts.of_recipe import ask_costs, ask_scores
from dmq.models import libraries
from dmq.models.tiny import tiny_sd
from dmq.progress import run_to_end
from dmq.recipe import (
    Activations,
    Calibration,
    Predictor,
    Progressive,
    Recipe,
    Relaxing,
    Sampling,
    Sensitivity,
    Temporal,
    Tiar,
    Uniform,
    WeightFormat,
)
from dmq.workflow import estimates
from dmq.workflow.estimates import count_calls, estimate_seconds
from dmq.workflow.steps import STEPS
from tests.tiny import runs_in


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    with runs_in(tmp_path_factory.mktemp("estimated")) as folder:
        tiny_sd().save_pretrained(folder / "tiny-sd", safe_serialization=True)
        yield Recipe(
            name="tiny",
            model=str(folder / "tiny-sd"),
            sampling=Sampling(steps=4, guidance=2.0),
            calibration=Calibration(samples=3, batch=2, prompts=("a", "b")),
            activations=Activations(bits=6),
            temporal=Temporal(rounding=Tiar(iterations=2)),
            progressive=Progressive(),
            relaxing=Relaxing(where="auto", windows=3, images=2),
        )


def made_calls(recipe, question) -> int:
    """Calls of the denoiser, float or quantized, while `question` is answered."""
    calls = []
    denoiser = libraries.load(recipe.model).denoiser
    hook = denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    store.forget()
    try:
        run_to_end(store.get(question))
    finally:
        hook.remove()
        store.forget()
    return len(calls)


def test_calls_that_are_counted_are_those_that_are_made(recipe):
    seen = {}
    for step in STEPS:
        for question in step.questions(recipe) if step.is_asked(recipe) else []:
            counted, made = count_calls(question), made_calls(recipe, question)
            seen[step.name] = made
            if counted is not None:
                assert sum(calls.count for calls in counted) == made, step.name
    assert seen == {"capture": 8, "time": 0, "windows": 20, "ranges": 4}


def test_costs_and_labels(recipe):
    choices = (WeightFormat(bits=4, format=Uniform()), WeightFormat(bits=2, format=Uniform()))
    plain = dataclasses.replace(recipe, temporal=None, progressive=None, relaxing=None)
    costs = ask_costs(plain, Sensitivity(how="measure", images=2, steps=2, choices=choices))
    labels = Predictor(choices=choices, configurations=20, label="latent", images=2, steps=2)
    scores = ask_scores(plain, dataclasses.replace(labels, repeats=1, epochs=1, width=4))
    for question in (costs, scores):
        made = made_calls(plain, question)
        assert sum(calls.count for calls in count_calls(question)) == made


def test_seconds_are_calls_times_those_of_one_and_unknown_where_something_is_missing(
    recipe, monkeypatch
):
    monkeypatch.setattr(estimates, "time_step", lambda model, sampling, images: 0.25 * images)
    other = dataclasses.replace(recipe, calibration=Calibration(samples=5, batch=2, seed=9))
    by_name = {step.name: estimate_seconds(other, step) for step in STEPS}
    assert by_name["capture"] == pytest.approx(1.3 * 0.25 * (2 * 8 + 1 * 4))
    assert by_name["windows"] == pytest.approx(0.5 * (4 + 1.6 * 16))
    assert by_name["time"] is None  # no calls of the denoiser
    assert by_name["ranges"] == pytest.approx(1.6 * 1.3 * 0.25 * 5 * 4)
