"""What stands on what: the graph of questions, of every recipe that ships and of one with everything."""

import dataclasses
import inspect

import pytest

from dmq.artifacts import of_recipe as ask
from dmq.artifacts import questions, store
from dmq.recipe import (
    BlockReconstruction,
    Cache,
    Calibration,
    Gptq,
    LearnedGroups,
    Override,
    Progressive,
    Recipe,
    Relaxing,
    Temporal,
    Tiar,
    Weights,
)
from dmq.store.artifact import Artifact, compute, compute_together, inputs, load, places, save
from dmq.store.runs import shipped_recipes


KINDS = [
    kind
    for _, kind in inspect.getmembers(questions, inspect.isclass)
    if issubclass(kind, Artifact) and kind not in (Artifact, questions.RecipeQuestion)
]
EVERYTHING = Recipe(
    calibration=Calibration(samples=3),  # of which nothing ships
    weights=Weights(bits=4),
    overrides=(Override(layers="mid_block.*", format=Gptq()),),
    grouping=LearnedGroups(count=4),
    temporal=Temporal(rounding=Tiar(), cache=Cache(selection="row")),
    reconstruction=BlockReconstruction(),
    progressive=Progressive(),
    relaxing=Relaxing(where="auto"),
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_is_computed_and_what_is_kept_has_a_place(kind):
    def registered(function):
        return function.dispatch(kind) is not function.dispatch(Artifact)

    assert registered(compute) or registered(compute_together)
    if kind.stored:
        assert registered(places)
        assert kind.kept_as[0] or (registered(save) and registered(load))
    named = {*kind.named_by, *kind.loaded_with}
    assert not named or registered(inputs)


def walk(question, above=()):
    """Every question below, with those above it."""
    assert question not in above, f"{type(question).__name__} stands on itself"
    yield question
    for need in inputs(question).values():
        yield from walk(need, (*above, question))


@pytest.mark.parametrize("recipe", [EVERYTHING, *shipped_recipes().values()], ids=lambda r: r.name)
def test_nothing_stands_on_itself_and_names_are_those_of_inputs(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path))
    for question in set(walk(ask.ask_model(dataclasses.replace(recipe, mixed=None)))):
        names = inputs(question).keys()
        assert set(question.loaded_with) <= names
        assert set(question.named_by) <= names


def test_what_is_missing_comes_after_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path))
    missing = store.missing(ask.ask_model(EVERYTHING))
    kinds = list(dict.fromkeys(type(question).__name__ for question in missing))
    assert kinds[0] == "Capture" and kinds[-1] == "Progressive"
    assert set(kinds) == {
        "Capture",
        "GroupSearch",
        "LayerCodes",
        "TimeRounding",
        "BlockRounding",
        "Windows",
        "Progressive",
    }
    at = {question: n for n, question in enumerate(missing)}
    for question in missing:
        for need in set(walk(question)) - {question}:
            assert not need.stored or at[need] < at[question]
    assert not any(tmp_path.iterdir())  # nothing was made to find out


def test_a_name_and_an_engine_ask_nothing_new():
    renamed = dataclasses.replace(EVERYTHING, name="other", engine="executed")
    for asked in (ask.ask_plan, ask.ask_errors, ask.ask_ranges, ask.ask_windows, ask.ask_blocks):
        assert asked(renamed) == asked(EVERYTHING)
    moved = dataclasses.replace(EVERYTHING, progressive=None, grouping=LearnedGroups(count=9))
    before = dataclasses.replace(EVERYTHING, progressive=None)
    assert ask.ask_site_errors(moved) == ask.ask_site_errors(before)
