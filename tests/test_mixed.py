"""A budget as part of a recipe: measured, shared out, quantized and said, on a tiny real model."""

import dataclasses

import pytest

from dmq import cli, jsonio
from dmq.allocation import budget
from dmq.describe import describe_recipe
from dmq.errors import DmqError
from dmq.progress import run_to_end
from dmq.recipe import (
    Budget,
    Mixed,
    Override,
    Protection,
    Recipe,
    Rule,
    Sensitivity,
    Uaq,
    Weights,
    parse_format,
)
from dmq.workflow import bit_allocation
from dmq.workflow.answers import allocate_bits, get_plan, get_simulated
from dmq.workflow.steps import carry_out
from dmq.workflow.tables import find_costs
from tests.tiny import captured_recipe, runs_in


pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # in diffusers

ASK = Sensitivity(
    choices=(parse_format("UAQ-4"), parse_format("KMA-2")), how="local", steps=1, images=1
)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    with runs_in(tmp_path_factory.mktemp("mixed")) as folder:
        made = captured_recipe(folder, 2)
        asked = Mixed(by=ASK, budget=Budget(bits=3.5))
        yield dataclasses.replace(
            made, name="mixed", weights=Weights(bits=4, format=Uaq()), mixed=asked
        )


def test_it_says_what_is_missing_until_it_was_measured(mixed):
    other = dataclasses.replace(ASK, seed=1, how="fisher", probes=1)
    unknown = dataclasses.replace(mixed, mixed=dataclasses.replace(mixed.mixed, by=other))
    with pytest.raises(DmqError, match="layers were not measured yet"):
        get_plan(unknown)


def test_each_layer_gets_the_choice_of_the_budget(mixed):
    run_to_end(carry_out(mixed))
    plan = get_plan(mixed)
    rows = [row for row in plan.layers if row.layer.role not in ("first", "last")]
    table = find_costs(dataclasses.replace(mixed, mixed=None), ASK)
    table = table.only({row.layer.name for row in rows})
    wanted = budget.allocate(table, Budget(bits=3.5))
    assert {row.weights.bits for row in rows} == {2, 4}
    made = {row.layer.name: (row.weights.bits, row.weights.format) for row in rows}
    assert made == {
        name: (c.bits, c.format) for name, c in zip(wanted.layers, wanted.choices, strict=True)
    }
    assert sum(row.weight_bytes for row in rows) == wanted.bytes <= 3.5 * table.num_weights / 8
    assert [row.format for row in plan.layers if row.layer.role in ("first", "last")] == [
        "float",
        "float",
    ]
    model = get_simulated(mixed)
    for row in rows:
        values = model.get_submodule(row.layer.name).weight.unique()
        assert row.weights.bits == 4 or len(values) <= 4


def test_overrides_are_stronger_and_unprotected_layers_take_part(mixed):
    run_to_end(carry_out(mixed))
    name = get_plan(mixed).layers[3].layer.name
    own = dataclasses.replace(
        mixed, overrides=(Override(layers=name, weight_bits=8, format=Uaq()),)
    )
    assert {row.layer.name: row.weights.bits for row in get_plan(own).layers}[name] == 8
    whole = get_plan(dataclasses.replace(mixed, protection=Protection(first_last=False)))
    assert "float" not in {row.format for row in whole.layers}


def test_an_allocation_that_is_applied_takes_its_place(mixed):
    run_to_end(carry_out(mixed))
    table = find_costs(dataclasses.replace(mixed, mixed=None), ASK)
    applied = bit_allocation.apply_allocation(mixed, budget.allocate(table, Budget(bits=3.0)))
    assert applied.mixed is None
    assert allocate_bits(applied) is applied


def test_it_is_read_back_said_and_refused_in_one_line(mixed, tmp_path, capsys):
    assert jsonio.loads(jsonio.dumps(mixed)) == mixed
    assert "mixed" not in jsonio.dumps(Recipe())
    assert (
        "On average 3.5 bits a weight, shared out by sensitivities (local, noise)."
        in describe_recipe(mixed)
    )
    (tmp_path / "mixed.json").write_text(jsonio.dumps(mixed), "utf-8")
    assert cli.main(["learn", str(tmp_path / "mixed.json")]) == 0
    assert "KMA-2" in capsys.readouterr().out
    rule = Budget(bits=3.5, rules=(Rule(layers="nowhere*", choice="UAQ-4"),))
    wrong = dataclasses.replace(mixed, mixed=dataclasses.replace(mixed.mixed, budget=rule))
    with pytest.raises(DmqError, match=r"'nowhere\*' matches no layer"):
        get_plan(wrong)


def test_a_table_of_some_choices_and_of_some_layers(mixed):
    run_to_end(carry_out(mixed))
    table = find_costs(dataclasses.replace(mixed, mixed=None), ASK)
    some = table.among({"KMA-2"}).only({table.layers[2].name, table.layers[5].name})
    assert some.labels == ("KMA-2",) and [layer.name for layer in some.layers] == [
        table.layers[n].name for n in (2, 5)
    ]
    for part in ("bytes", "cost", "spread", "local", "per_step"):
        assert (
            getattr(some, part) == getattr(table, part)[[2, 5]][:, [1]]
        ).all() or part == "spread"
