"""From a recipe to scores: random mixes of a tiny real model, judged, kept, learned from and
printed.
"""

import dataclasses
import json

import numpy as np
import pytest
import torch

from dmq import cli, jsonio
from dmq.allocation import budget
from dmq.artifacts import mix_scores
from dmq.artifacts.mix_label import Mix, judge, load_real
from dmq.artifacts.of_recipe import ask_scores
from dmq.errors import DmqError
from dmq.models import libraries
from dmq.models.borrow import borrow
from dmq.models.tiny import tiny_sd
from dmq.progress import run_to_end
from dmq.quantizers.weights import quantize_weight
from dmq.recipe import (
    Calibration,
    Predictor,
    Recipe,
    Sampling,
    Uniform,
    WeightFormat,
    Weights,
    parse_format,
)
from dmq.store import folders
from dmq.store import learned as kept
from dmq.workflow.learning import learn_scores
from dmq.workflow.tables import find_scores
from tests.tiny import runs_in


CHOICES = (parse_format("UAQ-4"), parse_format("UAQ-2"))
SPEC = Predictor(
    choices=CHOICES,
    configurations=20,
    label="latent",
    images=2,
    steps=2,
    repeats=1,
    epochs=2,
    width=4,
    combinations=9,
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    with runs_in(tmp_path_factory.mktemp("predicted")) as folder:
        tiny_sd().save_pretrained(folder / "tiny-sd", safe_serialization=True)
        yield Recipe(
            name="tiny",
            model=str(folder / "tiny-sd"),
            sampling=Sampling(steps=4, guidance=2.0),
            calibration=Calibration(samples=2, batch=2, prompts=("a", "b")),
        )


@pytest.fixture(scope="module")
def answer(recipe):
    """The result, the names of the tasks that were judged before and after an interruption, and
    what was kept then.
    """
    judged, real = [], mix_scores.judge
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mix_scores, "judge", lambda task: judged.append(task.name) or real(task))
        work = learn_scores(recipe, SPEC)
        while len(judged) < 4:
            next(work)
        work.close()
        first, judged = judged, []
        patch.setattr(mix_scores, "judge", lambda task: judged.append(task.name) or real(task))
        unfinished = (
            find_scores(recipe, SPEC),
            len(list(labels_of(recipe).glob("*.json"))),
        )
        result = run_to_end(learn_scores(recipe, SPEC))
    return result, first, judged, unfinished


def labels_of(recipe):
    return folders.answer_folder(
        "labels", *mix_scores._key(ask_scores(recipe, SPEC), mix_scores._drop_unlabelled(SPEC))
    )


def test_an_interruption_loses_no_label(answer):
    _, first, after, (unfinished, labels) = answer
    assert unfinished is None and labels == len(first) == 4
    assert not set(first) & set(after) and len(first) + len(after) == 21
    assert after[-1] == "00000-again"


def test_a_mix_is_judged_again_with_other_noises(answer):
    again, first = answer[0].again[0], answer[0].labels[0]
    assert again != first and abs(again - first) < 1.5 * np.ptp(answer[0].labels)


def test_a_label_is_the_distance_of_a_model_with_these_weights(recipe, answer):
    from dmq.models.loading import sample, with_denoiser

    loaded = libraries.load(recipe.model)
    mix = answer[0].mixes[3]
    model = borrow(loaded.denoiser)
    for layer, c in zip(answer[0].layers, mix, strict=True):
        place = model.get_submodule(layer.name)
        spec = Weights(bits=CHOICES[c].bits, format=CHOICES[c].format)
        place.weight = torch.nn.Parameter(
            quantize_weight(place.weight, spec).dequantize(), requires_grad=False
        )

    def finished(denoiser):
        seen = []
        sample(
            with_denoiser(loaded, denoiser),
            loaded,
            prompts=["a", "b"],
            seeds=[0, 1],
            sampling=Sampling(steps=2, guidance=2.0),
            on_step=lambda i, t, x: seen.append(x.clone()),
        )
        return seen[-1].flatten(1).double()

    exact, made = finished(loaded.denoiser), finished(model)
    distance = ((made - exact).square().sum(1) / exact.square().sum(1)).mean().item()
    assert answer[0].labels[3] == pytest.approx(-np.log(distance), rel=1e-4)


def test_bytes_and_errors_are_those_of_the_weights(recipe, answer):
    result, model = answer[0], libraries.load(recipe.model).denoiser
    for n in (0, 7):
        weight = model.get_submodule(result.layers[n].name).weight
        for c, choice in enumerate(CHOICES):
            codes = quantize_weight(weight, Weights(bits=choice.bits, format=choice.format))
            assert result.bytes[n, c] == codes.bytes
            error = ((codes.dequantize() - weight).square().sum() / weight.square().sum()).item()
            assert result.local[n, c] == pytest.approx(error, rel=1e-4)


def test_what_was_found_is_kept_as_it_is(recipe, answer):
    result, again = answer[0], find_scores(recipe, SPEC)
    arrays = [
        f.name
        for f in dataclasses.fields(result)
        if isinstance(getattr(result, f.name), np.ndarray)
    ]
    for name in arrays:
        np.testing.assert_array_equal(getattr(again, name), getattr(result, name))
    assert [(piece.piece, piece.layers) for piece in again.pieces] == [
        (p.piece, p.layers) for p in result.pieces
    ]
    assert [one.name for one in again.predictions] == [one.name for one in result.predictions]
    assert again.layers == result.layers and again.choices == CHOICES
    assert find_scores(recipe, Predictor(choices=CHOICES)) is None


def test_scores_are_a_table_that_a_budget_takes(recipe, answer):
    from dmq.recipe import Budget

    for table in (answer[0].table(), answer[0].ridge_table()):
        allocation = budget.allocate(table, Budget(bits=3.5))
        assert len(allocation.layers) == len(answer[0].layers) and allocation.average_bits <= 3.5


@pytest.mark.parametrize("label", ["noise", "features"])
def test_the_float_model_is_better_than_any_mix(recipe, label):
    spec = Predictor(
        choices=(CHOICES[1], WeightFormat(bits=32, format=Uniform())),
        label=label,
        images=2,
        steps=2,
    )
    subject = ask_scores(recipe, spec).subject
    layers = len([layer for layer in libraries.load(recipe.model).info.layers if layer.macs])
    labels = [judge(Mix(subject, spec, n, (c,) * layers)) for n, c in enumerate((1, 0))]
    assert labels[0] == pytest.approx(-np.log(1e-12)) and labels[1] < 10


def test_a_frechet_distance_needs_images(recipe):
    spec = Predictor(label="fid_float", images=4)
    with pytest.raises(DmqError, match="FID needs at least 16 images"):
        run_to_end(learn_scores(recipe, spec))


def test_a_distance_from_real_images_needs_some(recipe):
    spec = Predictor(label="fid_reference", images=16)
    with pytest.raises(DmqError, match=r"there are no real images to compare .*tiny-sd with"):
        run_to_end(learn_scores(recipe, spec))
    assert len(load_real("emoji-sd")) > 100


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"choices": (parse_format("UAQ-4"),)}, "two choices or more"),
        ({"configurations": 30, "folds": 10}, "too few for 10 folds"),
        ({"label": "fid"}, "not one of"),
    ],
)
def test_questions_that_make_no_sense_are_refused(changes, words):
    with pytest.raises(DmqError, match=words):
        Predictor(**changes)


def test_damaged_files_are_named(recipe, tmp_path):
    (tmp_path / "00000.json").write_text("{")
    with pytest.raises(DmqError, match=r"00000\.json: damaged"):
        kept.load_label(tmp_path, "00000")
    (tmp_path / "predictor.safetensors").write_bytes(b"no")
    with pytest.raises(DmqError, match="damaged"):
        kept.load_predictor(tmp_path)


def test_the_command_prints_controls_beside_the_network(recipe, answer, tmp_path, capsys):
    file, out = tmp_path / "recipe.json", tmp_path / "out.json"
    file.write_text(jsonio.dumps(recipe))
    words = [
        "predict",
        str(file),
        "--choices",
        "UAQ-4",
        "UAQ-2",
        "--label",
        "latent",
        "--json",
        str(out),
    ]
    numbers = ("configurations", "images", "steps", "repeats", "epochs", "width", "combinations")
    words += [word for name in numbers for word in (f"--{name}", str(getattr(SPEC, name)))]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    for one in answer[0].predictions:
        assert any(
            line.startswith(one.name) and f"{one.srcc:.3f}" in line for line in said.splitlines()
        )
    assert ("a control is as good" in said) == bool(answer[0].as_good)
    assert "attn1.to_q" in said and "mid_block" in said
    data = json.loads(out.read_text())
    assert data["labels"] == answer[0].labels.tolist() and len(data["layers"]) == len(
        answer[0].layers
    )


def test_the_command_refuses_in_one_line(recipe, tmp_path, capsys):
    file = tmp_path / "recipe.json"
    file.write_text(jsonio.dumps(recipe))
    assert cli.main(["predict", str(file), "--choices", "UAQ-4", "nonsense"]) == 1
    assert capsys.readouterr().err.startswith("dmq: 'nonsense' is no choice")
