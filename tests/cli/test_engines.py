"""`dmq run | compare | bench --engine`, on a tiny pipeline."""

import pytest

from dmq import cli, jsonio
from dmq.store import runs
from tests.tiny import captured_recipe, runs_in


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    with runs_in(tmp_path_factory.mktemp("engines")) as folder:
        made = folder / "recipe.json"
        made.write_text(jsonio.dumps(captured_recipe(folder, steps=3)))
        yield str(made)


def test_both_engines_are_drawn_and_told_apart(file, capsys):
    assert cli.main(["run", file, "--prompt", "a", "--engine", "both", "--name", "each"]) == 0
    said = capsys.readouterr().out.splitlines()
    report = runs.load_report("each")
    for who in ("float", "tiny", "tiny, executed"):
        (line,) = (line for line in said if line.startswith(f"{who}  ") and line.endswith("×"))
        seconds = report.seconds[who]
        assert line.split()[-2:] == [f"{seconds:.1f}", f"{report.seconds['float'] / seconds:.2f}×"]
    where = said.index(next(line for line in said if line.startswith("tiny, executed: ")))
    assert said[where + 1].strip().startswith("executed: ") and "layers on " in said[where + 1]
    assert said[where - 1].strip() == "simulated"


def test_a_recipe_is_shown_with_its_engine(file, tmp_path, capsys):
    assert (
        cli.main(["compare", file, "--prompt", "a", "--engine", "executed", "--name", "fast"]) == 0
    )
    (recipe,) = runs.load_recipes("fast")
    assert (recipe.name, recipe.engine) == ("tiny, executed", "executed")
    (tmp_path / "fast.json").write_text(jsonio.dumps(recipe))
    capsys.readouterr()
    for one, engine in ((file, "simulated"), (str(tmp_path / "fast.json"), "executed")):
        assert cli.main(["show", one]) == 0
        assert capsys.readouterr().out.splitlines()[0].endswith(f"on average, {engine}")


def test_an_engine_for_no_recipe_is_refused(file, capsys):
    assert cli.main(["bench", "--name", "none", "--engine", "executed"]) == 1
    assert capsys.readouterr().err.startswith("dmq: --engine is for recipes that are named")
