"""What a recipe needs is told before it is made, made in order, and made up to a step or once
more on request.
"""

import dataclasses
import re

import pytest

from dmq import cli, jsonio
from dmq.errors import DmqError
from dmq.models.tiny import tiny_sd
from dmq.progress import run_to_end
from dmq.recipe import (
    Activations,
    BlockReconstruction,
    Calibration,
    Gptq,
    LearnedGroups,
    Override,
    Progressive,
    Recipe,
    Relaxing,
    Sampling,
    Temporal,
    Tiar,
    UniformGroups,
    Weights,
)
from dmq.workflow.answers import get_window_effects, has_capture
from dmq.workflow.steps import carry_out, list_asked, list_missing
from tests.tiny import captured_recipe, runs_in


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Captured, and nothing else to be made."""
    with runs_in(tmp_path_factory.mktemp("prepared")) as folder:
        yield captured_recipe(folder, 2)


@pytest.fixture
def whole(plain):
    """All that a recipe can ask for but a budget, small."""
    return dataclasses.replace(
        plain,
        name="whole",
        weights=Weights(bits=4),
        progressive=Progressive(),
        overrides=(Override(layers="*.ff.net.2", weight_bits=4, format=Gptq(group=0)),),
        temporal=Temporal(rounding=Tiar(iterations=4)),
        relaxing=Relaxing(where="auto", judge="fidelity", windows=2, images=1, fraction=0.5),
    )


def names(steps):
    return [step.name for step in steps]


def test_a_plain_recipe_asks_for_its_statistics_alone(plain):
    assert names(list_asked(plain)) == ["capture"] and list_missing(plain) == ()
    uncaptured = dataclasses.replace(plain, sampling=Sampling(steps=3))
    assert names(list_missing(uncaptured)) == ["capture"]


def test_all_is_missing_until_it_is_made_step_by_step(whole):
    wanted = ["capture", "weights", "time", "windows", "ranges"]
    assert names(list_asked(whole)) == wanted
    assert names(list_missing(whole)) == wanted[1:]
    run_to_end(carry_out(whole, only="time"))
    assert names(list_missing(whole)) == ["windows", "ranges"]
    assert names(list_missing(whole, "windows")) == ["windows"]
    run_to_end(carry_out(whole))
    assert list_missing(whole) == ()
    assert list(carry_out(whole)) == []  # nothing is even loaded
    before = get_window_effects(whole)
    run_to_end(carry_out(whole, only="windows", again=True))
    assert get_window_effects(whole) is not before


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ({"grouping": LearnedGroups(count=2)}, "groups"),
        ({"reconstruction": BlockReconstruction(iterations=4)}, "blocks"),
    ],
    ids=["groups", "blocks"],
)
def test_learned_things_are_missing_before_they_are_learned(plain, change, step):
    changed = dataclasses.replace(plain, **change)
    assert names(list_missing(changed)) == [step]
    never = dataclasses.replace(changed, calibration=Calibration(samples=1))
    assert names(list_missing(never)) == ["capture", step]


def test_what_a_recipe_does_not_ask_for_is_refused(plain):
    with pytest.raises(
        DmqError, match=r"^tiny needs no blocks \(rounding of the blocks\); it needs capture\.$"
    ):
        list_missing(plain, "blocks")
    with pytest.raises(
        DmqError, match="there is no step 'block' of preparing; there are capture, bits, groups"
    ):
        run_to_end(carry_out(plain, only="block"))


@pytest.fixture
def file(plain, tmp_path):
    def write(recipe):
        place = tmp_path / "r.json"
        place.write_text(jsonio.dumps(recipe), "utf-8")
        return str(place)

    return write


def test_the_command_line_tells_makes_and_refuses(plain, file, tmp_path, capsys):
    tiny_sd().save_pretrained(tmp_path / "other", safe_serialization=True)
    recipe = Recipe(
        name="new",
        model=str(tmp_path / "other"),
        sampling=Sampling(steps=2),
        activations=Activations(bits=6),
        calibration=Calibration(samples=2, prompts=("a",)),
        grouping=UniformGroups(count=2),
        temporal=Temporal(rounding=Tiar(iterations=4)),
    )
    place = file(recipe)
    assert cli.main(["prepare", place, "--dry-run"]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["step", "capture", "time"]
    assert re.search(r"missing, about \d+ s$", lines[1]) and lines[2].endswith("missing")
    assert lines[3].startswith("Capture on ") and "\ntime: told as soon as it runs.\n" in said.err
    assert not has_capture(recipe)
    assert cli.main(["prepare", place]) == 0
    assert "new: made capture, time; `dmq run` samples with it." in capsys.readouterr().out
    assert cli.main(["prepare", place]) == 0
    assert "new: all is there" in capsys.readouterr().out
    assert cli.main(["prepare", place, "--only", "time", "--again"]) == 0
    assert "new: made time" in capsys.readouterr().out
    assert cli.main(["prepare", place, "--dry-run"]) == 0
    assert capsys.readouterr().out.count("there") == 2
    for wrong, told in (
        (["--again"], "name it with --only"),
        (["--only", "windows"], "new needs no windows"),
    ):
        assert cli.main(["prepare", place, *wrong]) == 1
        assert told in capsys.readouterr().err
