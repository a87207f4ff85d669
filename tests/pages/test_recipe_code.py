"""What a recipe becomes: words, Python, commands, a link, a form - and back."""

import dataclasses
import shlex
from urllib.parse import parse_qsl

import gradio as gr
import pytest

from dmq import jsonio
from dmq import recipe as recipes
from dmq.describe import SPEC_LABELS, describe_grouping, describe_recipe, short_name
from dmq.errors import DmqError
from dmq.recipe import (
    EMBEDDED,
    FLOAT,
    Activations,
    Calibration,
    KMeans,
    LearnedGroups,
    LowRank,
    ManualGroups,
    MinMax,
    OptimalGroups,
    Override,
    Percentile,
    PerChannel,
    PerGroup,
    PerStep,
    Protection,
    Recipe,
    Sampling,
    Uaq,
    UniformGroups,
    Weights,
)
from pages import app, forms, recipe_code, session


RECIPES = {
    "default": Recipe(),
    "groups": Recipe(
        grouping=UniformGroups(count=3), weights=Weights(bits=4, granularity=PerGroup(size=16))
    ),
    "manual": Recipe(grouping=ManualGroups(boundaries=(1, 7, 30)), unknown_timestep="nearest"),
    "own cuts": Recipe(
        grouping=OptimalGroups(count=4, per_layer=True), protection=Protection(first_last=False)
    ),
    "channels": Recipe(
        activations=Activations(bits=6, granularity=PerChannel(), range=MinMax(), attention_bits=8)
    ),
    "strange": Recipe(
        name="it's “odd” & 100 %/<b>",
        model="emoji-ddpm",
        sampling=EMBEDDED["emoji-ddpm"],
        calibration=Calibration(prompts=("a 'quoted' prompt", "grinning cat"), samples=2),
        activations=Activations(range=Percentile(percent=99.5)),
        overrides=(Override(layers="mid*", weight_bits=8), Override(layers="up_blocks.0.*")),
        grouping=PerStep(),
    ),
}
RECIPES |= {
    "formats": Recipe(
        weights=Weights(bits=4, format=KMeans()),
        activations=Activations(dynamic="token", attention_bits=8),
        overrides=(
            Override(layers="mid", format=Uaq(power=2.0)),
            Override(layers="up", format=LowRank(rank=8)),
            Override(layers="down*", weight_bits=8),
        ),
    ),
    "low rank": Recipe(
        weights=Weights(bits=4, format=LowRank()), activations=Activations(dynamic="sample", bits=4)
    ),
}
each = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


@each
def test_the_python_shown_makes_the_same_recipe(recipe):
    program = recipe_code.write_python(recipe)
    defined = {}
    exec(program.partition("print(")[0], defined)
    assert defined["recipe"] == recipe


@each
def test_the_python_shown_is_a_whole_program(recipe):
    compile(recipe_code.write_python(recipe), "shown", "exec")


@each
def test_the_python_shown_says_only_what_differs_from_the_default(recipe):
    assert ("grouping=" in recipe_code.write_python(recipe)) == (
        recipe.grouping != Recipe().grouping
    )


@each
def test_commands_survive_the_shell(recipe):
    for line in recipe_code.write_commands(recipe).splitlines():
        assert shlex.split(line)[0] == "dmq"
        assert not any(part.endswith(".json") and "/" in part for part in shlex.split(line))


@each
def test_a_link_restores_recipe_and_tab(recipe):
    for tab in ("start", "time-groups"):
        params = dict(parse_qsl(session.write_query(recipe, tab)[1:]))
        assert session.parse_link(params, ["start", "time-groups"]) == (recipe, tab, "")


@pytest.mark.parametrize(
    ("former", "tab"),
    [("over-time", "error-over-time"), ("take-away", "export"), ("reconstruct", "rounding")],
)
def test_a_link_to_a_tab_of_a_former_name_opens_it(former, tab):
    assert session.parse_link({"tab": former}, list(app.TABS)) == (session.OPENING, tab, "")


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"recipe": "{"}, "recipe in the link: this is no JSON"),
        ({"recipe": '{"wieghts": {}}'}, "did you mean 'weights'"),
        ({"recipe": '{"weights": {"bits": 99}}'}, "bits is 99"),
        (
            {"recipe": '{"grouping": {"kind": "ManualGroups", "boundaries": [9, 3]}}'},
            "must rise strictly",
        ),
        (
            {"recipe": '{"grouping": {"kind": "ManualGroups", "boundaries": [90]}}'},
            "must lie in 1 to 49",
        ),
        ({"tab": "nowhere"}, "unknown name 'nowhere'"),
        ({"recipe": "9" * (jsonio.LONGEST + 1)}, "at most"),
    ],
    ids=["no json", "misspelt", "bits", "unsorted", "outside", "tab", "too long"],
)
def test_a_broken_link_is_said_in_one_line_and_the_default_is_used(params, says):
    recipe, tab, wrong = session.parse_link(params, ["start", "compare"])
    assert (recipe, tab) == (session.OPENING, "start")
    assert says in wrong and "\n" not in wrong


def test_words_say_what_matters():
    said = describe_recipe(RECIPES["channels"])
    assert "Weights 8 bits per channel" in said
    assert "activations 6 bits per channel (min–max), attention 8 bits" in said
    assert "one range for all 50 steps" in said
    assert "In float: the first and last layer and norms and biases." in said
    assert "2 overrides" in describe_recipe(RECIPES["strange"])


def test_words_say_formats_and_ranges_as_they_come():
    said = describe_recipe(RECIPES["formats"])
    assert said.startswith(
        "Weights 4 bits in codebooks per channel (k-means), activations 8 bits with the range of "
    )
    assert "each token, in convolutions of each sample, attention 8 bits. In float:" in said
    assert "group" not in said
    assert said.endswith(" 2 layers have formats of their own. 1 override for single layers.")
    patterns = (Override(layers="up*", format=Uaq()),)
    assert describe_recipe(Recipe(overrides=patterns)).endswith(
        " 1 override has a format of its own."
    )
    assert short_name(RECIPES["formats"]) == "KMC-4 A8 attention 8 per token, mixed"
    assert short_name(Recipe(weights=Weights(bits=FLOAT, format=Uaq()))) == "W32A8"


def test_low_rank_is_called_smoothed_only_where_it_can_be():
    assert "of rank 32 (SVDQuant, smoothed)" in describe_recipe(RECIPES["low rank"])
    calibrated = dataclasses.replace(RECIPES["low rank"], activations=Activations(bits=4))
    assert "of rank 32 (SVDQuant)" in describe_recipe(calibrated)
    apart = dataclasses.replace(RECIPES["low rank"], activations=Activations(bits=FLOAT))
    assert "(SVDQuant, smoothed)" in describe_recipe(apart)


def test_every_format_is_said_in_its_own_words():
    made = [Recipe(weights=Weights(bits=4, format=form)) for form in recipes.FORMATS.values()]
    for name in (describe_recipe, short_name):
        assert len({name(recipe) for recipe in made}) == len(made)


def test_recipes_that_differ_in_bits_or_groups_get_different_names():
    made = [
        Recipe(),
        Recipe(weights=Weights(bits=4)),
        *(RECIPES[name] for name in ("groups", "manual", "own cuts")),
    ]
    made += [
        Recipe(grouping=kind(count=6)) for kind in (UniformGroups, OptimalGroups, LearnedGroups)
    ]
    assert (
        len({describe_grouping(recipe) for recipe in made}) == len(made) - 1
    )  # bits alone do not change it
    made += [Recipe(engine=engine) for engine in recipes.ENGINES[1:]]
    assert "in bfloat16" in describe_recipe(made[-1]) and "Executed" not in describe_recipe(made[0])
    made += [Recipe(split_shortcuts=True)] + [
        Recipe(reconstruction=recipes.BlockReconstruction(steps=n)) for n in (0, 9)
    ]
    assert len({short_name(recipe) for recipe in made}) == len(made)


def test_file_names_hold_no_path():
    assert recipe_code.make_file_name(Recipe(name="../../etc/passwd")) == "etc-passwd.json"
    assert recipe_code.make_file_name(Recipe(name="///")) == "recipe.json"


@pytest.mark.parametrize(
    "spec", [Weights, Activations, Protection, Sampling, Calibration], ids=lambda s: s.__name__
)
@each
def test_a_form_gives_back_what_it_was_filled_with(spec, recipe):
    part = getattr(recipe, spec.__name__.lower())
    with gr.Blocks():
        made = forms.build_form(spec, "Part")
    filled = forms.list_values(part, list(made))
    values = {path: component.value for path, component in made.items()} | filled
    assert forms.make_spec(spec, values) == part


def test_a_form_has_every_field_and_every_kind():
    with gr.Blocks():
        paths = forms.build_form(Weights, "Weights").keys()
    assert {
        "bits",
        "symmetric",
        "granularity.kind",
        "granularity.PerGroup.size",
        "range.Percentile.percent",
    } <= paths
    assert {"format.kind", "format.KMeans.shared", "format.LowRank.smooth"} <= paths
    assert [*paths][-1].startswith("format.")  # what it calls "above" is above it


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"bits": 9}, "bits is 9"),
        ({"bits": None}, "expected a number"),
        ({"bits": True}, "expected a number"),
        ({"range.kind": "Magic"}, "unknown name 'Magic'"),
        ({"range.kind": "Percentile", "range.Percentile.percent": 12}, "outside 90.0 to 100.0"),
        ({"range.kind": "MseSearch", "range.MseSearch.candidates": 12.5}, "whole number"),
    ],
    ids=["outside", "nothing", "switch", "kind", "percent", "half"],
)
def test_a_form_refuses_what_a_browser_could_not_have_sent(values, says):
    with pytest.raises(DmqError, match=says):
        forms.make_spec(Weights, values, Weights())


def test_every_kind_of_the_recipe_has_a_name_for_people():
    unions = (recipes.Range, recipes.Granularity, recipes.Grouping, recipes.Format)
    assert all(kind in SPEC_LABELS for union in unions for kind in union.__args__)
