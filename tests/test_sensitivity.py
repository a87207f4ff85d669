"""Tables of sensitivity: kept, found, refused; made by the stage and printed by the command, on tiny real models."""

import dataclasses

import numpy as np
import pytest

from dmq import runs
from dmq.errors import DmqError
from dmq.recipe import choice_of
from dmq.results import Layer, ModelInfo, SensitivityTable


def made_up(model="tiny", fingerprint="0", steps=3):
    """A table of two layers, two choices and `steps` steps."""
    rng = np.random.default_rng(0)
    layers = tuple(
        Layer(name=f"blocks.{n}.fc", kind="linear", role="other", block=f"blocks.{n}", shape=(4, n + 2), bias=True)
        for n in range(2)
    )
    return SensitivityTable(
        title="noise error", kind="measured", unit="part of its power", model=model, fingerprint=fingerprint,
        layers=layers, choices=(choice_of("UAQ-3"), choice_of("KMA-2")), bytes=rng.integers(1, 99, (2, 2)),
        cost=rng.random((2, 2)), spread=np.array([[0.1, np.nan], [0.2, 0.3]]), timesteps=(901.0, 501.0, 1.0)[:steps],
        per_step=rng.random((2, 2, steps)), note="blocks.9: never called",
    )  # fmt: skip


def known(model="tiny", fingerprint="0"):
    return ModelInfo(
        name=model, pipeline="", denoiser="", adapter="", scheduler="", prompted=True, size=(8, 8), parameters=0,
        pipeline_parameters=0, layers=(), fingerprint=fingerprint,
    )  # fmt: skip


def same(a, b):
    for f in dataclasses.fields(a):
        x, y = getattr(a, f.name), getattr(b, f.name)
        assert np.array_equal(x, y, equal_nan=True) if isinstance(x, np.ndarray) else x == y, f.name


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


# --- kept and found ------------------------------------------------------------------------------------------------


def test_a_table_survives_saving_exactly(home):
    folder = runs.table_folder("a", {"b": 1})
    assert folder.parent == home / "tables"
    runs.save_table(folder, made_up())
    same(runs.load_table(folder, known()), made_up())
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_table_of_another_model_is_refused_by_name(home):
    folder = runs.table_folder("a")
    runs.save_table(folder, made_up())
    with pytest.raises(DmqError, match="a table of 'tiny', not of 'emoji-sd'"):
        runs.load_table(folder, known("emoji-sd", "1"))
    with pytest.raises(DmqError, match="of other weights of 'tiny'"):
        runs.load_table(folder, known(fingerprint="1"))


def test_tables_are_found_by_model_and_weights_newest_first(home, monkeypatch, tmp_path):
    monkeypatch.setattr(runs.folders, "ASSETS", tmp_path / "assets")
    for n, (model, fingerprint) in enumerate([("tiny", "0"), ("tiny", "1"), ("other", "2")]):
        runs.save_table(runs.table_folder(n), made_up(model, fingerprint))
    shipped = tmp_path / "assets" / "runs" / "sensitivity-shipped"
    runs.save_table(shipped, made_up())
    hidden = tmp_path / "assets" / "runs" / runs.table_folder(0).name
    runs.save_table(hidden, made_up())
    assert runs.find_tables("tiny") == [runs.table_folder(1), runs.table_folder(0), shipped]
    assert runs.find_tables(fingerprint="2") == [runs.table_folder(2)]
    (runs.table_folder(1) / "table.safetensors").write_bytes(b"damaged")
    assert runs.find_tables("tiny") == [runs.table_folder(0), shipped]


def test_what_ships_is_used_unless_there_is_an_own_one(home, monkeypatch, tmp_path):
    monkeypatch.setattr(runs.folders, "ASSETS", tmp_path / "assets")
    own = runs.table_folder("a", own=True)
    shipped = tmp_path / "assets" / "runs" / own.name
    runs.save_table(shipped, made_up())
    assert (runs.table_folder("a"), runs.table_folder("a", own=True)) == (shipped, own)
    runs.save_table(own, made_up())
    assert runs.table_folder("a") == own


def test_a_damaged_table_is_told(home):
    folder = runs.table_folder("a")
    runs.save_table(folder, dataclasses.replace(made_up(), cost=np.zeros((2, 3))))
    with pytest.raises(DmqError, match=r"damaged \(cost has shape \(2, 3\), expected \(2, 2\)\)"):
        runs.load_table(folder)
    runs.save_table(folder, dataclasses.replace(made_up(steps=3), timesteps=(1.0,)))
    with pytest.raises(DmqError, match=r"damaged.*per_step"):
        runs.load_table(folder)
    (folder / "table.safetensors").write_bytes(b"damaged")
    with pytest.raises(DmqError, match=r"damaged.*delete the folder"):
        runs.load_table(folder)
    with pytest.raises(DmqError, match="damaged"):
        runs.load_table(home / "tables" / "nowhere")


def test_parts_are_kept_one_by_one(home):
    folder = home / "tables" / "x-parts"
    assert runs.load_part(folder, "a") is None
    runs.save_part(folder, "a", {"values": np.arange(6.0).reshape(2, 3)})
    assert np.array_equal(runs.load_part(folder, "a")["values"], np.arange(6.0).reshape(2, 3))
    (folder / "a" / "part.safetensors").write_bytes(b"damaged")
    with pytest.raises(DmqError, match="damaged"):
        runs.load_part(folder, "a")


def test_tables_can_be_no_name_of_a_run(home):
    with pytest.raises(DmqError, match="cannot name a run"):
        runs.folder_of("tables")
