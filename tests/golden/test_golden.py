"""Recipes that ship become what they became: the folders that they stand on, and the plans of some
of them.

The table is what `python -m tools.golden tests/golden/plans.json --portable` writes. Who changes it
on purpose writes it anew, and says in the commit why; `python -m tools.golden --compare FILE`
compares all of it, and the codes too."""

import json
from pathlib import Path

import pytest

from tools import golden


TABLE = json.loads((Path(__file__).parent / "plans.json").read_text("utf-8"))
CASES = dict(golden.shipped_cases())
# One of each kind: fixed groups, cuts by layer, attention, a search, learned codes, a mix, windows,
# a time embedding.
PLANNED = (
    "emoji-ddpm W8A6, 8 equal groups",
    "emoji-ddpm TFM W4A8, cache and selection",
    "emoji-dit ADP-DM W6A6",
    "emoji-dit BRECQ W4A8",
    "emoji-dit SVDQuant W4A8",
    "emoji-dit Qua2SeDiMo W3.7A8",
    "emoji-dit PCR W4A8",
)


@pytest.fixture(autouse=True)
def empty_runs(tmp_path, monkeypatch):
    """Only what ships counts."""
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path / "runs"))


def test_the_table_knows_every_case():
    assert [*TABLE] == [*CASES]


@pytest.mark.parametrize("model", golden.EMBEDDED)
def test_folders_are_found_under_the_same_names(model):
    for name, recipe in CASES.items():
        if name.startswith(f"{model} "):
            assert (
                golden.differences(TABLE[name]["folders"], golden.portable_folders(recipe), name)
                == []
            )


@pytest.mark.parametrize("name", PLANNED)
def test_plans_are_the_same(name):
    assert golden.differences(TABLE[name]["plan"], golden.portable_plan(CASES[name]), name) == []


def test_every_difference_is_found():
    before = {"a": {"scale_sum": 2.0, "bytes": 3}, "b": [1, 2]}
    assert golden.differences(before, {"a": {"scale_sum": 2.00001, "bytes": 3}, "b": [1, 2]}) == []
    after = {"a": {"scale_sum": 2.001, "bytes": 4}, "c": 1}
    assert golden.differences(before, after) == [
        "/a/scale_sum: 2.0 before, 2.001 after",
        "/a/bytes: 3 before, 4 after",
        "/b: [1, 2] before, nothing after",
        "/c: nothing before, 1 after",
    ]


def test_what_does_not_ship_is_named(monkeypatch, tmp_path):
    (tmp_path / "assets").mkdir()
    monkeypatch.setattr(golden.folders, "ASSETS", tmp_path / "assets")
    recipe = CASES["emoji-ddpm W8A6, 8 equal groups"]
    assert golden.answer_folders(recipe)["capture"].endswith(" (not shipped)")
    assert golden.planned(recipe)["missing"].startswith(
        "missing: nothing captured yet for emoji-ddpm with 100 steps"
    )
