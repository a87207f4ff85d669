import json
import re
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from dmq import jsonio
from dmq.errors import DmqError
from dmq.recipe import (
    MAX_PROMPT,
    Activations,
    BlockReconstruction,
    Cache,
    Comparison,
    ManualGroups,
    MinMax,
    OptimalGroups,
    Override,
    PerChannel,
    PerGroup,
    Recipe,
    Sampling,
    Temporal,
    Tiar,
    Weights,
)
from dmq.store import folders, runs


RICH = Recipe(
    name="all at once",
    model="emoji-ddpm",
    sampling=Sampling(steps=100, guidance=0.0),
    weights=Weights(bits=4, granularity=PerGroup(size=16), range=MinMax()),
    activations=Activations(bits=6, attention_bits=8, granularity=PerChannel(), range=MinMax()),
    grouping=ManualGroups(boundaries=(10, 99)),
    overrides=(
        Override(layers="*.conv1", weight_bits=8),
        Override(layers="conv_in", activation_bits=8),
    ),
    unknown_timestep="nearest",
)


TIMED = Recipe(
    temporal=Temporal(rounding=Tiar(iterations=9), fsc="tib", cache=Cache(bits=5, selection="row"))
)
BLOCKS = Recipe(reconstruction=BlockReconstruction(iterations=9, time=True))

RECIPES = {
    "timed": TIMED,
    "blocks": BLOCKS,
    "default": Recipe(),
    "kind": Recipe(grouping=OptimalGroups(count=3)),
    "rich": RICH,
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("short", [False, True], ids=["file", "link"])
def test_a_recipe_survives_json(recipe, short):
    assert jsonio.loads(jsonio.dumps(recipe, short=short)) == recipe


def test_a_link_holds_only_what_differs():
    assert json.loads(jsonio.dumps(Recipe(model="x"), short=True)) == {
        "kind": "Recipe",
        "model": "x",
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"grouping": {"kind": "OptimalGroups", "cuont": 4}},
            "recipe.grouping.cuont: unknown name 'cuont', did you mean 'count'?",
        ),
        (
            {"grouping": {"kind": "Optimal"}},
            "recipe.grouping.kind: unknown name 'Optimal', did you mean 'OptimalGroups'?",
        ),
        ({"wieghts": {}}, "recipe.wieghts: unknown name 'wieghts', did you mean 'weights'?"),
        (
            {"weights": {"bits": 99}},
            "recipe.weights: bits is 99, not one of 2, 3, 4, 5, 6, 7, 8, 10, 16, 32.",
        ),
        ({"weights": {"bits": "8"}}, "recipe.weights.bits: expected int, got '8'."),
        ({"weights": {"bits": True}}, "recipe.weights.bits: expected int, got True."),
        (
            {"grouping": {"kind": "ManualGroups", "boundaries": [5, 3]}},
            "recipe.grouping: boundaries must rise strictly and start above 0, got [5, 3].",
        ),
        (
            {"grouping": {"kind": "ManualGroups", "boundaries": [0, 3]}},
            "recipe.grouping: boundaries must rise strictly and start above 0, got [0, 3].",
        ),
        (
            {"grouping": {"kind": "ManualGroups", "boundaries": [10, 50]}},
            "recipe: grouping.boundaries must lie in 1 to 49 for 50 steps, got [10, 50].",
        ),
        (
            {"overrides": [{"weight_bits": 4}]},
            "recipe.overrides[0].layers: missing; every Override needs it.",
        ),
        (
            {"overrides": [{"layers": "*", "weight_bits": 9}]},
            "recipe.overrides[0]: weight_bits is 9, not one of 2, 3, 4, 5, 6, 7, 8, 10, 16, 32.",
        ),
        ({"sampling": {"steps": 0}}, "recipe.sampling: steps is 0, outside 1 to 1000."),
        (
            {"calibration": {"prompts": ["a", " "]}},
            "recipe.calibration: a prompt is empty; write what to generate.",
        ),
        (
            {"activations": {"granularity": {"kind": "PerChannel"}}},
            "recipe.activations: per-channel activations need range MinMax: histograms are kept "
            "per tensor.",
        ),
        (
            {"temporal": {"cache": {"kind": "Cache", "bits": 3}}},
            "recipe.temporal.cache: bits is 3, outside 4 to 16.",
        ),
        (
            {"reconstruction": {"time": True}, "temporal": {}},
            "recipe: reconstruction.time would learn the time embedding's rounding with the blocks, "
            "temporal keeps it apart; "
            "set reconstruction.time to false, or temporal to null.",
        ),
        (
            {"temporal": {"fsc": "some"}},
            "recipe.temporal: fsc is 'some', not one of none, tib, all.",
        ),
        (
            {"temporal": {"fsc": "all"}, "grouping": {"kind": "UniformGroups"}},
            "recipe: temporal.fsc 'all' gives every activation a range per step, grouping is "
            "UniformGroups; set grouping to SharedRange or PerStep, or fsc to 'tib'.",
        ),
        (
            {"unknown_timestep": "guess"},
            "recipe: unknown_timestep is 'guess', not one of error, nearest.",
        ),
        (
            {"version": 2},
            "recipe: version is 2; this dmq reads version 1. Update dmq or start anew.",
        ),
        ([], "recipe: expected Recipe, got []."),
        ({"kind": ["x"]}, "recipe.kind: unknown name ['x']."),
    ],
)
def test_errors_say_where_and_what(data, message):
    with pytest.raises(DmqError) as caught:
        jsonio.loads(json.dumps(data))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "this is no JSON"),
        ("[" * 100_000, "this is no JSON"),
        (" " * 1_000_001, "at most 1000000 are read"),
    ],
    ids=["cut", "deep", "long"],
)
def test_what_is_no_json_is_one_line(text, says):
    with pytest.raises(DmqError, match=says) as caught:
        jsonio.loads(text)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DmqError, match=re.escape(str(tmp_path / "no.json"))):
        jsonio.read(tmp_path / "no.json")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"prompts": ("",)}, "a prompt is empty"),
        ({"prompts": ("x" * 10_000,)}, f"10000 characters; at most {MAX_PROMPT}"),
        ({"seeds": ()}, "at least one prompt and one seed"),
        ({"seeds": (-1,)}, "whole numbers from 0"),
    ],
    ids=["empty", "long", "no-seed", "negative"],
)
def test_a_comparison_refuses(fields, says):
    with pytest.raises(DmqError, match=says):
        Comparison(**fields)


def test_an_override_matches_by_glob():
    rule = Override(layers="down_blocks.*.to_q", weight_bits=4)
    assert rule.matches("down_blocks.0.attn1.to_q")
    assert not rule.matches("up_blocks.0.attn1.to_q")


def test_every_recipe_that_ships_is_read_and_named_once():
    files = list((folders.ASSETS / "recipes").glob("*.json"))
    assert len(runs.shipped_recipes()) == len(files) >= 10


@dataclass(frozen=True, kw_only=True)
class Renamed:
    """Was called Before, its field `size` was `weight`, its choice "image" was "image"."""

    was: ClassVar[str] = "Before"
    size: int = field(default=1, metadata={"was": "weight"})
    of: str = field(default="noise", metadata={"was_choices": {"image": "image"}})


@dataclass(frozen=True, kw_only=True)
class Holder:
    held: Renamed | None = None


def test_names_of_before_are_read_and_todays_written():
    now = Renamed(size=3, of="image")
    written = {"kind": "Renamed", "size": 3, "of": "image"}
    assert jsonio.to_data(now) == jsonio.to_minimal_data(now) == written
    for data in (written, {"kind": "Before", "weight": 3, "of": "image"}):
        assert jsonio.from_data(Renamed, data) == now
        assert jsonio.from_data(Holder, {"held": data}) == Holder(held=now)


def test_keys_keep_the_first_names():
    now = Holder(held=Renamed(size=3, of="image"))
    first = {"kind": "Before", "weight": 3, "of": "image"}
    assert jsonio.key_data(now) == {"kind": "Holder", "held": first}
    assert jsonio.to_data(now, as_key=True) == {"kind": "Holder", "held": first}
    assert jsonio.to_data(Renamed(), as_key=True) == {
        "kind": "Before",
        "weight": 1,
        "of": "noise",
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"size": 1, "weight": 2}, "recipe.weight: there is size too; that is its name now"),
        ({"weihgt": 2}, "recipe.weihgt: unknown name 'weihgt'"),
        ({"of": ["image"]}, r"recipe.of: expected str, got \['image'\]"),
        ({"kind": "Befor"}, "recipe.kind: unknown name 'Befor', did you mean 'Before'"),
    ],
)
def test_wrong_names_beside_those_of_before(data, message):
    with pytest.raises(DmqError, match=message):
        jsonio.from_data(Renamed, data)
