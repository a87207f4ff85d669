"""Making what ships: it can be stopped and goes on, and what ships stays until all is made."""

import json

import pytest

from dmq.models import libraries
from dmq.models.tiny import tiny_sd
from dmq.progress import run_to_end
from dmq.recipe import Calibration, Recipe, Sampling
from dmq.store import folders
from dmq.store.captures import capture_key, load_stats
from dmq.workflow.answers import has_capture
from dmq.workflow.learning import capture_statistics
from training import captures


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """A stand-in for assets: a capture of earlier weights, a table of results, recipes and
    prompts.
    """
    place = tmp_path / "assets"
    for name in ("recipes", "prompts", "runs/rounding-old", "runs/bench-tiny"):
        (place / name).mkdir(parents=True)
    (place / "prompts" / "names.txt").write_text("cat\n")
    monkeypatch.setattr(folders, "ASSETS", place)
    return place


@pytest.fixture
def model(tmp_path, monkeypatch):
    tiny_sd().save_pretrained(tmp_path / "tiny", safe_serialization=True)
    monkeypatch.setattr(
        captures, "EMBEDDED", {str(tmp_path / "tiny"): Sampling(steps=2, guidance=2.0)}
    )
    return str(tmp_path / "tiny")


def recipe_of(model):
    return Recipe(
        model=model,
        sampling=Sampling(steps=2, guidance=2.0),
        calibration=Calibration(samples=2, batch=2, prompts=("a",)),
    )


def make_one(model):
    run_to_end(capture_statistics(recipe_of(model)))


def run(monkeypatch, tmp_path, *words):
    monkeypatch.setattr("sys.argv", ["captures", *words, "--work", str(tmp_path / "work")])
    return captures.main()


def ships(assets):
    return sorted(folder.name for folder in (assets / "runs").iterdir())


def test_stopped_work_leaves_what_ships_and_goes_on(assets, model, tmp_path, monkeypatch, capsys):
    def stopped(model):
        make_one(model)
        raise KeyboardInterrupt

    monkeypatch.setattr(captures, "make", stopped)
    assert run(monkeypatch, tmp_path) == 1
    assert "the same command goes on" in capsys.readouterr().err
    assert ships(assets) == ["bench-tiny", "rounding-old"] and folders.ASSETS == assets
    kept = tmp_path / "work" / "runs" / "captures" / capture_key(recipe_of(model)) / "capture.json"
    before = kept.read_bytes(), kept.stat().st_mtime_ns

    def go_on(model):
        make_one(model)
        assert (kept.read_bytes(), kept.stat().st_mtime_ns) == before, "made twice"

    monkeypatch.setattr(captures, "make", go_on)
    assert run(monkeypatch, tmp_path) == 0
    assert ships(assets) == sorted(["bench-tiny", capture_key(recipe_of(model))])
    assert not (tmp_path / "work").exists()
    made = load_stats(assets / "runs" / capture_key(recipe_of(model)))
    assert made.fingerprint == libraries.load(model).info.fingerprint


def test_what_other_weights_gave_is_not_gone_on_with(model, tmp_path):
    work = tmp_path / "work"
    captures.begin(work, [model])
    (work / "runs").mkdir()
    captures.begin(work, [model])
    assert (work / "runs").is_dir()
    file = work / "weights.json"
    file.write_text(json.dumps({model: "other", "made with it": "another"}))
    captures.begin(work, [model])
    assert not (work / "runs").exists()
    assert json.loads(file.read_text()) == {model: libraries.load(model).info.fingerprint}


@pytest.mark.parametrize("hidden", [True, False])
def test_what_ships_is_found_only_where_something_is_added_to_it(
    assets, model, tmp_path, hidden, monkeypatch
):
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path / "own"))
    recipe = recipe_of(model)
    run_to_end(capture_statistics(recipe))
    (tmp_path / "own" / "captures" / capture_key(recipe)).rename(
        assets / "runs" / capture_key(recipe)
    )
    assert has_capture(recipe)
    with captures.made_in(tmp_path / "work", hidden) as home:
        assert has_capture(recipe) != hidden
        assert folders.home() == home != tmp_path / "own"
        assert (folders.ASSETS / "prompts" / "names.txt").read_text() == "cat\n"
    assert has_capture(recipe) and folders.home() == tmp_path / "own"


def test_labels_do_not_ship_and_old_folders_are_replaced(assets, tmp_path):
    for name in (
        "tables/labels-1",
        "tables/predictor-1",
        "roundings/rounding-old",
        "roundings/.part-x",
    ):
        (tmp_path / "home" / name).mkdir(parents=True)
        (tmp_path / "home" / name / "new").touch()
    captures.ship(tmp_path / "home", assets / "runs")
    assert ships(assets) == ["bench-tiny", "predictor-1", "rounding-old"]
    assert (assets / "runs" / "rounding-old" / "new").is_file()
