"""Codes learned from inputs by stages: interrupted and resumed, kept, shared, used in models; on
a tiny pipeline.
"""

import dataclasses

import pytest
import torch

from dmq import cli, jsonio
from dmq.artifacts.calls import denoiser_calls
from dmq.artifacts.cost_changes import learn_variants
from dmq.capture.moments import output_error, second_moments, spread_calls
from dmq.errors import DmqError
from dmq.evaluation import compare
from dmq.models import libraries
from dmq.progress import run_to_end
from dmq.quantizers.codes import LowRankWeight, to_arrays
from dmq.quantizers.weights import quantize_weight
from dmq.recipe import (
    Activations,
    BlockReconstruction,
    Comparison,
    Gptq,
    Hqq,
    LowRank,
    MinMax,
    Override,
    Uaq,
    WeightFormat,
    Weights,
)
from dmq.store.folders import home
from dmq.workflow.answers import (
    get_blocks,
    get_layer_codes,
    get_plan,
    get_simulated,
    get_time_errors,
    has_layer_codes,
)
from dmq.workflow.learning import capture_statistics, learn_blocks, learn_layer_codes
from tests.tiny import captured_recipe


LEARN = "Learn weights from their inputs"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """GPTQ with 3 bits on a captured tiny pipeline; its weights were learned, with an
    interruption.
    """
    folder = tmp_path_factory.mktemp("tiny")
    patch = pytest.MonkeyPatch()
    patch.setenv("DMQ_RUNS", str(folder / "runs"))
    made = dataclasses.replace(captured_recipe(folder, 3), weights=Weights(bits=3, format=Gptq()))
    assert not has_layer_codes(made)
    with pytest.raises(DmqError, match="run `dmq learn`"):
        get_simulated(made)
    work = learn_layer_codes(made)
    for at in work:
        if at.stage == LEARN and at.done == 5:
            break
    work.close()
    assert not has_layer_codes(made) and len(kept()) == 5
    with pytest.raises(
        DmqError, match=f"{layers(made) - 5} of {layers(made)} weights were not learned"
    ):
        get_layer_codes(made)
    rest = [at for at in learn_layer_codes(made) if at.stage == LEARN]
    assert (rest[0].done, rest[-1].done, rest[-1].total) == (6, layers(made), layers(made))
    yield made
    patch.undo()


def layers(recipe) -> int:
    return sum(row.weights.bits < 32 for row in get_plan(recipe).layers)


def kept() -> list[str]:
    """The learned weights in the run folder; nothing else may lie about."""
    folders = list((home() / "roundings").iterdir())
    assert all(folder.name.startswith("rounding-") for folder in folders)
    return sorted(part.name for folder in folders for part in folder.iterdir())


def same(a, b) -> bool:
    (ours, plain), (theirs, other) = to_arrays(a), to_arrays(b)
    return (
        plain == other
        and ours.keys() == theirs.keys()
        and all((ours[key] == theirs[key]).all() for key in ours)
    )


def learned_codes(recipe):
    return {name: learned.codes for name, learned in get_layer_codes(recipe).items()}


def test_what_was_interrupted_ends_like_what_was_not(recipe):
    resumed = learned_codes(recipe)
    run_to_end(learn_layer_codes(recipe, again=True))
    whole = learned_codes(recipe)
    assert whole.keys() == resumed.keys() and all(
        same(whole[name], resumed[name]) for name in whole
    )
    assert len(kept()) == layers(recipe) == len(whole)


def test_every_output_is_nearer_than_with_nearest_codes(recipe):
    """By moments made anew, of all tokens."""
    found = get_layer_codes(recipe)
    assert sum(one.after for one in found.values()) < 0.8 * sum(
        one.before for one in found.values()
    )
    loaded = libraries.load(recipe.model)
    trajectory = run_to_end(denoiser_calls(recipe, 2))
    calls = spread_calls(trajectory, 10, 2, 2)
    moments = run_to_end(second_moments(loaded.denoiser, trajectory, calls, list(found)))
    for name, one in found.items():
        weight = loaded.denoiser.get_submodule(name).weight.detach()
        error, power = (
            output_error(x.flatten(1), moments[name])
            for x in (weight - one.codes.dequantize(), weight)
        )
        assert one.after == pytest.approx(error / power, rel=1e-3), name
        assert (one.codes.scale == quantize_weight(weight, recipe.weights).scale).all()


def test_the_model_has_the_learned_codes(recipe):
    codes, state = learned_codes(recipe), get_simulated(recipe).state_dict()
    assert "conv_in" not in codes and len(codes) > 20
    assert all(
        torch.equal(state[f"{name}.weight"], code.dequantize()) for name, code in codes.items()
    )
    rows = get_plan(recipe).layers
    assert {row.layer.name for row in rows if row.rounding == "GPTQ"} == set(codes)
    assert all(
        row.weight_bytes == codes[row.layer.name].bytes for row in rows if row.layer.name in codes
    )


def test_it_happens_once_and_what_was_learned_serves_other_recipes(recipe):
    assert not list(learn_layer_codes(recipe))
    some = Override(layers="mid_block*", weight_bits=3, format=Gptq())
    for changes in (
        {"name": "else"},
        {"activations": Activations(bits=4)},
        {"unknown_timestep": "nearest"},
        {"weights": Weights(bits=8), "overrides": (some,)},
        {"weights": Weights(bits=3, format=Gptq(), symmetric=True, range=MinMax())},
        {"weights": Weights(bits=3, format=Hqq())},
        {"weights": Weights(bits=3)},
        {"weights": Weights(bits=3, format=LowRank())},
    ):
        assert has_layer_codes(dataclasses.replace(recipe, **changes)), changes
    for changes in (
        {"weights": Weights(bits=4, format=Gptq())},
        {"weights": Weights(bits=3, format=Gptq(order=True))},
        {"weights": Weights(bits=3, format=LowRank()), "activations": Activations(dynamic="token")},
        {"calibration": dataclasses.replace(recipe.calibration, seed=1)},
    ):
        fresh = dataclasses.replace(recipe, **changes)
        if "calibration" in changes:
            run_to_end(capture_statistics(fresh))
        assert not has_layer_codes(fresh), changes


LOW = LowRank(rank=4, group=16, rounds=2)


@pytest.fixture(scope="module")
def smoothed(recipe):
    made = dataclasses.replace(
        recipe,
        weights=Weights(range=MinMax()),
        activations=Activations(bits=4, dynamic="token"),
        overrides=(
            Override(layers="mid_block*", weight_bits=4, format=LOW),
            Override(layers="mid_block.attentions*", activation_bits=32),
        ),
    )
    run_to_end(learn_layer_codes(made))
    return made


def test_smoothed_inputs_err_less(smoothed):
    found = get_layer_codes(smoothed)
    assert all(
        one.after <= one.before and isinstance(one.codes, LowRankWeight) for one in found.values()
    )
    assert sum(one.after for one in found.values()) < 0.98 * sum(
        one.before for one in found.values()
    )
    chosen = [one for one in found.values() if one.exponent is not None]
    assert len(chosen) > len(found) / 2 and all(0 <= one.exponent < 1 for one in chosen)
    assert all(one.codes.smoothing.unique().numel() > 1 for one in chosen)
    rows = {row.layer.name: row for row in get_plan(smoothed).layers}
    assert all(rows[name].weight_bytes == one.codes.bytes for name, one in found.items())
    assert all(rows[name].rounding == "low rank, smoothed" for name in found)


def test_calibrated_ranges_are_those_of_inputs_as_they_are(smoothed):
    calibrated = dataclasses.replace(smoothed, activations=Activations(bits=4))
    assert set(get_layer_codes(calibrated)) == {
        name for name in get_layer_codes(smoothed) if name.startswith("mid_block.attentions")
    }
    get_simulated(calibrated)


def test_images_are_drawn_and_what_is_missing_is_learned_on_the_way(smoothed):
    form = Override(layers="mid_block.resnets.*.conv1", weight_bits=5, format=LOW)
    fresh = dataclasses.replace(smoothed, overrides=(form,))
    told = []
    work = compare.compare_images(Comparison(prompts=("a",), sampling=fresh.sampling), (fresh,))
    while True:
        try:
            told.append(str(next(work)))
        except StopIteration as end:
            assert end.value.scores[0].psnr > 0
            break
    assert any(line.startswith(LEARN) for line in told) and has_layer_codes(fresh)


def test_variants_are_kept_like_the_weights_of_recipes(recipe):
    names = ["mid_block.resnets.0.conv1", "time_embedding.linear_1"]
    choices = (
        WeightFormat(bits=3, format=Gptq()),
        WeightFormat(bits=3, format=Hqq()),
        WeightFormat(bits=2, format=LOW),
    )
    before = len(kept())
    found = run_to_end(learn_variants(recipe, choices, names))
    gptq, _, low = choices
    assert set(found) == {(name, choice) for name in names for choice in (gptq, low)}
    assert len(kept()) == before + 2  # GPTQ-3 was there
    assert all(same(found[name, gptq], learned_codes(recipe)[name]) for name in names)
    plain = dataclasses.replace(
        recipe,
        weights=Weights(bits=8),
        activations=Activations(bits=32),
        overrides=tuple(Override(layers=name, weight_bits=2, format=LOW) for name in names),
    )
    assert has_layer_codes(plain)
    assert all(same(found[name, low], code) for name, code in learned_codes(plain).items())


def test_the_time_embedding_is_measured_with_its_learned_codes(recipe):
    """GPTQ sees every step, which is all that these layers are told."""
    learned = get_time_errors(recipe)
    nearest = get_time_errors(
        dataclasses.replace(recipe, weights=Weights(bits=3, format=Uaq(candidates=100)))
    )
    assert (1 - learned.cosine_after).mean() < 0.5 * (1 - nearest.cosine_after).mean()


def test_blocks_are_learned_behind_what_is_learned_from_inputs(recipe):
    both = dataclasses.replace(
        recipe,
        weights=Weights(bits=3),
        overrides=(Override(layers="down_blocks.0.*", format=Gptq()),),
        reconstruction=BlockReconstruction(iterations=2, batch=4, images=1),
    )
    run_to_end(learn_blocks(both))
    state, codes = get_simulated(both).state_dict(), learned_codes(both)
    assert codes and all(name.startswith("down_blocks.0.") for name in codes)
    assert all(
        torch.equal(state[f"{name}.weight"], code.dequantize()) for name, code in codes.items()
    )
    assert not set(codes) & set(get_blocks(both).codes)


def test_a_weight_that_is_not_finite_is_named(recipe, tmp_path):
    pipe = libraries.load(recipe.model).pipe
    pipe.save_pretrained(tmp_path / "broken", safe_serialization=True)
    broken = dataclasses.replace(recipe, model=str(tmp_path / "broken"))
    run_to_end(capture_statistics(broken))
    layer = libraries.load(broken.model).denoiser.get_submodule("mid_block.resnets.0.conv1")
    layer.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(DmqError, match=r"^mid_block.resnets.0.conv1: the weight has NaN"):
        run_to_end(learn_layer_codes(broken))


def test_the_command_line_learns(recipe, smoothed, tmp_path, capsys):
    for made in (recipe, smoothed):
        file = tmp_path / "learn.json"
        file.write_text(jsonio.dumps(made))
        assert cli.main(["learn", str(file), "--layers"]) == 0
        _, head, *lines, last = capsys.readouterr().out.splitlines()
        found = get_layer_codes(made)
        assert head.split() == ["layer", "weights", "before", "learned", "smoothing"]
        assert [line.split()[0] for line in lines] == list(found)
        assert [line.split()[3] for line in lines] == [
            f"{100 * one.after:.4g}" for one in found.values()
        ]
        assert {line.split()[1] for line in lines} == ({"GPTQ-3"} if made is recipe else {"LR-4"})
        assert last.startswith(f"mean of {len(found)} layers")
    file.write_text(jsonio.dumps(dataclasses.replace(recipe, weights=Weights())))
    assert cli.main(["learn", str(file)]) == 1
    assert "nothing to learn from inputs" in capsys.readouterr().err
