"""Half precision from a folder to images, for every family: what a GPU would run, run on the
CPU.
"""

import dataclasses

import numpy as np
import pytest
import torch

from dmq.artifacts.model_info import get_temporal_block
from dmq.evaluation import compare
from dmq.models import placement, work_plan
from dmq.models.placement import Placement
from dmq.models.tiny import tiny_ddpm, tiny_sd
from dmq.models.tiny_pipelines import PIPELINES, tiny_pipeline
from dmq.progress import run_to_end
from dmq.recipe import (
    Activations,
    Cache,
    Calibration,
    Comparison,
    NoCache,
    Recipe,
    Sampling,
    Temporal,
    Tiar,
    UniformGroups,
    Weights,
)
from dmq.trajectory.steps import index_of
from dmq.workflow.answers import get_statistics, get_time_errors
from dmq.workflow.learning import capture_statistics
from dmq.workflow.steps import carry_out
from tests.tiny import runs_in


OTHERS = {"sd": tiny_sd, "ddpm": tiny_ddpm}
OWN_SIZE = ("sd", "ddpm", "DiT")


@pytest.fixture(scope="module", params=[*OTHERS, *PIPELINES])
def recipe(request, tmp_path_factory):
    """Eight bits in two groups, attention too, for a tiny pipeline that is stored in float16."""
    family = request.param
    with runs_in(tmp_path_factory.mktemp("half")) as folder:
        pipe = OTHERS[family]() if family in OTHERS else tiny_pipeline(family)
        pipe.to(dtype=torch.float16)
        pipe.save_pretrained(folder / family, safe_serialization=True)
        prompts = ("1", "7") if family == "DiT" else ("a", "b")
        yield Recipe(
            name=family,
            model=str(folder / family),
            calibration=Calibration(samples=2, prompts=prompts),
            sampling=Sampling(steps=3, guidance=2.0, size=0 if family in OWN_SIZE else 16),
            activations=Activations(bits=8, attention_bits=8),
            grouping=UniformGroups(count=2),
            weights=Weights(),
        )


@pytest.fixture(autouse=True)
def free_choice(monkeypatch):
    for variable in placement.VARIABLES.values():
        monkeypatch.setenv(variable, "")


@pytest.mark.parametrize("cached", [False, True], ids=["learned", "cached"])
def test_the_time_embedding_is_learned_and_cached_in_bfloat16(recipe, cached):
    work_plan.use_placement(Placement(device="cpu", dtype="bfloat16"))
    finite = get_temporal_block(recipe.model).finite
    cache = Cache(selection="row" if finite else "none") if cached else NoCache()
    made = dataclasses.replace(
        recipe, temporal=Temporal(rounding=Tiar(iterations=20), fsc="tib", cache=cache)
    )
    run_to_end(carry_out(made))
    errors = get_time_errors(made)
    assert errors.cosine_after.min() > 0.98
    shown = Comparison(prompts=recipe.calibration.prompts[:1], sampling=recipe.sampling)
    assert run_to_end(compare.compare_images(shown, (made,))).scores[0].psnr > 20


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_is_captured_and_quantized_in_half_precision_is_near_float32(recipe, dtype):
    """Captured, planned, simulated and executed in half precision; the images are those of
    float32, nearly.
    """
    prompts = recipe.calibration.prompts
    shown = Comparison(prompts=prompts[:1], sampling=recipe.sampling)
    work_plan.use_placement(Placement(device="cpu"))
    run_to_end(capture_statistics(recipe, again=True, trajectories=1))
    full = get_statistics(recipe)
    work_plan.use_placement(Placement(device="cpu", dtype=dtype))
    run_to_end(capture_statistics(recipe, again=True, trajectories=1))
    half = get_statistics(recipe)
    assert half.made_on == f"cpu, {dtype}" and half.sites == full.sites
    for i, (t, lowered) in enumerate(
        zip(full.timesteps, half.timesteps, strict=True)
    ):  # which some pipelines round
        assert index_of(t, half.timesteps) == index_of(lowered, full.timesteps) == (i, 0.0)
    near = (
        np.abs(half.maximum - full.maximum)
        <= 0.1 * np.abs(full.maximum) + 0.05 * np.abs(full.maximum).max()
    )
    assert near.mean() > 0.97
    for engine in ("simulated", "executed"):
        report = run_to_end(
            compare.compare_images(shown, (dataclasses.replace(recipe, engine=engine),))
        )
        assert report.place == f"cpu, {dtype}" and report.scores[0].psnr > 20, engine
