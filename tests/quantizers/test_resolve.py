"""Formats and bits of layers, found without statistics."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dmq.artifacts.model_info import get_info_for
from dmq.artifacts.of_recipe import ask_layer_codes
from dmq.errors import DmqError
from dmq.quantizers.plan import vector_format
from dmq.quantizers.resolve import resolve, resolve_operands
from dmq.quantizers.weights import weight_bytes
from dmq.recipe import FLOAT, Activations, KMeans, LowRank, Override, Recipe, Weights
from dmq.results import PlannedLayer, Site
from dmq.workflow.answers import allocate_bits
from tools import golden


PLANS = json.loads((Path(golden.__file__).parents[1] / "tests/golden/plans.json").read_text())
CASES = dict(golden.shipped_cases())


def resolved_row(layer, recipe, made, learned):
    vectors = FLOAT if recipe.protection.norms_and_biases else recipe.weights.bits
    bias = weight_bytes(layer.shape[:1], vector_format(recipe.weights, vectors))
    row = PlannedLayer(
        layer=layer,
        weights=made.weights,
        activation_bits=made.activation_bits,
        reason=made.reason,
        bank=None,
        weight_bytes=weight_bytes(layer.shape, made.weights, made.split),
        bias_bytes=bias if layer.bias else 0,
        split=made.split,
        learned=learned.get(layer.name, ""),
    )
    return f"{layer.name} {golden.layer_line(row)}"


def test_recipes_that_ship_resolve_to_the_layers_of_their_plans(tmp_path, monkeypatch):
    """The digests in the table are of plans that were made from statistics."""
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path))
    # Learned blocks, and what a cache does to the time embedding, are not of a single layer.
    cases = {
        name: recipe
        for name, recipe in CASES.items()
        if recipe.temporal is None and recipe.reconstruction is None
    }
    assert len(cases) > 50
    for name, recipe in cases.items():
        how = {
            task.layer: "GPTQ" if task.inputs is None else "low rank, smoothed"
            for task in ask_layer_codes(allocate_bits(recipe))
        }
        info, recipe = get_info_for(recipe), allocate_bits(recipe)
        made = resolve(info, recipe)
        lines = [resolved_row(row, recipe, made[row.name], how) for row in info.layers]
        assert golden.digest(lines) == PLANS[name]["plan"]["formats"], name


def test_a_layer_that_is_never_called_stays_in_float(sd):
    name = sd.info.layers[3].name
    idle = tuple(replace(row, macs=0 if row.name == name else row.macs) for row in sd.info.layers)
    made = resolve(replace(sd.info, layers=idle), sd.recipe())
    assert [n for n, row in made.items() if row.reason == "never called"] == [name]
    assert made[name].weights.bits == made[name].activation_bits == FLOAT


def test_layers_whose_calls_were_not_counted_count_as_called(sd):
    uncounted = tuple(replace(row, macs=0) for row in sd.info.layers)
    assert resolve(replace(sd.info, layers=uncounted), sd.recipe()) == resolve(sd.info, sd.recipe())


@pytest.mark.parametrize(
    ("activations", "smooth"),
    [(Activations(), False), (Activations(dynamic="token"), True), (Activations(bits=FLOAT), True)],
    ids=["calibrated", "dynamic", "float"],
)
def test_inputs_are_smoothed_unless_their_ranges_are_calibrated(sd, activations, smooth):
    recipe = sd.recipe(weights=Weights(bits=4, format=LowRank()), activations=activations)
    made = resolve(sd.info, recipe)
    assert {row.weights.format.smooth for row in made.values() if row.weights.bits == 4} == {smooth}


def test_bits_that_a_format_cannot_have_are_refused_with_the_layer(sd):
    recipe = sd.recipe(
        weights=Weights(bits=4, format=KMeans()),
        overrides=(Override(layers="conv_in", weight_bits=10),),
    )
    with pytest.raises(DmqError, match=r"recipe\.overrides: conv_in: "):
        resolve(sd.info, recipe)


def test_operands_are_opened_by_a_pattern_that_matches_no_layer(sd):
    sites = [Site(name="mid.attn1", point=point, kind="attention") for point in ("q", "probs")]

    def bits(recipe):
        return list(resolve_operands(sd.info, recipe, sites).values())

    star = Override(layers="*", activation_bits=6)
    assert bits(Recipe(overrides=(star,))) == [FLOAT, FLOAT]
    opened = Activations(attention_bits=8)
    assert bits(Recipe(activations=opened, overrides=(star,))) == [6, 6]
    probs = Override(layers="*.probs", activation_bits=5)
    assert bits(Recipe(overrides=(probs,))) == [FLOAT, 5]
    assert bits(Recipe(activations=opened, overrides=(probs, star))) == [6, 6]
