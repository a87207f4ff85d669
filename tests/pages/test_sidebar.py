"""The handlers of the sidebar, called as functions."""

import dataclasses

import pytest

from dmq import jsonio
from dmq.describe import describe_plan, describe_recipe, short_name
from dmq.errors import DmqError
from dmq.recipe import KMeans
from dmq.workflow.answers import get_plan
from pages import sidebar


def test_another_model_keeps_the_recipe_and_takes_its_sampling(text, recipe, tmp_path):
    with pytest.raises(DmqError, match="no model named"):
        sidebar.choose_model(text, " ")
    with pytest.raises(DmqError):
        sidebar.choose_model(text, str(tmp_path))
    answer = sidebar.choose_model(
        jsonio.dumps(dataclasses.replace(recipe, model="gone")), recipe.model
    )
    assert jsonio.loads(answer["recipe"]) == recipe


def test_a_control_changes_its_field_and_nothing_else(text, recipe):
    paths = ["weights.bits", "activations.bits"]
    made = jsonio.loads(sidebar.edit(paths, text, 4, 6)["recipe"])
    assert made == dataclasses.replace(
        recipe, name="W4A6 2 equal groups", weights=dataclasses.replace(recipe.weights, bits=4)
    )
    assert sidebar.edit(paths, text, recipe.weights.bits, 6) == {}
    split = jsonio.loads(sidebar.edit(["split_shortcuts"], text, True)["recipe"])
    assert split == dataclasses.replace(
        recipe, name=f"{short_name(recipe)}, split", split_shortcuts=True
    )
    assert (
        sidebar.refresh(["split_shortcuts"], jsonio.dumps(split), "start")["form split_shortcuts"]
        is True
    )
    assert "Shortcuts have scales of their own." in describe_recipe(split)


def test_formats_and_ranges_as_they_come_are_chosen_in_the_sidebar(text, recipe):
    chosen = {
        "weights.bits": 4,
        "weights.format.kind": "KMeans",
        "weights.format.KMeans.shared": "tensor",
        "weights.format.KMeans.iterations": 3,
        "weights.format.KMeans.table": 16,
        "activations.dynamic": "sample",
    }
    made = jsonio.loads(sidebar.edit([*chosen], text, *chosen.values())["recipe"])
    assert made.weights == dataclasses.replace(
        recipe.weights, bits=4, format=KMeans(shared="tensor", iterations=3)
    )
    assert (made.name, made.activations.dynamic) == ("KMA-4 A6 per sample", "sample")
    assert sidebar.list_form_values(made, [*chosen]) == chosen
    table, plan = sidebar.open_layers(jsonio.dumps(made))["layers"], get_plan(made)
    row = next(
        row
        for row, planned in zip(table, plan.layers, strict=False)
        if planned.format == "KMA-4 A6"
    )
    assert row[1:3] == ["KMA-4", "6 bit per sample"] and row[4] == "k-means"
    with pytest.raises(DmqError, match="format KMeans has at most 8"):
        sidebar.edit([*chosen], text, 16, *[*chosen.values()][1:])


def test_the_sidebar_says_size_and_coverage(text, recipe):
    plan, shown = get_plan(recipe), sidebar.weigh(text, False)
    assert f"<b>{plan.bytes / 1e6:.1f} MB</b> of {plan.float_bytes / 1e6:.1f} MB" in shown["size"]
    assert shown["coverage"] == describe_plan(plan)
    assert "layers" not in shown  # nothing is sent for a table that nobody sees
    assert jsonio.read(sidebar.refresh([], text, "start")["download"]) == recipe


def test_the_open_table_says_what_every_layer_gets(text, recipe):
    plan, rows = get_plan(recipe), sidebar.open_layers(text)["layers"]
    assert [row[0] for row in rows] == [row.layer.name for row in plan.layers]
    first = next(row for row in plan.layers if row.reason == "first layer")
    assert [
        "conv_in",
        "float",
        "float",
        0,
        "",
        "first layer",
        first.weight_bytes + first.bias_bytes,
    ] in rows
    assert {tuple(row[1:4]) for row in rows if row[5] == ""} == {("8 bit", "6 bit", 2)}
    assert sidebar.weigh(text, True)["layers"] == rows
    assert sidebar.close_layers() == {"is_open": False, "layers": []}


def test_without_statistics_the_table_of_layers_is_empty_and_the_sidebar_says_why(recipe):
    other = dataclasses.replace(
        recipe, calibration=dataclasses.replace(recipe.calibration, seed=77)
    )
    shown = sidebar.open_layers(jsonio.dumps(other))
    assert shown["layers"] == [] and "nothing captured yet" in shown["size"]


def test_names_cannot_bring_html_into_the_page(recipe):
    nasty = dataclasses.replace(recipe, name="<img src=x onerror=alert(1)>")
    assert "<img" not in sidebar.refresh([], jsonio.dumps(nasty), "start")["description"]
