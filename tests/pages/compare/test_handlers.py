"""The handlers of the Compare tab, called as functions."""

import dataclasses

import pytest

from dmq import jsonio
from dmq.errors import DmqError
from dmq.recipe import Override
from dmq.results import Coverage, Report
from dmq.store import runs
from pages.compare import handlers as compare
from pages.compare import report as reported


def test_a_drawing_streams_images_and_ends_as_a_saved_run(text):
    answers = list(compare.generate(text, "a", "0, 1", 6, 2.0, []))
    begun, *grown, done = [answer["gallery"] for answer in answers if "gallery" in answer]
    assert (begun["value"], begun["columns"]) == ([], 2)  # a row for each recipe
    assert [len(images) for images in grown] == [1, 2, 3, 4]
    assert (len(done["value"]), done["columns"]) == (4, 2)
    last = answers[-1]
    assert last["run"]["value"] in runs.names()
    assert len(last["table"]) == 2
    assert "Noise floor" in last["summary"]
    assert compare.show_pair(last["run"]["value"], 1, "tiny")["slider"][0].shape == (16, 16, 3)
    with pytest.raises(DmqError, match="not part of the run"):
        compare.show_pair(last["run"]["value"], 7, "tiny")


def test_a_failed_drawing_gives_the_buttons_back(recipe):
    wrong = dataclasses.replace(
        recipe, overrides=(Override(layers="no such layer", weight_bits=4),)
    )
    answers = []
    with pytest.raises(DmqError, match="no such layer"):
        for answer in compare.generate(jsonio.dumps(wrong), "a", "0", 6, 2.0, []):
            answers.append(answer)
    assert answers[-1]["go"]["visible"] and not answers[-1]["stop"]["visible"]


def test_an_executed_drawing_is_shown_beside_the_simulated_one_with_its_seconds(text):
    *_, last = compare.generate(text, "a", "0", 6, 2.0, [], "both")
    name = last["run"]["value"]
    report, rows = runs.load_report(name), last["summary"].splitlines()
    cells = {
        row.split(" | ")[0].strip("| "): row.split(" | ") for row in rows if row.startswith("| ")
    }
    assert [r.engine for r in runs.load_recipes(name)] == ["simulated", "executed"]
    for who, engine in (("tiny", "simulated"), ("tiny, executed", "executed: ")):
        seconds = report.seconds[who]
        assert cells[who][4:6] == [f"{seconds:.1f}", f"{report.seconds['float'] / seconds:.2f}×"]
        assert cells[who][6].startswith(engine)
    same = [score.psnr for score in report.scores]
    assert abs(same[0] - same[1]) < 1, "they differ in speed, and hardly in images"
    taken = jsonio.loads(compare.take_recipe(name, "tiny, executed")["recipe"])
    assert (taken.name, taken.engine) == ("tiny, executed", "executed")
    assert compare.show(jsonio.dumps(taken), [], "simulated")["computed"] == "executed"
    assert compare.show(text, [], "both")["computed"] == "both"


def test_what_fell_back_is_marked_with_the_reason():
    x = Coverage(
        quantized="3 of 4 layers W4A8; float: a (first layer)",
        engine="executed",
        kernels={"oneDNN int8": 1},
        fell_back={"its <b> splits": 2},
    )
    report = Report(
        scores=(),
        seconds={"float": 3.0, "x": 1.5, "y": 0.0},
        bytes={"float": 4, "x": 1, "y": 1},
        coverage={"x": x, "y": Coverage(quantized="all; float: nothing")},
        noise_floor={"psnr": 1.0, "ssim": 0.1},
        samples=20,
    )
    _, _, floats, x, y, *_ = reported.summarize(report).splitlines()
    assert floats.startswith("| float |") and "| 1.00× | float | nothing |" in floats
    assert (
        "| 1.5 | 2.00× | executed: 1 layers on oneDNN int8; ⚠ fell back: 2 in float (its &lt;b&gt; "
        "splits) |" in x
    )
    assert x.endswith("| 3 of 4 layers W4A8; float: a (first layer) |")
    assert "| 0.0 | – | simulated | all; float: nothing |" in y


@pytest.mark.parametrize(("images", "row"), [(1, 6), (2, 2), (8, 8), (9, 6)])
def test_recipes_stand_below_each_other_where_they_fit(images, row):
    assert compare.count_columns(images) == row
