"""Block reconstruction by stages: interrupted and resumed, kept, used in models and images; on
a tiny pipeline.
"""

import dataclasses

import pytest
import torch

from dmq import cli, jsonio
from dmq.artifacts.model_info import get_temporal_block
from dmq.describe import describe_plan
from dmq.errors import DmqError
from dmq.evaluation import compare
from dmq.models.tiny import tiny_sd
from dmq.progress import run_to_end
from dmq.quantizers.bank import ActivationBank
from dmq.recipe import (
    Activations,
    BlockReconstruction,
    Calibration,
    Comparison,
    MinMax,
    Recipe,
    Relaxing,
    Sampling,
    Temporal,
    Tiar,
    Weights,
)
from dmq.reconstruction import training
from dmq.store import folders
from dmq.workflow.answers import get_blocks, get_plan, get_simulated, has_blocks
from dmq.workflow.learning import capture_statistics, learn_blocks, learn_time_rounding


BLOCKS = ["down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1"]
SPEC = BlockReconstruction(iterations=8, rate=0.03, batch=4, images=2)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """W3A8 on a captured tiny pipeline; its blocks were learned, with an interruption after the
    second one.
    """
    folder = tmp_path_factory.mktemp("tiny")
    tiny_sd().save_pretrained(folder / "model", safe_serialization=True)
    patch = pytest.MonkeyPatch()
    patch.setenv("DMQ_RUNS", str(folder / "runs"))
    made = Recipe(
        model=str(folder / "model"),
        sampling=Sampling(steps=3, guidance=2.0),
        calibration=Calibration(samples=2),
        weights=Weights(bits=3, range=MinMax()),
        activations=Activations(range=MinMax()),
        temporal=Temporal(rounding=Tiar(iterations=25)),
        reconstruction=SPEC,
    )
    run_to_end(capture_statistics(made))
    run_to_end(learn_time_rounding(made))
    assert not has_blocks(made)
    with pytest.raises(DmqError, match="run `dmq reconstruct`"):
        get_simulated(made)
    work = learn_blocks(made)
    for at in work:
        if at.stage == "Reconstruct the blocks" and at.done > 2 * 8:
            break
    work.close()
    assert not has_blocks(made) and kept() == BLOCKS[:2]
    rest = [at for at in learn_blocks(made) if at.stage == "Reconstruct the blocks"]
    assert rest[0].done == 2 * 8 and (rest[-1].done, rest[-1].total) == (5 * 8, 5 * 8)
    assert rest[0].seconds_left is None and rest[-1].seconds_left == 0
    yield made
    patch.undo()


def kept():
    """Names of the finished blocks of unfinished work; nothing else may lie about."""
    left = [
        folder
        for folder in (folders.home() / "roundings").iterdir()
        if not folder.name.startswith("rounding-")
    ]
    assert left == []
    return sorted(
        part.name
        for folder in (folders.home() / "roundings").glob("*-blocks")
        for part in folder.iterdir()
    )


def test_what_was_interrupted_ends_like_what_was_not(recipe):
    resumed = get_blocks(recipe)
    assert has_blocks(recipe) and kept() == [] and list(resumed.after) == BLOCKS
    run_to_end(learn_blocks(recipe, again=True))
    whole = get_blocks(recipe)
    assert whole.after == resumed.after and whole.codes.keys() == resumed.codes.keys()
    for name, code in whole.codes.items():
        other = resumed.codes[name]
        assert all(
            torch.equal(getattr(code, part), getattr(other, part))
            for part in ("codes", "scale", "zero")
        )


def test_it_happens_once_and_depends_on_what_goes_in(recipe):
    assert not [at for at in learn_blocks(recipe) if at.stage == "Reconstruct the blocks"]
    assert has_blocks(dataclasses.replace(recipe, name="else", unknown_timestep="nearest"))
    assert has_blocks(dataclasses.replace(recipe, reconstruction=None))
    for changes in (
        {"activations": Activations(bits=6)},
        {"temporal": None},
        {"reconstruction": dataclasses.replace(SPEC, seed=1)},
    ):
        assert not has_blocks(dataclasses.replace(recipe, **changes))


def test_the_model_has_the_learned_codes_and_all_else_as_without(recipe):
    """The time embedding above all: its learned rounding, scales and banks are bit for bit the same
    (tfm, test 9).
    """
    codes = get_blocks(recipe).codes
    plain = dataclasses.replace(recipe, reconstruction=None)
    with_it, without = (get_simulated(r).state_dict() for r in (recipe, plain))
    assert with_it.keys() == without.keys()
    time = get_temporal_block(recipe.model).layers
    assert not set(time) & set(codes) and not {"conv_in", "conv_out"} & set(codes)
    for name, x in with_it.items():
        layer = name.removesuffix(".weight")
        assert torch.equal(x, codes[layer].dequantize() if layer in codes else without[name]), name
    assert any(not torch.equal(x, without[name]) for name, x in with_it.items())


def test_the_plan_needs_no_result(recipe):
    fresh = dataclasses.replace(recipe, reconstruction=dataclasses.replace(SPEC, seed=5))
    assert get_plan(fresh).bytes == get_plan(recipe).bytes


def test_images_are_drawn_and_what_is_missing_is_learned_on_the_way(recipe):
    fresh = dataclasses.replace(recipe, reconstruction=dataclasses.replace(SPEC, iterations=2))
    told = []
    work = compare.compare_images(Comparison(prompts=("a",), sampling=recipe.sampling), (fresh,))
    while True:
        try:
            told.append(str(next(work)))
        except StopIteration as end:
            assert end.value.scores[0].psnr > 0
            break
    assert any("Reconstruct the blocks" in line for line in told) and has_blocks(fresh)


def test_a_failure_is_told_and_nothing_is_learned_behind_it(recipe, monkeypatch):
    broken = dataclasses.replace(recipe, reconstruction=dataclasses.replace(SPEC, seed=3))
    monkeypatch.setattr(
        training, "measure_indecision", lambda roundings, beta: torch.tensor(float("nan"))
    )
    run_to_end(learn_blocks(broken))
    result = get_blocks(broken)
    assert list(result.after) == BLOCKS[:1]
    assert result.note == "down_blocks.0: stopped at iteration 3 of 8, the loss was nan."
    assert get_simulated(broken).clock.notes == [f"rounding of the blocks: {result.note}"]


def test_the_command_line_reconstructs(recipe, tmp_path, capsys):
    file = tmp_path / "blocks.json"
    file.write_text(jsonio.dumps(recipe))
    assert cli.main(["reconstruct", str(file)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    result = get_blocks(recipe)
    assert lines == [
        [b, f"{100 * result.before[b]:.4g}", f"{100 * result.after[b]:.4g}"] for b in BLOCKS
    ]
    assert cli.main(["reconstruct", "W8A8, one range", "--model", recipe.model]) == 1
    assert "nothing to reconstruct" in capsys.readouterr().err


@pytest.fixture(scope="module")
def stepped(recipe):
    """The recipe with learned step sizes, interrupted after the first block."""
    made = dataclasses.replace(
        recipe, reconstruction=dataclasses.replace(SPEC, steps=25), name="with step sizes"
    )
    work = learn_blocks(made)
    for at in work:
        if at.stage == "Reconstruct the blocks" and at.done > 33:
            break
    work.close()
    rest = [at for at in learn_blocks(made) if at.stage == "Reconstruct the blocks"]
    assert (rest[0].done, rest[-1].done, rest[-1].total) == (33, 5 * 33, 5 * 33)
    return made


def test_step_sizes_are_in_the_plan_and_in_the_model(recipe, stepped):
    found, plan = get_blocks(stepped), get_plan(stepped)
    banks = {row.bank.site.label: row.bank for row in plan.layers if row.bank}
    before = {row.bank.site.label: row.bank for row in get_plan(recipe).layers if row.bank}
    assert f"step sizes of {len(found.sizes)} activations learned" in describe_plan(plan)
    assert plan.bytes == get_plan(recipe).bytes and set(found.sizes) < set(banks)
    for label, bank in banks.items():
        assert (bank.scale != before[label].scale).any() == (label in found.sizes), label
    modules = [m for m in get_simulated(stepped).modules() if isinstance(m, ActivationBank)]
    assert {m.site.label for m in modules} == set(banks)
    assert all((m.scale.numpy() == banks[m.site.label].scale).all() for m in modules)
    whole = dataclasses.replace(stepped, name="whole")
    run_to_end(learn_blocks(whole, again=True))
    again = get_blocks(whole)
    assert again.stepped == found.stepped and set(found.stepped) == set(BLOCKS)
    assert all((again.sizes[label].scale == own.scale).all() for label, own in found.sizes.items())


def test_relaxed_steps_keep_their_own_grids(stepped):
    relaxed = dataclasses.replace(stepped, relaxing=Relaxing(where="list", steps=(2,), bits=10))
    learned = {row.bank.site.label: row.bank for row in get_plan(stepped).layers if row.bank}
    plain = dataclasses.replace(relaxed, reconstruction=None)
    floats = {row.bank.site.label: row.bank for row in get_plan(plain).layers if row.bank}
    sizes = get_blocks(stepped).sizes
    for row in get_plan(relaxed).layers:
        if row.bank and row.bank.site.label in sizes:
            bank, label = row.bank, row.bank.site.label
            assert bank.scale[bank.slot[0]] == learned[label].scale[learned[label].slot[0]]
            assert bank.bits[bank.slot[2]] == 10
            assert bank.scale[bank.slot[2]] == floats[label].scale[floats[label].slot[2]]


def test_the_command_line_tells_of_step_sizes(stepped, tmp_path, capsys):
    file = tmp_path / "stepped.json"
    file.write_text(jsonio.dumps(stepped))
    assert cli.main(["reconstruct", str(file)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    found = get_blocks(stepped)
    assert head.endswith("learned, step sizes too")
    assert [line.split()[3] for line in lines] == [
        f"{100 * found.stepped[block]:.4g}" for block in BLOCKS
    ]
