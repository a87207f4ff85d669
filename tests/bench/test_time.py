"""The bench of grouping, calibration steps and the time embedding, on a tiny pipeline and a few
steps.
"""

import json
from dataclasses import replace

import numpy as np
import pytest

from bench import time as bench
from bench.timing.bars import bars
from bench.timing.candidates import candidates
from bench.timing.measure import Bench
from bench.timing.results import Results, interval
from dmq.artifacts.of_recipe import search_spec
from dmq.errors import DmqError
from dmq.evaluation import compare
from dmq.progress import run_to_end
from dmq.recipe import (
    Activations,
    Cache,
    Comparison,
    LearnedGroups,
    SharedRange,
    Temporal,
    Tiar,
    Weights,
)
from dmq.workflow.answers import get_time_errors
from tests.tiny import captured_recipe, runs_in


STEPS = 4
REDUCED = [
    "--settings",
    "W4A8",
    "--steps",
    str(STEPS),
    "--samples",
    "2",
    "--seeds",
    "2",
    "--images",
    "1",
    "--groups",
    "2",
    "--learned",
    "all",
    "--tiar-iterations",
    "30",
    "--block-iterations",
    "3",
    "--block-images",
    "1",
    "--iterations",
    "4",
    "--trajectories",
    "2",
    "--fast",
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A captured tiny pipeline; the folder that holds it."""
    with runs_in(tmp_path_factory.mktemp("tiny")) as folder:
        yield folder, captured_recipe(folder, STEPS)


@pytest.fixture(scope="module")
def measured(tiny):
    """All tables at W4A8: the file of results."""
    folder, recipe = tiny
    file = folder / "results.json"
    bench.main(["--model", recipe.model, "--out", str(file), *REDUCED])
    return file


def rows_in(file, table):
    return {
        row["name"]: row for row in json.loads(file.read_text())["rows"] if row["table"] == table
    }


def test_every_row_of_the_tables_is_there(measured):
    groupings = ["shared", "uniform 2", "learned 2", "exact 2", "k-means 2", "lloyd 2", "per step"]
    assert list(rows_in(measured, "grouping")) == groupings
    assert list(rows_in(measured, "calibration")) == [
        "all steps",
        "uniform 2",
        "normal 2",
        "active 2",
    ]
    ways = [
        "nearest",
        "blocks",
        "TIAR",
        "TIAR+FSC (tib)",
        "TIAR+FSC (all)",
        "cache 8",
        "cache 16",
        "selected",
    ]
    assert list(rows_in(measured, "time")) == ways
    assert list(rows_in(measured, "alone")) == [name for name in ways if name != "TIAR+FSC (all)"]


def test_the_dear_rows_are_only_where_they_are_wanted(tiny):
    chosen = bench.options().parse_args(["--groups", "2"])
    chosen.search = {}

    def names(table, weights, activations):
        recipe = replace(
            tiny[1],
            grouping=SharedRange(),
            weights=Weights(bits=weights),
            activations=Activations(bits=activations),
        )
        return [one.name for one in candidates(table, recipe, chosen)]

    assert "learned 2" in names("grouping", 4, 6) and "learned 2" not in names("grouping", 8, 8)
    assert "active 2" in names("calibration", 6, 6) and "active 2" not in names("calibration", 4, 8)
    assert "blocks" in names("time", 4, 8) and "blocks" not in names("time", 4, 6)
    assert names("alone", 8, 8) == []


def test_figures_are_finite_and_what_is_equal_was_measured_once(measured):
    rows = json.loads(measured.read_text())["rows"]
    figures = (
        "noise",
        "noise_interval",
        "typical",
        "psnr",
        "psnr_interval",
        "local",
        "cosine",
        "bytes",
    )
    assert np.isfinite([[row[name] for name in figures] for row in rows]).all()
    same = [
        rows_in(measured, table)[name]
        for table, name in (("grouping", "shared"), ("time", "nearest"))
    ]
    assert same[0]["took"] == same[1]["took"]
    assert rows_in(measured, "time")["TIAR"]["seconds"] > 0


def test_what_is_in_the_file_is_not_measured_again(tiny, measured, monkeypatch, capsys):
    before, model = measured.read_text(), tiny[1].model
    monkeypatch.setattr(Bench, "measure", lambda *_: pytest.fail("measured again"))
    bench.main(["--model", model, "--out", str(measured), *REDUCED])
    assert measured.read_text() == before
    assert "holds: smallest cosine with a 16-bit cache" in capsys.readouterr().out
    fewer = [*REDUCED, "--seeds", "1", "--tables", "grouping"]
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        bench.main(["--model", model, "--out", str(measured), *fewer])
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        bench.main(["--model", model, "--out", str(measured), "--again", *REDUCED])
    assert measured.read_text() == before


def test_figures_are_those_of_the_stages(tiny):
    """The shortcuts (weights searched once, features read from the model itself) change nothing."""
    recipe = replace(
        tiny[1], temporal=Temporal(rounding=Tiar(iterations=30), cache=Cache(selection="row"))
    )
    chosen = bench.options().parse_args(["--groups", "2"])
    chosen.search = {}
    made = Bench(recipe.model, recipe.sampling, recipe.calibration, 2, 1)
    candidate = next(candidates("grouping", recipe, chosen))
    found = candidate.find(recipe, {})
    row = made.measure(found.plan, found.codes)
    comparisons = [
        Comparison(prompts=(p,), seeds=(s,), sampling=recipe.sampling) for p, s in made.jobs
    ]
    reports = [run_to_end(compare.compare_images(one, (recipe,))) for one in comparisons]
    assert row["psnr"] == pytest.approx(
        np.mean([report.scores[0].psnr for report in reports]), abs=0.2
    )
    assert row["bytes"] == reports[0].bytes[recipe.name]
    assert row["cosine"] == pytest.approx(get_time_errors(recipe).cosine_after.min(), abs=1e-6)
    assert row["cosine"] < 1 - 1e-6


def test_all_searches_share_one(tiny):
    chosen = bench.options().parse_args(["--groups", "2"])
    chosen.search = {"iterations": 4}
    rows = {
        one.name: one.recipe
        for table in ("grouping", "calibration")
        for one in candidates(table, tiny[1], chosen)
    }
    specs = {search_spec(rows[name]) for name in ("learned 2", "active 2")}
    assert specs == {LearnedGroups(count=2, iterations=4)}


def rows_of(**errors):
    return [
        {"name": name, "setting": "W4A6", "model": "m", "noise": e, "typical": e}
        for name, e in errors.items()
    ]


def test_bars_fail_where_they_should():
    good = rows_of(
        **{"shared": 4.0, "uniform 8": 3.0, "learned 8": 2.0, "exact 8": 1.9, "per step": 1.0}
    )
    assert len(list(bars("grouping", good))) == 8
    assert all(holds for _, holds in bars("grouping", good))
    for name, error in {"shared": 3.0, "uniform 8": 1.9, "learned 8": 2.1, "per step": 2.5}.items():
        bad = [row | {"noise": error} if row["name"] == name else row for row in good]
        assert [holds for _, holds in bars("grouping", bad)].count(False) == 1, name
    assert not list(bars("grouping", [row | {"setting": "W4A8"} for row in good]))
    assert not list(bars("time", []))


def test_interval_is_that_of_students_t():
    assert interval(np.array([1.0])) is None
    assert interval(np.array([1.0, 3.0])) == pytest.approx(12.706, abs=1e-3)


def test_a_file_of_something_else_is_refused(tmp_path):
    file = tmp_path / "other.json"
    file.write_text('{"rows": [{}]}')
    with pytest.raises(DmqError, match="not a file of this bench"):
        Results(file)


def test_bad_settings_are_said_in_one_line(tiny):
    with pytest.raises(SystemExit, match="'W4' is no setting"):
        bench.main(["--model", tiny[1].model, "--settings", "W4"])
