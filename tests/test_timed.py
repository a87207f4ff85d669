"""The time embedding by stages: learned once, measured, selected, used in images; on a tiny real
pipeline.
"""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from dmq.errors import DmqError
from dmq.evaluation import compare
from dmq.metrics.temporal import step_features
from dmq.models import libraries
from dmq.models.tiny import tiny_sd
from dmq.progress import run_to_end
from dmq.quantizers.cache import FeatureTable
from dmq.recipe import (
    FLOAT,
    Activations,
    BlockReconstruction,
    Cache,
    Calibration,
    Comparison,
    MinMax,
    Override,
    PerStep,
    Recipe,
    Sampling,
    Temporal,
    Tiar,
    Weights,
)
from dmq.store import folders, learned
from dmq.workflow.answers import (
    get_errors,
    get_plan,
    get_simulated,
    get_time_errors,
    has_time_rounding,
)
from dmq.workflow.learning import capture_statistics, learn_blocks, learn_time_rounding


STEPS = 4
LEARNED = Temporal(rounding=Tiar(iterations=50, rate=0.03), fsc="tib")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """W3A8 on a captured tiny pipeline, whose time embedding is learned."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_sd().save_pretrained(folder / "model", safe_serialization=True)
    patch = pytest.MonkeyPatch()
    patch.setenv("DMQ_RUNS", str(folder / "runs"))
    made = Recipe(
        model=str(folder / "model"),
        sampling=Sampling(steps=STEPS, guidance=2.0),
        calibration=Calibration(samples=2),
        weights=Weights(bits=3, range=MinMax()),
        activations=Activations(range=MinMax()),
        temporal=LEARNED,
    )
    run_to_end(capture_statistics(made))
    assert not has_time_rounding(made)
    with pytest.raises(DmqError, match="the rounding of the time embedding was not learned yet"):
        get_simulated(made)
    seen = list(learn_time_rounding(made))
    assert [str(p).partition(",")[0] for p in seen[1:]] == [
        f"Learn the rounding of the time embedding: {n} of 50" for n in (25, 50)
    ]
    yield made
    patch.undo()


def test_codes_learned_with_the_blocks_are_those_of_the_features(recipe):
    """What the quantized model itself computes for a step is what the errors are of."""
    plain = dataclasses.replace(recipe, temporal=None)
    spec = BlockReconstruction(iterations=25, rate=0.03, batch=4, images=2, time=True)
    made = dataclasses.replace(plain, reconstruction=spec)
    with pytest.raises(DmqError, match="not learned yet"):
        get_time_errors(made)
    run_to_end(learn_blocks(made))
    errors = get_time_errors(made)
    loaded, model = libraries.load(made.model), get_simulated(made)
    features = step_features(model, loaded.adapter, errors.block, errors.timesteps, {})
    for mine, theirs in zip(errors.vectors_after, features, strict=True):
        np.testing.assert_allclose(mine, theirs[:, 0].numpy(), rtol=1e-5, atol=1e-6)
    assert any(
        (a != b).any() for a, b in zip(errors.vectors_after, errors.vectors_before, strict=True)
    )
    without = dataclasses.replace(made, reconstruction=dataclasses.replace(spec, time=False))
    assert np.array_equal(
        get_time_errors(without).cosine_after, get_time_errors(plain).cosine_after
    )


def other(recipe, **changes):
    return dataclasses.replace(recipe, temporal=dataclasses.replace(recipe.temporal, **changes))


def test_learning_happens_once_and_depends_on_what_it_must(recipe):
    assert has_time_rounding(recipe)
    assert list(learn_time_rounding(recipe)) == []
    assert has_time_rounding(other(recipe, fsc="all", cache=Cache(selection="row")))
    assert has_time_rounding(
        dataclasses.replace(recipe, name="else", activations=Activations(bits=4))
    )
    assert not has_time_rounding(other(recipe, rounding=Tiar(iterations=51, rate=0.03)))
    assert not has_time_rounding(
        dataclasses.replace(recipe, weights=Weights(bits=4, range=MinMax()))
    )
    some = Override(layers="time_embedding.*", weight_bits=8)
    assert not has_time_rounding(dataclasses.replace(recipe, overrides=(some,)))
    # Nothing is computed, so there is nothing to learn.
    assert run_to_end(learn_time_rounding(other(recipe, cache=Cache()))) is None


def test_a_rounding_that_ships_is_used_and_never_written_to(recipe, tmp_path, monkeypatch):
    own = run_to_end(learn_time_rounding(recipe))
    shipped = tmp_path / "assets" / "runs" / own.name
    shutil.copytree(own, shipped)
    monkeypatch.setattr(folders, "ASSETS", tmp_path / "assets")
    assert run_to_end(learn_time_rounding(recipe)) == own, "the user's own comes first"
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path / "runs"))
    (tmp_path / "runs").mkdir()
    shutil.copytree(own.parents[1] / "captures", tmp_path / "runs" / "captures")
    assert run_to_end(learn_time_rounding(recipe)) == shipped
    before = (shipped / "rounding.safetensors").stat().st_mtime_ns
    again = run_to_end(learn_time_rounding(recipe, again=True))
    assert again == tmp_path / "runs" / "roundings" / own.name and again.is_dir()
    assert (shipped / "rounding.safetensors").stat().st_mtime_ns == before


def test_closing_while_learning_leaves_no_trace(recipe):
    unfinished = other(recipe, rounding=Tiar(iterations=60))
    work = learn_time_rounding(unfinished)
    next(work), next(work)
    work.close()
    assert not has_time_rounding(unfinished)
    assert not [p for p in (folders.home() / "roundings").iterdir() if p.name.startswith(".")]


def test_the_quantized_model_has_the_codes_that_were_learned(recipe):
    errors = get_time_errors(recipe)
    folder = run_to_end(learn_time_rounding(recipe))
    arrays, _ = learned.load_rounding(folder)
    quantized_model = get_simulated(recipe)
    for name in errors.block.layers:
        codes, scale, zero = (
            torch.from_numpy(arrays[f"{part}/{name}"]) for part in ("codes", "scale", "zero")
        )
        weight = quantized_model.get_submodule(name).weight
        assert torch.equal(weight, ((codes.float() - zero) * scale).reshape(weight.shape))


def test_errors_of_the_time_embedding(recipe):
    made = get_time_errors(recipe)
    k, t = len(made.block.projections), STEPS
    for name in (
        "cosine_before",
        "cosine_computed",
        "cosine_after",
        "shift_before",
        "shift_after",
        "error_before",
        "error_computed",
        "error_cached",
        "cached",
    ):
        assert getattr(made, name).shape == (k, t), name
    assert made.error_computed.mean() < made.error_before.mean()
    assert np.array_equal(made.cosine_after, made.cosine_computed) and not made.cached.any()
    assert made.inputs == (
        "time_embedding.linear_1",
        "time_embedding.linear_2",
        made.block.projections[0].name,
    )
    assert made.low.shape == made.high.shape == (3, t) and (made.low < made.high).all()
    assert made.cache_errors.shape == (13, k, t) and len(made.losses) == 50 and made.note == ""
    assert (np.diff(made.cache_errors[:12].mean((1, 2))) < 0).all() and (
        np.diff(made.cache_sizes[:12]) > 0
    ).all()
    for before, after, wanted, error in zip(
        made.vectors_before, made.vectors_after, made.vectors, made.error_computed, strict=True
    ):
        assert before.shape == after.shape == wanted.shape
        direct = ((after - wanted) ** 2).sum(1) / (wanted**2).sum(1)
        assert np.allclose(direct, error, rtol=1e-4)
    plain = get_time_errors(dataclasses.replace(recipe, temporal=None))
    assert np.array_equal(plain.cosine_after, made.cosine_before)


def test_features_that_are_measured_are_those_of_a_whole_call(recipe):
    """What a hook on the quantized model sees, with a prompt and an image around it."""
    made, quantized_model = get_time_errors(recipe), get_simulated(recipe)
    seen = {}
    for projection in made.block.projections:
        module = quantized_model.get_submodule(projection.name)
        module.register_forward_hook(
            lambda m, a, out, name=projection.name: seen.update({name: out})
        )
    for i, t in enumerate(made.timesteps):
        with torch.no_grad():
            quantized_model(
                torch.randn(2, 4, 8, 8), t, encoder_hidden_states=torch.randn(2, 12, 16)
            )
        for k, projection in enumerate(made.block.projections):
            assert np.allclose(seen[projection.name][1], made.vectors_after[k][i], atol=1e-5)


@pytest.mark.parametrize("selection", ["none", "block", "row"])
def test_a_selection_never_errs_more_and_the_model_does_what_it_says(recipe, selection):
    chosen = other(recipe, cache=Cache(bits=4, selection=selection))
    made, plan = get_time_errors(chosen), get_plan(chosen)
    assert np.array_equal(plan.temporal.cached, made.cached)
    final = np.where(made.cached, made.error_cached, made.error_computed)
    if selection == "row":
        assert (final <= np.minimum(made.error_cached, made.error_computed)).all()
    if selection == "block":
        assert (
            final.mean(1)
            <= np.minimum(made.error_cached.mean(1), made.error_computed.mean(1)) + 1e-9
        ).all()
    if selection == "none":
        assert made.cached.all()
    quantized_model = get_simulated(chosen)
    tables = [m for m in quantized_model.modules() if isinstance(m, FeatureTable)]
    assert sum(len(table.codes) for table in tables) == made.cached.sum()
    gone = {row.layer.name for row in plan.layers if row.dropped}
    names = {
        name.rpartition(".")[0].removesuffix(".computed")
        for name, _ in quantized_model.named_parameters()
    }
    assert not gone & names and set(made.block.layers) - gone <= names


def test_sixteen_bits_take_everything_from_few_bit_layers(recipe):
    made = get_time_errors(other(recipe, cache=Cache(bits=16, selection="row")))
    assert made.cached.all() and made.cosine_after.min() > 1 - 1e-5 and not made.shift_after.any()


def test_all_means_every_activation_has_a_range_per_step(recipe):
    plan = get_plan(other(recipe, fsc="all"))
    assert {len(row.bank.bits) for row in plan.layers if row.bank} == {STEPS}
    groups = get_errors(other(recipe, fsc="all")).groups
    per_step = get_errors(dataclasses.replace(recipe, temporal=None, grouping=PerStep())).groups
    assert np.array_equal(groups.slot, per_step.slot)
    tib = {len(row.bank.bits) for row in get_plan(recipe).layers if row.bank}
    assert tib == {1, STEPS}


def test_images_are_drawn_and_what_is_missing_is_learned_on_the_way(recipe):
    fresh = other(recipe, rounding=Tiar(iterations=25), cache=Cache(selection="block"))
    work = compare.compare_images(Comparison(prompts=("a",), sampling=recipe.sampling), (fresh,))
    told = []
    while True:
        try:
            told.append(next(work))
        except StopIteration as end:
            report = end.value
            break
    assert any("Learn the rounding" in str(item) for item in told)
    assert (
        "time embedding" in report.coverage[fresh.name].quantized
        and report.bytes[fresh.name] < report.bytes["float"]
    )


def test_a_cache_of_everything_draws_the_float_images(recipe):
    float_else = dataclasses.replace(
        recipe,
        weights=Weights(bits=FLOAT),
        activations=Activations(bits=FLOAT),
        temporal=Temporal(cache=Cache(bits=16)),
    )
    report = run_to_end(
        compare.compare_images(Comparison(prompts=("a",), sampling=recipe.sampling), (float_else,))
    )
    assert report.scores[0].psnr > 40


def test_a_damaged_file_is_one_line(recipe):
    folder = run_to_end(learn_time_rounding(recipe))
    file = folder / "rounding.safetensors"
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:100])
        with pytest.raises(DmqError, match="damaged") as caught:
            get_simulated(recipe)
        assert "\n" not in str(caught.value)
    finally:
        file.write_bytes(whole)
