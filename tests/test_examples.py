"""The scripts in examples/ run, with tiny settings."""

import importlib.util

import pytest

from dmq import jsonio, load_recipe
from dmq.recipe import Calibration, Sampling
from dmq.store import folders


EXAMPLES = folders.ASSETS.parent / "examples"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A file with a recipe of two steps and one image."""
    file = tmp_path_factory.mktemp("recipe") / "small.json"
    small = {"sampling": Sampling(steps=2), "calibration": Calibration(samples=1)}
    made = load_recipe("W8A8, one range", model="emoji-ddpm", name="small", **small)
    file.write_text(jsonio.dumps(made), "utf-8")
    return str(file)


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("activations", ["--recipe", "RECIPE", "--top", "2"], "widest over narrowest"),
        ("quantize_and_compare", ["RECIPE"], "small: PSNR"),
        ("export_and_load", ["FOLDER", "--recipe", "RECIPE"], "DDIMPipeline loaded"),
    ],
)
def test_example_runs(script, arguments, says, recipe, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path / "runs"))
    spec = importlib.util.spec_from_file_location(script, EXAMPLES / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(
        [{"RECIPE": recipe, "FOLDER": str(tmp_path / "out")}.get(word, word) for word in arguments]
    )
    assert says in capfd.readouterr().out


def test_every_example_is_run():
    assert sorted(file.stem for file in EXAMPLES.glob("*.py")) == [
        "activations",
        "export_and_load",
        "quantize_and_compare",
    ]
