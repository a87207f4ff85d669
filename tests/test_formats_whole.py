"""Formats of weights and dynamic ranges, from the recipe to the images, on a tiny
pipeline.
"""

import dataclasses

import numpy as np
import pytest

from dmq.describe import describe_plan
from dmq.errors import DmqError
from dmq.evaluation import compare
from dmq.evaluation.compare import compare_images
from dmq.progress import run_to_end
from dmq.recipe import (
    FLOAT,
    Activations,
    BlockReconstruction,
    Comparison,
    KMeans,
    LowRank,
    MinMax,
    Override,
    Relaxing,
    Sampling,
    SharedRange,
    Weights,
)
from dmq.workflow.answers import get_blocks, get_errors, get_plan
from dmq.workflow.learning import learn_blocks
from tests.tiny import captured_recipe, runs_in


STEPS = 3


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Codebooks, one block low rank, and ranges of tokens as they come."""
    with runs_in(tmp_path_factory.mktemp("formats")) as folder:
        yield dataclasses.replace(
            captured_recipe(folder, steps=STEPS),
            name="KMC-4 A8 per token",
            grouping=SharedRange(),
            weights=Weights(bits=4, format=KMeans(iterations=3)),
            activations=Activations(bits=8, dynamic="token"),
            overrides=(
                Override(layers="mid_block.*", format=LowRank(rank=2, rounds=1, smooth=False)),
            ),
        )


def test_images_are_drawn_with_any_steps_and_say_what_was_quantized(recipe):
    """Nothing was calibrated, so nothing ties the model to the captured steps."""
    asked = Comparison(prompts=("a",), sampling=Sampling(steps=STEPS + 2, guidance=3.0))
    report = run_to_end(compare.compare_images(asked, (recipe,)))
    said = report.coverage[recipe.name].quantized
    report = run_to_end(compare_images(asked, (recipe,)))
    said = report.coverage[recipe.name].quantized
    assert "KMC-4 A8" in said and "LR-4 A8" in said
    assert "; activations A8 dynamic per token (per sample in convolutions)" in said
    assert report.warnings == () and np.isfinite(report.scores[0].psnr)
    assert report.bytes[recipe.name] == get_plan(recipe).bytes < report.bytes["float"]
    calibrated = dataclasses.replace(recipe, activations=Activations(bits=8, range=MinMax()))
    with pytest.raises(DmqError, match="the ranges were captured for 3 steps"):
        run_to_end(compare.compare_images(asked, (calibrated,)))


def test_errors_are_those_of_calibrated_ranges(recipe):
    fixed = dataclasses.replace(
        recipe, activations=dataclasses.replace(recipe.activations, dynamic="none")
    )
    assert get_errors(recipe) is get_errors(fixed)


def test_relaxed_steps_have_more_bits(recipe):
    wide = dataclasses.replace(recipe, relaxing=Relaxing(bits=10, where="list", steps=(1,)))
    plan = get_plan(wide)
    bits = {tuple(row.bank.bits[row.bank.slot].tolist()) for row in plan.layers if row.bank}
    assert bits == {
        (8, 10, 8)
    } and "1 of 3 steps (1 to 1) with 10-bit activations" in describe_plan(plan)


def test_blocks_are_learned_with_ranges_as_they_come(recipe):
    """Gradients of a block's rounding pass through the inputs of its later layers."""
    learned = dataclasses.replace(
        recipe,
        weights=Weights(bits=3, range=MinMax()),
        overrides=(),
        reconstruction=BlockReconstruction(iterations=4, rate=0.03, batch=2, images=1),
    )
    run_to_end(learn_blocks(learned))
    found = get_blocks(learned)
    assert found.note == "" and sum(found.changed.values()) > 0
    assert all(np.isfinite(losses).all() for losses in found.losses.values())
    assert {row.rounding for row in get_plan(learned).layers if row.weights.bits < FLOAT} == {
        "block",
        "nearest",
    }
