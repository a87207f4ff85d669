"""The whole path on tiny real pipelines: capture, groups, plan, quantize, compare, save; from
Python and the CLI.
"""

import dataclasses
import json

import numpy as np
import pytest

from dmq import cli, jsonio
from dmq.artifacts.model_info import get_info
from dmq.describe import describe_plan, plan_rows
from dmq.errors import DmqError
from dmq.evaluation import compare
from dmq.models.loading import load
from dmq.models.tiny import tiny_ddpm, tiny_sd
from dmq.progress import GeneratedImage, Progress, run_to_end
from dmq.recipe import (
    FLOAT,
    Activations,
    Calibration,
    Comparison,
    LearnedGroups,
    ManualGroups,
    OptimalGroups,
    PerStep,
    Recipe,
    Sampling,
    Temporal,
    Tiar,
    Weights,
)
from dmq.store import captures, runs
from dmq.workflow.answers import (
    get_errors,
    get_plan,
    get_search,
    get_simulated,
    get_statistics,
    get_time_errors,
    has_capture,
)
from dmq.workflow.learning import capture_statistics


STEPS = 5


@pytest.fixture(scope="module", params=[tiny_sd, tiny_ddpm], ids=["sd", "ddpm"])
def recipe(request, tmp_path_factory):
    """A recipe for a tiny pipeline in a folder, with its capture made, in a run folder of its
    own.
    """
    folder = tmp_path_factory.mktemp("tiny")
    request.param().save_pretrained(folder / "model", safe_serialization=True)
    patch = pytest.MonkeyPatch()
    patch.setenv("DMQ_RUNS", str(folder / "runs"))
    made = Recipe(
        model=str(folder / "model"),
        sampling=Sampling(steps=STEPS, guidance=2.0),
        calibration=Calibration(samples=3, batch=2),
    )
    seen = list(capture_statistics(made))
    assert seen[-1].done == seen[-1].total
    yield made
    patch.undo()


def comparison(**changes):
    sampling = Sampling(steps=STEPS, guidance=2.0)
    return Comparison(**{"prompts": ("cat",), "seeds": (0, 1), "sampling": sampling} | changes)


def test_a_capture_is_made_once(recipe):
    assert has_capture(recipe)
    assert list(capture_statistics(recipe)) == []
    assert get_statistics(recipe).samples == 3
    assert get_statistics(recipe).steps == STEPS


def test_a_finer_partition_is_never_worse(recipe):
    recipe = dataclasses.replace(recipe, activations=Activations(bits=5))
    totals = [
        get_errors(dataclasses.replace(recipe, grouping=g)).total
        for g in (ManualGroups(), ManualGroups(boundaries=(2,)), OptimalGroups(count=2), PerStep())
    ]
    assert totals[0] >= totals[1] >= totals[2] >= totals[3] > 0
    assert totals[0] > totals[3]  # or the partition would not matter at all


def test_predicted_errors_fall_with_bits(recipe):
    totals = [
        get_errors(dataclasses.replace(recipe, activations=Activations(bits=b))).total
        for b in (3, 5, 8)
    ]
    assert totals[0] > totals[1] > totals[2] > 0


def test_the_plan_counts_what_the_model_holds(recipe):
    plan = get_plan(dataclasses.replace(recipe, weights=Weights(bits=4)))
    assert plan.float_bytes == 4 * get_info(recipe.model).parameters
    assert plan.bytes < plan.float_bytes / 3
    assert "conv_in (first layer)" in describe_plan(plan)


def test_quantizing_leaves_the_float_model_bit_exact(recipe):
    loaded = load(recipe.model)
    before = {name: p.clone() for name, p in loaded.denoiser.named_parameters()}
    model = get_simulated(
        dataclasses.replace(recipe, activations=Activations(bits=4, attention_bits=4))
    )
    assert model is not loaded.denoiser
    report = run_to_end(compare.compare_images(comparison(), (recipe,)))
    assert report.samples == 2
    assert all(p.equal(before[name]) for name, p in loaded.denoiser.named_parameters())


def test_float_as_a_recipe_draws_the_same_images(recipe):
    nothing = dataclasses.replace(
        recipe, name="nothing", weights=Weights(bits=FLOAT), activations=Activations(bits=FLOAT)
    )
    report = run_to_end(compare.compare_images(comparison(), (nothing,)))
    assert [score.psnr for score in report.scores] == [float("inf")] * 2


def test_more_bits_are_nearer_to_float(recipe):
    recipes = tuple(
        dataclasses.replace(
            recipe, name=f"W{b}A{b}", weights=Weights(bits=b), activations=Activations(bits=b)
        )
        for b in (2, 8)
    )
    report = run_to_end(compare.compare_images(comparison(), recipes))
    mean = {r.name: np.mean([s.psnr for s in report.scores if s.recipe == r.name]) for r in recipes}
    assert mean["W8A8"] > mean["W2A2"] + 3


def test_a_comparison_streams_and_is_saved(recipe):
    work, seen = compare.compare_images(comparison(), (recipe,), name="whole"), []
    report = None
    while report is None:
        try:
            seen.append(next(work))
        except StopIteration as end:
            report = end.value
    finished = [p for p in seen if isinstance(p, GeneratedImage) and p.step is None]
    assert [(p.recipe, p.seed) for p in finished] == [
        ("float", 0),
        ("float", 1),
        (recipe.name, 0),
        (recipe.name, 1),
    ]
    on_the_way = [p for p in seen if isinstance(p, GeneratedImage) and p.step is not None]
    assert {p.step for p in on_the_way} == set(range(STEPS))
    assert any(isinstance(p, Progress) and p.done == p.total for p in seen)
    assert runs.load_report("whole") == report
    assert np.array_equal(runs.load_images("whole")["float"][1], finished[1].pixels)
    assert set(runs.load_steps("whole")[recipe.name]) == {
        (n, i) for n in range(2) for i in range(STEPS)
    }
    assert report.noise_floor["psnr"] < float("inf")


def test_a_image_does_not_depend_on_its_batch(recipe):
    both, one = (
        [
            p.pixels.astype(int)
            for p in compare.compare_images(comparison(seeds=seeds), (recipe,))
            if isinstance(p, GeneratedImage) and p.recipe == "float" and p.step is None
        ]
        for seeds in ((0, 1), (1,))
    )
    assert abs(both[1] - one[0]).max() <= 1  # sums may be taken in another order
    assert abs(both[0] - one[0]).max() > 20


@pytest.mark.parametrize("after", [0, 3])
def test_closing_a_capture_leaves_nothing(recipe, tmp_path, monkeypatch, after):
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path / "other"))
    work = capture_statistics(
        dataclasses.replace(recipe, calibration=Calibration(samples=2, seed=9))
    )
    for _ in range(after + 1):
        next(work)
    work.close()
    assert not (tmp_path / "other").exists() or not list((tmp_path / "other").rglob("*"))


def test_other_steps_than_those_captured_are_refused_or_noted(recipe):
    other = comparison(sampling=Sampling(steps=STEPS + 2, guidance=2.0))
    with pytest.raises(
        DmqError, match=f"{STEPS + 2} steps, but the ranges were captured for {STEPS} steps"
    ):
        run_to_end(compare.compare_images(other, (recipe,)))
    report = run_to_end(
        compare.compare_images(other, (dataclasses.replace(recipe, unknown_timestep="nearest"),))
    )
    assert report.warnings


def test_the_command_line_does_the_same(recipe, tmp_path, capsys):
    file = tmp_path / "recipe.json"
    file.write_text(
        jsonio.dumps(dataclasses.replace(recipe, name="from file", grouping=OptimalGroups(count=2)))
    )
    assert cli.main(["capture", str(file)]) == 0
    assert cli.main(["run", str(file), "--prompt", "cat", "--seed", "3", "--name", "by cli"]) == 0
    assert "from file" in capsys.readouterr().out
    assert (
        cli.main(["compare", str(file), "W8A6, one range", "--model", recipe.model, "--name", "x"])
        == 1
    )
    assert "nothing captured yet" in capsys.readouterr().err
    assert cli.main(["show"]) == 0
    assert "by cli" in capsys.readouterr().out.splitlines()
    assert cli.main(["show", "by cli"]) == 0
    assert "PSNR" in capsys.readouterr().out
    assert cli.main(["show", "by cli", "--layers"]) == 0
    of_run = capsys.readouterr().out
    assert "PSNR" in of_run
    assert cli.main(["show", str(file), "--layers"]) == 0
    of_file = capsys.readouterr().out
    assert of_run.endswith("\n\n" + of_file)
    plan = get_plan(jsonio.read(file))
    assert f"{plan.bytes / 1e6:.2f} of {plan.float_bytes / 1e6:.2f} MB" in of_file.splitlines()[0]
    assert of_file.splitlines()[1] == describe_plan(plan)
    rows = [line.split() for line in of_file.splitlines()[3:]]
    assert [row[0] for row in rows] == [row["layer"] for row in plan_rows(plan)]
    (first,) = (row for row in rows if row[0] == "conv_in")
    assert (first[1:4], first[5:]) == (["float", "float", "0"], ["first", "layer"])
    assert rows[0][1:] == [
        "8",
        "bit",
        "8",
        "bit",
        "2",
        "nearest",
        str(plan_rows(plan)[0]["bytes"]),
    ]
    assert cli.main(["show", str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == of_file.splitlines()[:2]
    assert cli.main(["show", "by cli", "--model", "x"]) == 1
    assert "--model is for recipes" in capsys.readouterr().err
    assert cli.main(["show", "by cli", "--remove"]) == 0
    assert "by cli" not in runs.names()


def test_the_command_line_learns_groups_and_rounding(recipe, tmp_path, capsys):
    file = tmp_path / "learned.json"
    spec = LearnedGroups(count=2, iterations=4, trajectories=2, refits=0)
    learned = dataclasses.replace(
        recipe, grouping=spec, temporal=Temporal(rounding=Tiar(iterations=50))
    )
    file.write_text(jsonio.dumps(learned))
    assert cli.main(["search", str(file)]) == 0
    said = capsys.readouterr().out
    result = get_search(learned)
    assert f"learned   {100 * result.local['learned'].mean():.4g}" in said and "mixed" in said
    assert cli.main(["temporal", str(file)]) == 0
    errors = get_time_errors(learned)
    assert f"worst cosine {errors.cosine_after.min():.6f}" in capsys.readouterr().out
    assert cli.main(["search", "W8A8, one range", "--model", recipe.model]) == 1
    assert "nothing to search" in capsys.readouterr().err


def test_a_run_is_shown_before_a_recipe_of_the_same_name(monkeypatch):
    shipped = next(iter(runs.shipped_recipes()))
    for found in ([], [shipped]):
        monkeypatch.setattr(runs, "names", lambda found=found: found)
        assert cli.arguments.is_recipe(shipped) == (not found)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "nothing.json"], "nothing.json: cannot be read"),
        (["run", "no such recipe"], "no recipe called 'no such recipe'"),
        (["capture", "W8A8, one range", "--model", "no-such-model"], "no-such-model"),
        (["show", "../etc"], "cannot name a run"),
        (["show", "no such run"], "no run or recipe called 'no such run'"),
        (["show", "--layers"], "Name a run or a recipe"),
        (["show", "W8A8, one range", "--remove"], "cannot name a run"),
        (["run", "W8A8, one range", "--prompt", " "], "a prompt is empty"),
        (["run", "W8A8, one range", "--name", "a/b"], "cannot name a run"),
    ],
    ids=[
        "file",
        "recipe",
        "model",
        "escape",
        "neither",
        "show what",
        "remove a recipe",
        "prompt",
        "name",
    ],
)
def test_mistakes_are_one_line(arguments, says, capsys):
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_trajectories_are_kept_on_request(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path))
    folder = run_to_end(capture_statistics(recipe, again=True, trajectories=1))
    trajectory = captures.load_trajectory(folder)
    assert len(trajectory.timesteps) == STEPS
    prompted = get_info(recipe.model).prompted
    assert trajectory.half[0].tolist() == ([0, 1] if prompted else [-1])
    assert json.loads((folder / "capture.json").read_text())["samples"] == 3
