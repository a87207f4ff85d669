"""The handlers of the Rounding tab, called as functions, with a tiny model whose blocks are
really learned.
"""

import dataclasses

import pytest
import torch

from dmq import jsonio
from dmq.artifacts.model_info import get_temporal_block
from dmq.describe import describe_plan, describe_recipe
from dmq.errors import DmqError
from dmq.models import libraries
from dmq.progress import Progress, run_to_end
from dmq.quantizers.weights import quantize_weight
from dmq.recipe import BlockReconstruction, LearnedGroups, Temporal, Weights
from dmq.workflow.answers import get_blocks, get_plan, has_blocks
from dmq.workflow.learning import learn_blocks
from pages import recipe_code, sidebar
from pages.rounding import handlers as rounding


PATHS = ["iterations", "images", "time"]
SPEC = BlockReconstruction(iterations=6, images=1, batch=2, rate=0.03)


@pytest.fixture
def low(recipe):
    """Three bits, so that there is something to learn."""
    return dataclasses.replace(
        recipe, weights=Weights(bits=3), grouping=type(recipe.grouping)(count=1)
    )


@pytest.fixture
def wanted(low):
    return dataclasses.replace(low, reconstruction=SPEC)


@pytest.fixture
def learned(wanted):
    run_to_end(learn_blocks(wanted))
    return wanted


def last(answers):
    *_, end = answers
    return end


def test_the_form_makes_the_reconstruction_of_the_recipe(low):
    made = jsonio.loads(rounding.change(PATHS, jsonio.dumps(low), True, 6, 1, False)["recipe"])
    assert (
        made.reconstruction == BlockReconstruction(iterations=6, images=1) and "BRECQ" in made.name
    )
    other = dataclasses.replace(
        made, reconstruction=dataclasses.replace(made.reconstruction, seed=7)
    )
    kept = jsonio.loads(
        rounding.change(PATHS, jsonio.dumps(other), True, 9, 1, False)["recipe"]
    ).reconstruction
    assert (kept.seed, kept.iterations) == (7, 9), "what the form does not show stays"
    assert rounding.change(PATHS, jsonio.dumps(made), True, 6, 1, False) == {}
    assert (
        jsonio.loads(
            rounding.change(PATHS, jsonio.dumps(made), False, 6, 1, False)["recipe"]
        ).reconstruction
        is None
    )


def test_the_time_embedding_is_not_learned_twice(low):
    timed = dataclasses.replace(low, temporal=Temporal())
    with pytest.raises(DmqError, match="temporal to null"):
        rounding.change(PATHS, jsonio.dumps(timed), True, 6, 1, True)


def test_learning_is_stopped_goes_on_and_is_shown(low):
    recipe = dataclasses.replace(low, reconstruction=dataclasses.replace(SPEC, seed=4))
    text = jsonio.dumps(recipe)
    assert "press **Learn the blocks**" in last(rounding.show(PATHS, text))["empty"]["value"]
    work = rounding.learn(text)
    seen = next(answer for answer in work if "table" in answer)
    work.close()
    first = [row[0] for row in seen["table"]]
    assert first == ["down_blocks.0"] and not has_blocks(recipe)
    after = rounding.JOB.show_stopped(text)
    assert after["table"] == seen["table"] and after["learn"]["value"] == "Learn the other blocks"
    assert "Not all blocks" in after["summary"] and after["stop"]["visible"] is False
    answers = list(rounding.learn(text))
    assert "5 of" not in answers[1]["status"] and has_blocks(recipe)
    end = answers[-1]
    assert end["table"][0] == seen["table"][0] and len(end["table"]) == 5, (
        "the finished block was not learned again"
    )
    assert end["learn"]["visible"] is False and "Not all blocks" not in end["summary"]
    assert last(rounding.show(PATHS, text))["table"] == end["table"]


def test_the_table_counts_codes_as_a_comparison_with_nearest_ones_does(learned):
    floats = libraries.load(learned.model).denoiser
    result = get_blocks(learned)
    table = last(rounding.show(PATHS, jsonio.dumps(learned)))["table"]
    for block, layers, before, after, _, moved, weights, _ in table:
        names = [name for name in result.codes if name.startswith(block)]
        nearest = {
            n: quantize_weight(floats.get_submodule(n).weight, learned.weights).codes for n in names
        }
        assert layers == len(names) and int(weights.replace(",", "")) == sum(
            x.numel() for x in nearest.values()
        )
        count = sum(int(torch.ne(nearest[n], result.codes[n].codes).sum()) for n in names)
        assert int(moved.replace(",", "")) == count > 0
        assert (before, after) == (
            f"{100 * result.before[block]:.4g} %",
            f"{100 * result.after[block]:.4g} %",
        )


def test_a_failure_says_so_and_gives_its_button_back(wanted, monkeypatch):
    def fails(recipe):
        yield Progress("Reconstruct the blocks", 0, 1)
        raise DmqError("no luck")

    monkeypatch.setattr("pages.rounding.handlers.learn_blocks", fails)
    seen = []
    with pytest.raises(DmqError, match="no luck"):
        for answer in rounding.learn(jsonio.dumps(wanted)):
            seen.append(answer)
    assert seen[-1]["learn"]["visible"] is True and seen[-1]["stop"]["visible"] is False


def test_an_early_end_is_told(learned):
    result = dataclasses.replace(get_blocks(learned), note="mid_block: stopped.")
    assert "⚠ mid_block: stopped." in rounding.summarize(result, True)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"weights": Weights(bits=32)}, "nothing to round"),
        ({"reconstruction": None}, "Tick the box"),
        ({"grouping": LearnedGroups(count=2)}, "press \\*\\*Search"),
    ],
    ids=["float", "off", "no groups"],
)
def test_what_hinders_is_said(wanted, changes, why):
    (answer,) = rounding.show(PATHS, jsonio.dumps(dataclasses.replace(wanted, **changes)))
    assert why.replace("\\", "") in answer["empty"]["value"] and answer["body"]["visible"] is False


def test_coverage_says_which_codes_are_learned(learned, wanted):
    fresh = dataclasses.replace(wanted, reconstruction=dataclasses.replace(SPEC, seed=9))
    time = set(get_temporal_block(learned.model).layers)
    for recipe in (learned, fresh):
        plan = get_plan(recipe)
        column = list(sidebar.LAYERS).index("Rounding")
        table = {row[0]: row[column] for row in sidebar.list_layers(plan)}
        blocks = {name for name, how in table.items() if how == "block"}
        assert blocks == set(get_blocks(learned).codes) and not blocks & time
        assert {table[name] for name in time} == {"nearest"} and table["conv_in"] == ""
        assert f"rounding of {len(blocks)} layers learned block by block" in describe_plan(plan)
    assert "block by block" not in describe_plan(
        get_plan(dataclasses.replace(learned, reconstruction=None))
    )


def test_words_and_commands_tell_of_it(wanted):
    assert "Rounding learned block by block." in describe_recipe(wanted)
    timed = dataclasses.replace(wanted, reconstruction=dataclasses.replace(SPEC, time=True))
    assert "block by block, the time embedding too." in describe_recipe(timed)
    assert "BlockReconstruction(iterations=6" in recipe_code.write_python(wanted)


def test_step_sizes_have_a_column_and_a_sentence(learned):
    plain = get_blocks(learned)
    assert {row[4] for row in rounding.list_rows(plain)} == {"–"}
    assert "step sizes" not in rounding.summarize(plain, True)
    block = next(iter(plain.after))
    stepped = {block: plain.after[block] / 2}
    result = dataclasses.replace(plain, stepped=stepped, sizes={"a": None, "b": None})
    row = next(row for row in rounding.list_rows(result) if row[0] == block)
    assert row[4] == f"{100 * stepped[block]:.4g} %"
    assert "step sizes of 2 activations bring 1 of 1 blocks nearer" in rounding.summarize(
        result, True
    )
    figure = rounding.show_overview(result, True)["errors"]
    assert [trace["name"] for trace in traces(figure)] == [
        "nearest codes",
        "learned codes",
        "step sizes as well",
    ]
    assert len(traces(rounding.show_overview(plain, True)["errors"])) == 2


def traces(figure):
    return figure.to_plotly_json()["data"]
