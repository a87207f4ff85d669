"""What a visitor asks to have generated, from texts and numbers."""

import dataclasses
import os

import numpy as np
import pytest

from dmq.errors import DmqError
from dmq.recipe import Comparison
from dmq.results import Report
from dmq.store import runs
from pages import request
from pages.compare import handlers as compare


def test_other_steps_than_those_captured_are_refused_before_anything_is_drawn(recipe):
    with pytest.raises(DmqError, match="captured for 6"):
        request.make_comparison(recipe, "a", "0", 7, 2.0)
    nearest = dataclasses.replace(recipe, unknown_timestep="nearest")
    assert request.make_comparison(nearest, "a", "0", 7, 2.0).sampling.steps == 7


@pytest.mark.parametrize(
    ("given", "seeds"),
    [("0", (0,)), ("0, 1 2", (0, 1, 2)), ("3-5,5,1", (3, 4, 5, 1))],
    ids=["one", "list", "range"],
)
def test_seeds_are_read(given, seeds):
    assert request.parse_seeds(given) == seeds


@pytest.mark.parametrize("given", ["-1", "a", "1.5", "1-", "5-1-2", "0-99", "²"])
def test_other_seeds_are_refused(given):
    with pytest.raises(DmqError, match="seeds"):
        request.parse_seeds(given)


def test_compared_recipes_have_names_of_their_own(recipe):
    first = next(iter(runs.shipped_recipes()))
    same_name = dataclasses.replace(recipe, name=first)
    made = request.choose_recipes(same_name, [first, "no such recipe"])
    assert len({r.name for r in made}) == len(made) == 2
    assert len(request.choose_recipes(made[1], [first])) == 1


def test_both_engines_draw_each_recipe_under_a_name_of_its_own(recipe):
    others = list(runs.shipped_recipes())[:2]
    made = request.choose_recipes(recipe, others, "both")
    assert [r.name for r in made] == [
        f"{name}{end}" for name in ("tiny", *others) for end in ("", ", executed")
    ]
    assert [r.engine for r in made] == ["simulated", "executed"] * 3
    assert [dataclasses.replace(r, name=recipe.name, engine="simulated") for r in made[:2]] == [
        recipe,
        recipe,
    ]
    assert request.choose_recipes(made[1], others, "both") == made, (
        "one that is executed already is generated both ways, too"
    )
    assert [r.name for r in request.choose_recipes(recipe, [], "executed bf16")] == [
        "tiny, executed bf16"
    ]
    assert {r.engine for r in request.choose_recipes(made[1], others)} == {"executed"}, (
        "that of the current recipe"
    )
    with pytest.raises(DmqError, match="computed is 'magic'"):
        request.choose_recipes(recipe, [], "magic")


@pytest.fixture
def kept(recipe, tmp_path, monkeypatch):
    """`kept(name, *recipes)` keeps a run of them in a run folder of the test's own."""
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path))
    dot = np.zeros((4, 4, 3), np.uint8)

    def keep(name, *recipes):
        names = ["float", *(r.name for r in recipes)]
        report = Report(
            scores=(),
            seconds=dict.fromkeys(names, 1.0),
            bytes=dict.fromkeys(names, 1),
            coverage={},
            noise_floor={},
            samples=1,
        )
        runs.save_run(
            name,
            recipes,
            Comparison(),
            report,
            {who: [dot] for who in names},
            {who: {} for who in names},
        )
        os.utime(
            tmp_path / name / "report.json", (len(runs.names()),) * 2
        )  # in the order of the calls

    return keep


def test_recipes_of_earlier_runs_are_offered_under_the_name_of_their_run(recipe, kept):
    four = dataclasses.replace(
        recipe, name="mine", weights=dataclasses.replace(recipe.weights, bits=4)
    )
    three = dataclasses.replace(
        recipe, name="mine", weights=dataclasses.replace(recipe.weights, bits=3)
    )
    shipped = list(runs.shipped_recipes())
    assert list(request.list_recipes(recipe)) == shipped
    kept("first", four, runs.shipped_recipes()[shipped[0]])  # what ships is not offered again
    kept(
        "second",
        dataclasses.replace(three, model="elsewhere"),
        dataclasses.replace(four, name="same as in first"),
    )
    assert list(request.list_recipes(recipe)) == [*shipped, "mine · run second", "mine · run first"]
    made = request.choose_recipes(
        recipe, ["mine · run second", "mine · run first", "removed · run gone"]
    )
    assert [(r.name, r.weights.bits, r.model) for r in made] == [
        ("tiny", 8, recipe.model),
        ("mine", 3, recipe.model),
        ("mine (2)", 4, recipe.model),
    ]


def test_a_damaged_or_removed_run_takes_only_its_own_recipes_away(text, recipe, kept, tmp_path):
    for bits in (4, 3):
        weights = dataclasses.replace(recipe.weights, bits=bits)
        kept(f"run {bits}", dataclasses.replace(recipe, name="x", weights=weights))
    chosen = ["x · run run 4", "x · run run 3"]
    assert compare.show(text, chosen)["others"]["value"] == chosen
    (tmp_path / "run 4" / "recipe.json").write_text("{")
    shown = compare.show(text, chosen)["others"]
    assert shown["value"] == ["x · run run 3"]
    assert shown["choices"][-1] == "x · run run 3"
