"""The handlers of the Layers tab, called as functions, with real tables of a tiny model."""

import contextlib
import dataclasses
import glob
import html
import re
import shutil
import types

import gradio as gr
import numpy as np
import pytest

from dmq import jsonio
from dmq.allocation import budget
from dmq.errors import DmqError
from dmq.progress import Progress, run_to_end
from dmq.recipe import (
    KMeans,
    Predictor,
    Rule,
    Sensitivity,
    Uaq,
    WeightFormat,
    format_name,
    parse_format,
)
from dmq.store import learned
from dmq.workflow.answers import get_plan
from dmq.workflow.learning import learn_scores, measure_costs
from dmq.workflow.tables import compare_tables, find_costs, find_scores
from pages import job_panel
from pages.layers import budget as layers_budget
from pages.layers import handlers as layers
from pages.layers import learned_table as layers_learned
from pages.layers import new_table as layers_asked
from pages.layers import tables as layers_kept
from pages.layers.budget import CHOICE, NAME, list_rule_rows, parse_rules
from pages.layers.view import VIEWS
from tests.sensitivities import random_predictor


CHOICES = tuple(
    WeightFormat(bits=bits, format=form) for bits in (4, 2) for form in (Uaq(), KMeans())
)
ASK = Sensitivity(choices=CHOICES, how="fisher", steps=2, images=1, probes=1)
EMPTY = list_rule_rows(())
FORM = ["how", "mode", "measure", "steps", "images", "probes", "activations", "seed"]
LEARN = [
    "configurations",
    "label",
    "images",
    "steps",
    "repeats",
    "width",
    "loss",
    "epochs",
    "combinations",
]
MIXES = (20, "noise", 1, 1, 0, 4, "hybrid", 2, 9)
VIEW = ("bars", "", "weights", None)


@pytest.fixture(scope="module")
def text(recipe):
    """The recipe's JSON, once two tables of its model are kept."""
    for how in ("local", "fisher"):  # the newest one is shown first
        run_to_end(measure_costs(recipe, dataclasses.replace(ASK, how=how)))
    return jsonio.dumps(recipe)


@pytest.fixture(scope="module")
def table(recipe, text):
    return find_costs(recipe, ASK)


@pytest.fixture(scope="module")
def name(recipe, table):
    """Of the table by gradients."""
    return next(
        name
        for name, title in layers_kept.list_titles(recipe.model).items()
        if title == table.title
    )


@pytest.fixture(scope="module")
def nothing(recipe, tmp_path_factory):
    """The same for a model of which no table is kept."""
    from tests.tiny import tiny_sd

    folder = tmp_path_factory.mktemp("other")
    made = tiny_sd()
    made.unet.conv_out.bias.data += 1  # other weights: tables are found by them
    made.save_pretrained(folder, safe_serialization=True)
    return jsonio.dumps(dataclasses.replace(recipe, model=str(folder)))


def click(row):
    return types.SimpleNamespace(custom=row)


def value(update):
    return update["value"] if isinstance(update, dict) else update


def labels_of(found):
    return {row[NAME]: row[CHOICE] for row in found["layers"]}


# --- which table, which view ----------------------------------------------------------------------


def test_the_first_table_is_open_at_once_with_what_its_costs_hold_for(text, table, name):
    shown = layers.show(text, None, *VIEW, 3.5, [], EMPTY)
    assert [one for _, one in shown["name"]["choices"]] == list(
        layers_kept.list_titles(jsonio.loads(text).model)
    )
    shown = layers.show(text, name, *VIEW, 3.5, [], EMPTY)
    assert (
        shown["name"]["value"] == name
        and shown["body"]["visible"]
        and not shown["empty"]["visible"]
    )
    for said in (
        table.title,
        table.unit,
        f"{len(table.layers)} layers",
        "Seen at 2 steps",
        "UAQ-4, KMC-4",
    ):
        assert said in shown["context"]
    assert shown["allowed"]["value"] == list(table.labels)
    assert len(shown["layers"]) == len(table.layers) and not shown["reward"]["visible"]


def test_a_model_without_tables_says_what_to_do(nothing):
    shown = layers.show(nothing, "sensitivity-of-another", *VIEW, 3.5, [], EMPTY)
    assert "press **Measure**" in shown["empty"]["value"] and not shown["body"]["visible"]


@pytest.mark.parametrize("view", [view for view in VIEWS if view != "agreement"])
def test_every_view_is_drawn_with_the_controls_that_mean_something(text, table, name, view):
    shown = layers.change_view(text, name, view, "KMC-4", "bytes", None)
    assert shown["figure"]["visible"] and shown["figure"]["value"].data
    assert (
        shown["label"]["visible"] == (view in layers.AT_A_CHOICE)
        and shown["label"]["value"] == "KMC-4"
    )
    assert shown["area"]["visible"] == (view == "tree") and not shown["other"]["visible"]
    assert layers.change_view(text, name, view, "GPTQ-8", "bytes", None)["label"]["value"] == "", (
        "no choice of this table"
    )


def test_two_tables_are_compared_by_their_ranks(recipe, text, table, name):
    shown = layers.change_view(text, name, "agreement", "", "weights", None)
    other = layers_kept.find_table(recipe.model, shown["other"]["value"])
    assert other.kind == "local" and shown["other"]["visible"]
    found = compare_tables(table, other)
    said = shown["figure"]["value"].layout.title.text
    assert f"Spearman {found.spearman:.2f}, Kendall {found.kendall:.2f}, n = {found.cells}" == said


def test_what_a_view_lacks_is_said_in_its_place(text, name, table, monkeypatch):
    plain = dataclasses.replace(table, per_step=None, kind="score", note="only a <few> mixes")
    monkeypatch.setattr(layers, "find_table", lambda *_: plain)
    shown = layers.change_view(text, name, "steps", "", "weights", None)
    assert not shown["figure"]["visible"] and "does not tell steps apart" in shown["why"]["value"]
    opened = layers.open_table(text, name, *VIEW, 3.5, [], EMPTY)
    assert opened["reward"]["visible"] and "⚠ only a &lt;few&gt; mixes" in opened["context"]
    monkeypatch.setattr(layers, "list_titles", lambda _: {name: "alone"})
    assert (
        "only table of this model"
        in layers.change_view(text, name, "agreement", "", "", "x")["why"]["value"]
    )


def test_scores_of_a_predictor_are_tables_too_with_a_warning_of_what_they_mix(recipe, text, table):
    with kept_predictor(random_predictor(table)) as folder:
        titles = layers_kept.list_titles(recipe.model)
        own = {name.partition(".")[2]: name for name in titles if name.startswith(folder.name)}
        assert own.keys() == {"block", "op", "ridge"} and "20 mixes: made up" in titles[own["op"]]
        shown = layers.open_table(text, own["op"], *VIEW, 3.0, [], EMPTY)
        assert shown["reward"]["visible"] and "score (negated)" in shown["context"]
        best = layers_budget.move(text, own["op"], 3.0, list(table.labels), EMPTY)
        assert labels_of(best) == labels_of(
            layers_budget.move(text, own["ridge"], 3.0, list(table.labels), EMPTY)
        )
        assert not layers.open_table(text, own["ridge"], *VIEW, 3.0, [], EMPTY)["reward"]["visible"]
        (folder / "predictor.safetensors").write_bytes(b"broken")
        assert not any(
            name.startswith(folder.name) for name in layers_kept.list_titles(recipe.model)
        )
    with pytest.raises(DmqError, match="there is no table"):
        layers_kept.find_key(recipe.model, own["op"])


def test_tables_of_a_predictor_say_how_far_to_trust_them_and_others_do_not(text, table, name):
    found = random_predictor(table)
    with kept_predictor(found) as folder:
        for level in ("block", "op", "ridge"):
            shown = layers.open_table(text, f"{folder.name}.{level}", *VIEW, 3.0, [], EMPTY)[
                "trust"
            ]
            assert shown["visible"] and rows_in(shown["value"]) == [
                [
                    one.name,
                    *figures(one.srcc),
                    f"±{one.spread:.3f}",
                    *figures(one.partial_srcc, one.ndcg, one.tau),
                ]
                for one in found.predictions
            ]
    said = html.unescape(shown["value"])
    assert "20 random mixes of 2.50 to 3.50 bits a weight" in said and "Label: made up" in said
    assert f"deviation {found.labels.std():.3g}, of it noise {0.5 / 2**0.5:.3g}" in said
    assert (
        found.as_good == ("ridge on <choices>",)
        and "A control is as good: ridge on <choices>." in said
    )
    for other in (
        layers.open_table(text, name, *VIEW, 3.0, [], EMPTY),
        layers.show(text, name, *VIEW, 3.0, [], EMPTY),
    ):
        assert other["trust"] == {"value": "", "visible": False, "__type__": "update"}


def test_no_control_is_called_as_good_when_none_is_and_nothing_is_said_without_evidence(table):
    found = random_predictor(table)
    better = dataclasses.replace(
        found, predictions=(found.predictions[0], found.predictions[2]), again=np.zeros(0)
    )
    said = layers_learned.describe_trust(better)
    assert "as good" not in said and "of it noise –" in said
    assert (
        layers_learned.describe_trust(dataclasses.replace(found, predictions=()))
        == layers_learned.describe_trust(None)
        == ""
    )


def figures(*values):
    return [f"{value:.3f}" if np.isfinite(value) else "–" for value in values]


def rows_in(said):
    """The cells of an HTML table, without its head."""
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", said)]
    return [[html.unescape(cell) for cell in row] for row in rows if row]


@contextlib.contextmanager
def kept_predictor(found):
    """Its folder, while it is kept."""
    folder = learned.predictor_folder("predictor", "made up")
    learned.save_predictor(folder, found)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def test_a_click_shows_the_layers_choices_and_a_block_nothing(text, table, name):
    said = layers.pick(text, name, click(3))["picked"]
    assert table.layers[3].name in said
    for c, label in enumerate(table.labels):
        assert f"<td>{label}</td><td>{table.bytes[3, c]:,}</td>" in said
    assert layers.pick(text, name, click(-1)) == layers.pick(text, name, click(None)) == {}
    for row in (10_000, "3", [3], -2, True):
        with pytest.raises(DmqError, match="click again"):
            layers.pick(text, name, click(row))


@pytest.mark.parametrize("wrong", [None, "", "../../etc", "sensitivity-0"], ids=str)
def test_names_that_nobody_kept_are_refused(text, wrong):
    with pytest.raises(DmqError, match="there is no table"):
        layers.change_view(text, wrong, *VIEW)


# --- the budget -----------------------------------------------------------------------------------


def test_the_budget_buys_the_solvers_answer_and_says_what_it_takes(text, table, name):
    found = layers_budget.move(text, name, 3.0, list(table.labels), EMPTY)
    size = int(3.0 * table.num_weights / 8)
    best = budget.allocate(table, layers_budget.Budget(bits=None, bytes=size))
    assert labels_of(found) == dict(zip(best.layers, map(format_name, best.choices), strict=True))
    assert best.bytes <= size and f"**{best.bytes:,} bytes**" in found["summary"]
    assert (
        f"{best.average_bits:.2f} bits" in found["summary"] and "in all layers" in found["summary"]
    )
    star = found["front"].data[-1]
    assert (star.name, star.x[0], star.y[0]) == ("now", best.average_bits, best.cost)
    total = sum(int(row[4].replace(",", "")) for row in found["layers"])
    assert total == best.bytes
    assert [row[-1] for row in found["layers"]] == list(best.reasons)


def test_the_slider_ends_where_the_table_does(text, table, name):
    shown = layers_budget.change(text, name, 99.0, list(table.labels), EMPTY)
    low, high = (8 * size / table.num_weights for size in budget.limits(table))
    bits = shown["bits"]
    assert low - 0.01 <= bits["minimum"] <= low and high <= bits["maximum"] <= high + 0.01
    assert bits["value"] == bits["maximum"]
    for end in (bits["minimum"], bits["maximum"]):
        assert layers_budget.move(text, name, end, list(table.labels), EMPTY)["layers"]


def test_only_allowed_choices_are_used_and_one_at_least_is_needed(text, table, name):
    found = layers_budget.change(text, name, 4.0, ["KMC-4", "KMC-2"], EMPTY)
    assert set(labels_of(found).values()) <= {"KMC-4", "KMC-2"}
    said = layers_budget.change(text, name, 4.0, [], EMPTY)
    assert (
        "tick at least one" in said["summary"]
        and said["strip"] is None
        and not said["apply"]["interactive"]
    )
    shown = layers_budget.open_budget(text, name, 3.0, ["KMC-4", "HQQ-8"], EMPTY)
    assert shown["allowed"]["value"] == ["KMC-4"]


def test_rules_are_respected_even_for_choices_that_are_not_allowed(text, table, name):
    one, other = table.layers[0].name, table.layers[1].name
    rules = [
        [one, "uaq-2", None, False],
        [other, "float", "", ""],
        ["", "", None, False],
        ["*", "", "4", "false"],
    ]
    found = layers_budget.change(text, name, 3.0, ["KMC-4"], rules[:3])
    assert labels_of(found)[one] == "UAQ-2" and labels_of(found)[other] == "float"
    assert {label for layer, label in labels_of(found).items() if layer not in (one, other)} == {
        "KMC-4"
    }
    row = next(row for row in found["layers"] if row[NAME] == other)
    assert row[4] == f"{4 * table.layers[1].num_weights:,}" and row[5] == "0"
    assert (
        "needs 4 bits by '*'" in layers_budget.change(text, name, 3.0, ["KMC-4"], rules)["summary"]
    )


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (["*", "UAQ", None, False], "row 1: 'UAQ' is no choice"),
        (["*", "", "many", False], "row 1: least bits must be a number, got 'many'"),
        (["*", "", 99, False], "row 1: least is 99"),
        (["nowhere*", "UAQ-4", None, False], "'nowhere*' matches no layer"),
        (["*", "HQQ-4", None, False], "HQQ-4, which the table has not"),
    ],
)
def test_rules_that_make_no_sense_are_told_in_one_line(text, table, name, row, said):
    found = layers_budget.change(text, name, 3.0, list(table.labels), [row])
    assert said in found["summary"] and "\n" not in found["summary"] and found["layers"] == []


def test_rows_of_rules_are_read_back_and_unfinished_ones_left_out():
    rules = (Rule(layers="a*", choice="UAQ-4"), Rule(layers="b", least=3, same=True))
    assert parse_rules(list_rule_rows(rules)) == rules
    assert parse_rules([["a*", "", None, False], ["", "UAQ-4", 2, True], [], None and []][:3]) == ()
    assert parse_rules(None) == ()


@pytest.mark.parametrize("bits", [None, "3", float("nan"), True], ids=str)
def test_an_emptied_slider_is_told(text, table, name, bits):
    assert (
        "expected a number"
        in layers_budget.move(text, name, bits, list(table.labels), EMPTY)["summary"]
    )


# --- by hand --------------------------------------------------------------------------------------


def edited(found, row, label):
    rows = [list(one) for one in found["layers"]]
    rows[row][CHOICE] = label
    return rows[::-1]  # as a visitor may have sorted them


def test_a_layer_set_by_hand_keeps_its_choice_wherever_the_slider_goes(text, table, name):
    form = text, name, 3.0, list(table.labels)
    before = layers_budget.move(*form, EMPTY)
    now = before["layers"][2][CHOICE]
    other = "UAQ-2" if now != "UAQ-2" else "UAQ-4"
    found = layers_budget.edit(
        *form, EMPTY, edited(before, 2, f" {other.lower()} "), before["shown"]
    )
    layer = table.layers[2].name
    assert parse_rules(found["rules"]) == (Rule(layers=glob.escape(layer), choice=other),)
    assert labels_of(found)[layer] == other and found["layers"][2][-1] == "set by hand"
    assert "set by hand" in {part.name for part in found["strip"].data}
    size = sum(int(row[4].replace(",", "")) for row in found["layers"])
    assert f"{size:,} bytes" in found["summary"] and found["forget"]["visible"]
    for bits in (2.3, 3.7):
        moved = layers_budget.move(text, name, bits, list(table.labels), found["rules"])
        assert labels_of(moved)[layer] == other
    again = layers_budget.edit(*form, found["rules"], edited(found, 2, "float"), found["shown"])
    assert parse_rules(again["rules"]) == (Rule(layers=glob.escape(layer), choice="float"),)
    freed = layers_budget.edit(*form, again["rules"], edited(again, 2, ""), again["shown"])
    assert parse_rules(freed["rules"]) == () and labels_of(freed) == labels_of(before)


def test_giving_back_forgets_single_layers_and_keeps_other_rules(text, table, name):
    kept = Rule(layers="*", least=2)
    hand = Rule(layers=glob.escape(table.layers[1].name), choice="KMC-4")
    found = layers_budget.forget(text, name, 3.0, list(table.labels), list_rule_rows((kept, hand)))
    assert parse_rules(found["rules"]) == (kept,) and not found["forget"]["visible"]


@pytest.mark.parametrize(
    ("label", "said"),
    [("UAQ", "is no choice"), ("HQQ-4", "which the table has not"), ("<b>", "is no choice")],
)
def test_a_wrong_choice_is_told_in_one_line_and_put_back(
    text, table, name, monkeypatch, label, said
):
    told = []
    monkeypatch.setattr(gr, "Warning", told.append)
    form = text, name, 3.0, list(table.labels), EMPTY
    before = layers_budget.move(*form)
    found = layers_budget.edit(*form, edited(before, 0, label), before["shown"])
    assert found == {"layers": before["layers"]}
    (line,) = told
    assert said in line and "\n" not in line and "<b>" not in line


def test_nothing_edited_changes_nothing(text, table, name):
    form = text, name, 3.0, list(table.labels), EMPTY
    before = layers_budget.move(*form)
    assert layers_budget.edit(*form, before["layers"], before["shown"]) == {}
    stranger = [["unknown", "", "", "UAQ-2", "", "", ""], []]
    assert layers_budget.edit(*form, stranger, before["shown"]) == {"layers": before["shown"]}


def test_rows_that_are_shown_are_not_sent_again_and_old_ones_edit_nothing(text, table, name):
    form = text, name, 3.0, list(table.labels)
    before = layers_budget.move(*form, EMPTY)
    again = layers_budget.move(*form, EMPTY, before["shown"])
    assert "layers" not in again and "shown" not in again and again["summary"] == before["summary"]
    other = next(label for label in table.labels if label != before["layers"][2][CHOICE])
    rows = edited(before, 2, other)
    after = layers_budget.edit(*form, EMPTY, rows, before["shown"])
    late = layers_budget.edit(
        *form, after["rules"], rows, after["shown"]
    )  # the same edit, told a second time
    assert late == {"layers": after["shown"]}


# --- to the recipe, and new tables ----------------------------------------------------------------


def test_applied_choices_are_the_recipes_and_comparing_opens_its_tab(text, table, name):
    form = text, name, 3.0, list(table.labels), EMPTY
    found = layers_budget.compare(*form)
    made = jsonio.loads(found["recipe"])
    chosen = labels_of(layers_budget.move(*form))
    by_layer = {
        over.layers: parse_format(chosen[layer])
        for layer, over in zip(chosen, made.overrides, strict=True)
    }
    for over in made.overrides:
        assert (over.weight_bits, over.format) == (
            by_layer[over.layers].bits,
            by_layer[over.layers].format,
        )
    assert "bits mixed" in made.name and found["wanted"].startswith("compare ")
    plan = get_plan(made)
    assert (
        sum(row.weight_bytes for row in plan.layers if row.layer.name in table.row)
        == budget.allocate(
            table, layers_budget.Budget(bits=None, bytes=int(3.0 * table.num_weights / 8))
        ).bytes
    )


def test_a_form_asks_for_what_it_shows_and_hides_what_has_no_meaning():
    labels, values = ["UAQ-4", "kmc-3", "KMC-3"], ("fisher", "all_but", "text", 3, 2, 1, True, 0)
    ask = layers_asked.parse_form(FORM, labels, *values)
    assert tuple(map(format_name, ask.choices)) == ("UAQ-4", "KMC-3")
    assert (ask.how, ask.mode, ask.measure, ask.steps, ask.activations) == (
        "fisher",
        "only",
        "noise",
        3,
        False,
    )
    ask = layers_asked.parse_form(FORM, labels, "measure", *values[1:])
    assert (ask.mode, ask.measure, ask.activations) == ("all_but", "text", True)
    shown = {how: layers_asked.show_controls(how) for how in ("measure", "fisher", "local")}
    assert [shown[how]["form mode"]["visible"] for how in shown] == [True, False, False]
    assert [shown[how]["form probes"]["visible"] for how in shown] == [False, True, False]
    for wrong, said in (
        ([], "at least one choice"),
        (["UAQ"], "is no choice"),
        (["float"], "need not be measured"),
    ):
        with pytest.raises(DmqError, match=said):
            layers_asked.parse_form(FORM, wrong, *values)
    with pytest.raises(DmqError, match="expected a whole number"):
        layers_asked.parse_form(FORM, labels, "measure", "only", "noise", 2.5, 2, 1, False, 0)


def test_a_table_is_measured_with_a_bar_stopped_and_gone_on_with(recipe, text):
    values = ("measure", "only", "noise", 1, 1, 1, False, 7)
    ask = layers_asked.parse_form(FORM, ["UAQ-2"], *values)
    work = layers_asked.measure(FORM, text, ["UAQ-2"], *values)
    seen = [next(work) for _ in range(4)]
    work.close()
    assert (
        "Waiting" in seen[0]["status"]
        and seen[0]["stop"]["visible"]
        and "progressbar" in seen[-1]["status"]
    )
    assert find_costs(recipe, ask) is None
    *_, last = layers_asked.measure(FORM, text, ["UAQ-2"], *values)
    table = find_costs(recipe, ask)
    made = last["table_name"].partition(" ")[0]
    assert np.array_equal(layers_kept.find_table(recipe.model, made).cost, table.cost)
    assert last["go"]["visible"] and not last["stop"]["visible"] and "kept" in last["status"]


def test_what_fails_leaves_the_buttons_as_they_were(text, monkeypatch):
    with pytest.raises(DmqError, match="no choice"):
        list(
            layers_asked.measure(
                FORM, text, ["UAQ-99"], "fisher", "only", "noise", 1, 1, 1, False, 0
            )
        )

    def failing(*_):
        yield Progress("Ask what layers cost", 1, 2)
        raise DmqError("a worker died; run it again to go on.")

    monkeypatch.setattr("pages.layers.new_table.measure_costs", failing)
    work = layers_asked.measure(FORM, text, ["UAQ-2"], "fisher", "only", "noise", 1, 1, 1, False, 0)
    *_, last = (next(work) for _ in range(3))
    assert last["go"]["visible"] and not last["stop"]["visible"] and last["status"] == ""
    with pytest.raises(DmqError, match="a worker died"):
        next(work)


# --- learned from random mixes --------------------------------------------------------------------


def test_a_form_asks_for_a_predictor_and_keeps_defaults_of_what_it_leaves_out():
    spec = layers_learned.parse_form(LEARN, ["UAQ-4", "kmc-3", "KMC-3"], *MIXES)
    assert tuple(map(format_name, spec.choices)) == ("UAQ-4", "KMC-3")
    assert (spec.configurations, spec.label, spec.epochs, spec.width) == (20, "noise", 2, 4)
    left = [field for field in layers_learned.LEFT if field not in (*LEARN, "choices")]
    assert left and all(getattr(spec, field) == getattr(Predictor(), field) for field in left)


@pytest.mark.parametrize(
    ("labels", "changes", "said"),
    [
        ([], {}, "at least one choice"),
        (["UAQ-4"], {}, "needs two choices or more"),
        (["UAQ-4", "UAQ"], {}, "is no choice"),
        (["UAQ-4", "UAQ-2"], {"configurations": 19}, "19"),
        (["UAQ-4", "UAQ-2"], {"epochs": None}, "Epochs: expected a number"),
        (["UAQ-4", "UAQ-2"], {"label": "beauty"}, "beauty"),
    ],
)
def test_what_cannot_be_learned_is_told_in_one_line(text, labels, changes, said):
    values = (dict(zip(LEARN, MIXES, strict=True)) | changes).values()
    with pytest.raises(DmqError, match=said) as told:
        next(layers_learned.learn(LEARN, text, labels, *values))
    assert "\n" not in str(told.value)


def test_a_predictor_is_learned_with_a_bar_stopped_and_gone_on_with(recipe, text, monkeypatch):
    monkeypatch.setattr(
        job_panel, "BAR_SECONDS", -1
    )  # a bar for each mix, however fast they are judged
    labels = ["UAQ-4", "UAQ-2"]
    spec = layers_learned.parse_form(LEARN, labels, *MIXES)
    work = layers_learned.learn(LEARN, text, labels, *MIXES)
    seen = [next(work)]
    while "Judge random mixes: " not in seen[-1]["status"]:
        seen.append(next(work))
    work.close()
    assert (
        "Waiting" in seen[0]["status"]
        and seen[0]["stop"]["visible"]
        and "progressbar" in seen[-1]["status"]
    )
    done = int(re.search(r"Judge random mixes: (\d+) of 20", seen[-1]["status"])[1])
    assert done >= 1 and find_scores(recipe, spec) is None
    assert "“Learn” resumes" in layers_learned.JOB.show_stopped()["status"]
    again = learn_scores(recipe, spec)
    first = next(progress for progress in again if progress.stage == "Judge random mixes")
    again.close()
    assert first.done > done, "labels were lost"
    *_, last = layers_learned.learn(LEARN, text, labels, *MIXES)
    made, found = last["table_name"].partition(" ")[0], find_scores(recipe, spec)
    assert made.startswith("predictor-") and made.endswith(".block") and last["go"]["visible"]
    assert np.array_equal(
        layers_kept.find_table(recipe.model, made).cost, found.table("block").cost
    )
    shown = layers.show(text, made, *VIEW, 3.5, [], EMPTY)
    assert shown["name"]["value"] == made
    assert (
        shown["trust"]["value"] == layers_learned.describe_trust(found)
        and "graph network" in shown["trust"]["value"]
    )
