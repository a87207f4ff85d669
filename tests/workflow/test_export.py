"""From a recipe to a folder for others, by Python and the command line, on a tiny pipeline."""

import dataclasses
import json

import numpy as np
import pytest
from diffusers import DiffusionPipeline

import dmq.checkpoint
from dmq.cli import main
from dmq.errors import DmqError
from dmq.models import libraries
from dmq.models.loading import sample, with_denoiser
from dmq.models.tiny import calm
from dmq.progress import run_to_end
from dmq.recipe import Activations, BlockReconstruction, MinMax, Weights
from dmq.runtime.convert import find_kernels
from dmq.store.exports import FORMS
from dmq.workflow import export
from dmq.workflow.answers import get_plan, get_simulated
from tests.machine import KERNEL
from tests.tiny import captured_recipe, runs_in


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Four bits whose rounding is learned, in two groups of steps."""
    with runs_in(tmp_path_factory.mktemp("exported")) as folder:
        made = dataclasses.replace(
            captured_recipe(folder, steps=3),
            weights=Weights(bits=4, range=MinMax()),
            reconstruction=BlockReconstruction(iterations=2, images=1),
        )
        (folder / "recipe.json").write_text(dmq.jsonio.dumps(made))
        yield made, folder


def drawn(loaded, pipe, recipe):
    return sample(pipe, loaded, prompts=["ab"], seeds=[3], sampling=recipe.sampling)[0]


def test_the_folder_draws_what_the_recipe_does_learned_codes_and_groups_included(recipe):
    recipe, folder = recipe
    work = export.write_export(recipe, folder / "out", engine="simulated")
    seen = []
    with pytest.raises(StopIteration) as end:
        while True:
            seen.append(next(work))
    made, loaded = end.value.value, libraries.load(recipe.model)
    assert {item.stage for item in seen} >= {"Write"} and seen[-1].done == seen[-1].total
    assert made.stored == get_plan(recipe).bytes == made.planned and made.files["model_index.json"]
    expected = drawn(loaded, with_denoiser(loaded, get_simulated(recipe)), recipe)
    pipe = calm(DiffusionPipeline.from_pretrained(folder / "out"))
    assert np.array_equal(drawn(loaded, pipe, recipe), expected)
    assert dmq.jsonio.read(folder / "out" / "recipe.json") == recipe


def test_half_range_weights_run_on_integer_kernels_of_every_machine_from_recipe_to_file(recipe):
    """W7A8: what processors without VNNI add up exactly is planned, counted, simulated and
    exported as such.
    """
    recipe, folder = recipe
    wanted = dataclasses.replace(
        recipe,
        name="half range",
        weights=Weights(bits=7, range=MinMax()),
        activations=Activations(bits=8),
        reconstruction=None,
    )
    made, loaded = (
        run_to_end(export.write_export(wanted, folder / "half", engine="executed")),
        libraries.load(wanted.model),
    )
    assert made.stored == get_plan(wanted).bytes == made.planned
    pipe = calm(DiffusionPipeline.from_pretrained(folder / "half"))
    assert set(find_kernels(pipe.unet).values()) == {(KERNEL, "")}
    simulated = drawn(loaded, with_denoiser(loaded, get_simulated(wanted)), wanted).astype(float)
    executed = drawn(loaded, pipe, wanted).astype(float)
    apart = np.square(executed - simulated).mean()
    assert apart < 0.05 * np.square(simulated - drawn(loaded, loaded.pipe, wanted)).mean() + 1


def test_closing_leaves_no_trace(recipe):
    recipe, folder = recipe
    before = set(folder.iterdir())
    for form in FORMS:
        work = export.write_export(recipe, folder / "never", form=form)
        while next(work).stage not in ("Write", "Quantize"):
            pass
        next(work)
        work.close()
        assert set(folder.iterdir()) == before


def test_a_folder_of_something_else_is_refused_before_any_work(recipe):
    recipe, folder = recipe
    with pytest.raises(DmqError, match="nothing was changed"):
        next(export.write_export(recipe, folder / "tiny-sd"))


def test_the_command_line(recipe, capsys):
    _, folder = recipe
    asked, out = str(folder / "recipe.json"), str(folder / "one")
    assert main(["export", asked, out, "--denoiser-only", "--engine", "simulated"]) == 0
    said = capsys.readouterr().out
    assert "together" in said and "the plan counts" in said
    assert main(["check", out]) == 0
    assert "sound. denoiser, made from" in capsys.readouterr().out
    assert main(["export", asked, str(folder / "plain"), "--form", "dequantized"]) == 0
    assert "quantization_config" not in (folder / "plain" / "unet" / "config.json").read_text()
    assert not (folder / "plain" / "unet" / "plan.json").exists()
    assert main(["check", str(folder / "plain")]) == 1
    assert "0 parts of the pipeline are quantized" in capsys.readouterr().err
    assert main(["export", asked, str(folder / "other"), "--form", "sdnq"]) == 0
    assert "codes and scales" in capsys.readouterr().out
    settings = json.loads((folder / "other" / "unet" / "config.json").read_text())[
        "quantization_config"
    ]
    assert settings["quant_method"] == "sdnq" and settings["weights_dtype"] == "uint4"


def test_progress_is_one_line_of_a_terminal_and_a_line_now_and_then_of_a_log(
    recipe, capsys, monkeypatch
):
    _, folder = recipe
    command = ["export", str(folder / "recipe.json"), str(folder / "told"), "--denoiser-only"]
    assert main(command) == 0
    assert capsys.readouterr().err == ""  # it did not take so long
    monkeypatch.setattr("dmq.cli.terminal.LOG_SECONDS", 0)
    assert main(command) == 0
    lines = capsys.readouterr().err.splitlines()
    assert (
        len(lines) > 3
        and lines[-1].startswith("Write: ")
        and not any("\r" in line for line in lines)
    )
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main(command) == 0
    said = capsys.readouterr().err
    assert "\n" not in said and said.count("\r") > 3 and said.rpartition("\r")[2] == ""


def test_a_form_that_there_is_not_is_refused_before_any_work(recipe):
    recipe, folder = recipe
    with pytest.raises(DmqError, match="not one of dmq, dequantized, sdnq"):
        next(export.write_export(recipe, folder / "never", form="gguf"))
