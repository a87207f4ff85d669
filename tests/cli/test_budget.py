"""From a table and a budget to a recipe, and `dmq budget`, on a tiny pipeline."""

import csv
import dataclasses
import re

import numpy as np
import pytest

from dmq import cli, jsonio
from dmq.allocation import budget
from dmq.artifacts.model_info import get_info
from dmq.errors import DmqError
from dmq.models.tiny import tiny_sd
from dmq.recipe import Budget, Override, Recipe, Rule, Uaq, Uniform, format_name, parse_format
from dmq.results import SensitivityTable
from dmq.store.folders import home
from dmq.store.learned import save_predictor, save_table, table_folder
from dmq.workflow import bit_allocation
from tests.sensitivities import random_predictor
from tests.tiny import runs_in


LABELS = ("UAQ-4", "KMC-3", "UAQ-2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with runs_in(tmp_path_factory.mktemp("budget")) as made:
        tiny_sd().save_pretrained(made / "tiny", safe_serialization=True)
        yield made


@pytest.fixture(scope="module")
def recipe(folder):
    return Recipe(name="mine", model=str(folder / "tiny"))


@pytest.fixture(scope="module")
def table(recipe):
    known = get_info(recipe.model)
    rng = np.random.default_rng(0)
    bits = np.array([4, 3, 2])
    cost = np.exp(rng.normal(0, 2, (len(known.layers), 1))) * 4.0**-bits
    weights = np.array([[layer.num_weights] for layer in known.layers])
    return SensitivityTable(
        title="noise error, made up",
        kind="measured",
        unit="part of the noise",
        model=recipe.model,
        fingerprint=known.fingerprint,
        layers=known.layers,
        choices=tuple(map(parse_format, LABELS)),
        bytes=-(-weights * bits // 8) + 8,
        cost=cost,
        spread=cost / 10,
    )


@pytest.fixture(scope="module")
def kept(folder, table):
    place = table_folder("a made-up table")
    save_table(place, table)
    return place


@pytest.fixture
def file(folder, recipe):
    made = folder / "mine.json"
    made.write_text(jsonio.dumps(recipe), "utf-8")
    return str(made)


@pytest.fixture
def refused(capsys):
    """The one line of error of a command that must be refused."""

    def run(*words):
        assert cli.main(["budget", *map(str, words)]) == 1
        seen = capsys.readouterr()
        (line,) = seen.err.strip().splitlines()
        assert not seen.out and line.startswith("dmq: ")
        return line

    return run


# --- the stage ------------------------------------------------------------------------------------


def test_each_layer_gets_its_choice_and_nothing_else(recipe, table):
    found = budget.allocate(
        table, Budget(bits=3.3, rules=(Rule(layers="conv_in", choice="float"),))
    )
    mixed = bit_allocation.apply_allocation(recipe, found)
    assert mixed.name == f"mine, {found.average_bits:.1f} bits mixed"
    assert dataclasses.replace(mixed, name="mine", overrides=()) == recipe
    for layer, choice in zip(found.layers, found.choices, strict=True):
        (mine,) = [one for one in mixed.overrides if one.matches(layer)]
        assert (mine.weight_bits, mine.format, mine.activation_bits) == (
            choice.bits,
            choice.format,
            None,
        )
    assert jsonio.loads(jsonio.dumps(mixed)) == mixed


def test_an_earlier_allocation_is_replaced_and_other_overrides_stay(recipe, table):
    low, high = budget.limits(table)
    first, second = (budget.allocate(table, Budget(bits=None, bytes=end)) for end in (low, high))
    layer = table.layers[3].name
    own = (
        Override(layers="*.attn1.*", weight_bits=8, format=Uaq()),  # a pattern
        Override(layers=layer, weight_bits=8),  # no format: by hand
        Override(layers=layer, weight_bits=8, activation_bits=8, format=Uniform()),
    )
    once = bit_allocation.apply_allocation(dataclasses.replace(recipe, overrides=own), first)
    twice = bit_allocation.apply_allocation(once, second)
    assert twice.overrides[:3] == own and len(twice.overrides) == 3 + len(table.layers)
    assert twice == bit_allocation.apply_allocation(
        dataclasses.replace(recipe, overrides=own), second
    )
    assert once.name != twice.name == f"mine, {second.average_bits:.1f} bits mixed"


def test_names_are_taken_literally(recipe, table, monkeypatch):
    names = ("a[0].b*", "a0.b", "a?.b")
    odd = tuple(dataclasses.replace(table.layers[0], name=name) for name in names)
    known = dataclasses.replace(get_info(recipe.model), layers=odd)
    monkeypatch.setattr("dmq.workflow.bit_allocation.get_info", lambda model: known)
    found = budget.allocate(
        dataclasses.replace(
            table, layers=odd, **{n: getattr(table, n)[:3] for n in ("bytes", "cost", "spread")}
        ),
        Budget(bits=None, bytes=int(table.bytes[:3].max(1).sum())),
    )
    mixed = bit_allocation.apply_allocation(recipe, found)
    assert [[name for name in names if one.matches(name)] for one in mixed.overrides] == [
        [name] for name in names
    ]
    assert len(bit_allocation.apply_allocation(mixed, found).overrides) == 3


def test_a_table_of_another_model_is_refused(recipe, table):
    found = budget.allocate(table, Budget(bits=3.0))
    with pytest.raises(DmqError, match=r"another model than .*: its weights are others"):
        bit_allocation.apply_allocation(recipe, dataclasses.replace(found, fingerprint="other"))
    with pytest.raises(DmqError, match=r"another model than .*: it has no layer conv_out_of_it"):
        bit_allocation.apply_allocation(
            recipe, dataclasses.replace(found, layers=("conv_out_of_it", *found.layers[1:]))
        )


# --- the command ----------------------------------------------------------------------------------


def test_the_command_prints_and_writes_what_was_found(folder, file, recipe, table, kept, capsys):
    out, front = folder / "mixed.json", folder / "front.csv"
    words = [
        "--bits",
        "3.3",
        "--rule",
        "conv_in=float",
        "--rule",
        "*.attn2.*>=3",
        "--rule",
        "*.ff.*=same",
    ]
    assert (
        cli.main(["budget", table.title, file, *words, "--out", str(out), "--front", str(front)])
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    rules = (
        Rule(layers="conv_in", choice="float"),
        Rule(layers="*.attn2.*", least=3),
        Rule(layers="*.ff.*", same=True),
    )
    found = budget.allocate(table, Budget(bits=3.3, rules=rules))
    rows = [re.split(r"\s{2,}", line, maxsplit=3) for line in lines[1 : 1 + len(table.layers)]]
    assert [(row[0], row[1], row[3]) for row in rows] == list(
        zip(found.layers, map(format_name, found.choices), found.reasons, strict=True)
    )
    assert sum(int(row[2].replace(",", "")) for row in rows) == found.bytes
    assert lines[-2].startswith(
        f"{found.bytes:,} bytes, {found.average_bits:.3f} bits a weight; cost "
    )
    assert f"cost {found.cost:.6g} (part of the noise), no choice" in lines[-2]
    assert lines[-2].endswith(f" than {found.bound:.6g}")
    assert jsonio.read(out) == bit_allocation.apply_allocation(recipe, found)
    points = list(csv.DictReader(front.read_text("utf-8").splitlines()))
    wanted = budget.pareto(table, rules)
    assert [float(point["cost"]) for point in points] == [point.cost for point in wanted]
    assert (int(points[0]["bytes"]), int(points[-1]["bytes"])) == (
        wanted[0].bytes,
        wanted[-1].bytes,
    )
    assert all(
        sum(int(point[label]) for label in (*LABELS, "float")) == len(table.layers)
        for point in points
    )


def test_a_table_is_found_by_folder_name_and_title(file, table, kept, capsys):
    said = []
    for name in (str(kept), kept.name, table.title):
        assert cli.main(["budget", name, file, "--bytes", str(budget.limits(table)[1])]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2] and "UAQ-4" in said[0]


def test_what_is_wrong_is_one_line(folder, file, table, kept, refused):
    assert "no table 'nothing'" in refused("nothing", file) and table.title in refused(
        "nothing", file
    )
    assert 'write "LAYERS=UAQ-4"' in refused(kept, file, "--rule", "conv_in")
    assert 'write "LAYERS=UAQ-4"' in refused(kept, file, "--rule", "conv_in>=many")
    assert "is no choice" in refused(kept, file, "--rule", "conv_in=UAQ4")
    assert "outside 0 to 32" in refused(kept, file, "--rule", "conv_in>=64")
    assert "matches no layer" in refused(kept, file, "--rule", "conf_in=float")
    assert "below the smallest possible" in refused(kept, file, "--bits", "1")
    assert "above the largest possible" in refused(kept, file, "--bits", "9")
    assert ".json" in refused(kept, file, "--bits", "3", "--out", folder / "mixed.txt")
    assert "no folder" in refused(
        kept, file, "--bits", "3", "--front", folder / "none" / "front.csv"
    )
    assert not list(folder.glob("mixed.txt"))


def test_a_folder_of_another_model_is_refused(folder, file, table, refused):
    other = folder / "other"
    save_table(other, dataclasses.replace(table, fingerprint="other"))
    assert "of other weights" in refused(other, file, "--bits", "3")


def test_scores_of_a_predictor_are_shared_out_too(recipe, table, file, capsys):
    made = random_predictor(table)
    save_predictor(home() / "tables" / "predictor-0123456789abcdef", made)
    for name in ("op", "predictor-0123456789abcdef.op"):
        assert cli.main(["budget", name, file, "--bits", "3.3"]) == 0
        printed = capsys.readouterr().out
        found = budget.allocate(made.table("op"), Budget(bits=3.3))
        assert (
            f"{found.bytes:,} bytes, {found.average_bits:.3f} bits" in printed
            and "score (negated)" in printed
        )
