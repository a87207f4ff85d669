"""The nine commands, their former names, what `show` prints and what `check` verifies, on a tiny
pipeline.
"""

import dataclasses

import pytest
from PIL import Image

from dmq import cli, jsonio
from dmq.cli import show
from dmq.progress import run_to_end
from dmq.recipe import Calibration, Progressive, Temporal, Tiar
from dmq.store import captures, runs
from dmq.workflow.answers import get_statistics
from dmq.workflow.steps import carry_out
from dmq.workflow.tables import list_tables
from tests.tiny import captured_recipe, runs_in


COMMANDS = ["serve", "run", "prepare", "show", "compare", "bench", "export", "check", "doctor"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    with runs_in(tmp_path_factory.mktemp("commands")) as folder:
        made = captured_recipe(folder, steps=2)
        yield dataclasses.replace(made, temporal=Temporal(rounding=Tiar(iterations=4)))


@pytest.fixture
def file(recipe, tmp_path):
    place = tmp_path / "tiny.json"
    place.write_text(jsonio.dumps(recipe))
    return str(place)


@pytest.fixture
def said(capsys):
    """What a command prints: standard output and standard error; it ends with `code`."""

    def run(*words, code=0):
        capsys.readouterr()
        assert cli.main([*words]) == code
        return capsys.readouterr()

    return run


def test_help_lists_the_commands_and_no_former_name(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    lines = capsys.readouterr().out.partition("COMMAND\n")[2].splitlines()
    assert [line.split()[0] for line in lines if line[:5].strip()] == COMMANDS


def test_former_names_do_as_before_and_say_the_new_one(file, said):
    former = said("capture", file)
    assert former.out.strip() == str(captures.find_capture(jsonio.read(file)))
    assert former.err.splitlines() == [
        "dmq: this command is now `dmq prepare RECIPE --only capture`, and "
        "`dmq show RECIPE capture`."
    ]
    assert said("prepare", file, "--only", "capture").err == ""
    former = said("temporal", file)
    assert former.out == said("show", file, "time").out
    assert "worst cosine" in former.out


def test_every_former_name_names_commands_that_there_are():
    actions = cli.parser()._subparsers._group_actions[0].choices
    former = {name: parser.get_default("now") for name, parser in actions.items()}
    assert sorted(name for name, now in former.items() if not now) == sorted(COMMANDS)
    for now in filter(None, former.values()):
        for words in now.split("`")[1::2]:
            dmq, name, *_ = words.split()
            assert dmq == "dmq" and name in COMMANDS
            if "--only" in words:
                actions["prepare"].parse_args(words.split()[2:])
            elif "TABLE" not in words and name == "show":
                assert words.split()[-1] in show.VIEWS


def test_show_prints_what_is_known_and_says_what_is_not(recipe, file, said):
    assert said("show", file, "layers").out == said("show", file, "--layers").out
    assert f"{len(get_statistics(recipe).sites)} sites" in said("show", file, "capture").out
    for what, why in (
        ("groups", "nothing to search"),
        ("blocks", "nothing to reconstruct"),
        ("weights", "nothing to learn"),
        ("ranges", "nothing to set"),
        ("windows", "dmq "),
        ("budget", "name what it is shared out by with --table"),
    ):
        refused = said("show", file, what, code=1)
        assert why in refused.err and refused.err.count("\n") == 1 and refused.out == ""
    assert "plan is of recipes" in said("show", "no run", "plan", code=1).err


def test_tables_are_asked_shown_and_shared_out(recipe, file, tmp_path, said):
    """Runs by itself in any order: what other tests measured of the model is shown too."""
    words = ["--only", "sensitivity", "--how", "local", "--choices", "UAQ-4", "UAQ-2"]
    made = said("prepare", file, *words, "--steps", "2").out
    kept = list_tables(recipe.model)
    assert made.splitlines()[1] in said("show", file, "sensitivity").out
    shown = said("show", file, "budget", "--table", kept[0][0], "--bits", "3")
    assert shown.out == said("budget", kept[0][0], file, "--bits", "3").out
    out = said("prepare", file, "--how", "local", code=1).err
    assert "--how is for --only sensitivity or --only predictor" in out
    out = said("prepare", file, "--trajectories", "2", code=1).err
    assert "--trajectories is for --only capture" in out


def test_comparisons_along_the_steps_are_those_of_the_former_names(file, said):
    asked = ["--prompt", "a", "--seed", "3"]
    over_time = said("compare", file, "--over-time", *asked).out
    assert over_time == said("overtime", file, *asked).out and "finished error" in over_time
    amplified = said("compare", file, "--probe", "--windows", "2", "--gains", "2", *asked).out
    assert amplified == said("probe", file, "--windows", "2", "--gains", "2", *asked).out
    both = said("compare", file, "--over-time", "--probe", code=1).err
    assert "give either" in both
    assert "one of the recipes, got 2" in said("compare", file, file, "--probe", code=1).err


def test_a_run_is_verified(recipe, file, said):
    said("run", file, "--prompt", "a", "--name", "sound")
    assert (
        said("check", "sound").out == "sound: sound. A run of tiny: 1 images each, 4 on the way.\n"
    )
    image = runs.folder_of("sound") / "pictures" / "1" / "000.png"
    kept = image.read_bytes()
    image.write_bytes(kept[: len(kept) // 2])
    assert "000.png: damaged (image file is truncated)" in said("check", "sound", code=1).err
    image.unlink()
    assert "0 of 1 images of tiny are there" in said("check", "sound", code=1).err
    Image.new("RGB", (16, 16)).save(image)
    renamed = runs.folder_of("sound") / "recipe.json"
    renamed.write_text(jsonio.dumps(dataclasses.replace(recipe, name="other")))
    assert "recipes and report differ in other, tiny" in said("check", "sound", code=1).err


def test_a_recipe_is_verified(recipe, file, tmp_path, said):
    run_to_end(carry_out(recipe))
    assert said("check", file).out.startswith(f"{file}: sound. A recipe for {recipe.model}; ")
    other = dataclasses.replace(recipe, progressive=Progressive(), calibration=Calibration(seed=9))
    (tmp_path / "other.json").write_text(jsonio.dumps(other))
    lacks = said("check", str(tmp_path / "other.json")).out
    assert lacks.endswith("`dmq prepare` has still to make capture, time, ranges.\n")
    (tmp_path / "bad.json").write_text('{"weights": {"bits": 99}}')
    refused = said("check", str(tmp_path / "bad.json"), code=1).err
    assert "bits is 99" in refused and refused.count("\n") == 1


def test_a_folder_of_nothing_is_no_export(tmp_path, said):
    assert "expected a folder that `dmq export` wrote" in said("check", str(tmp_path), code=1).err
