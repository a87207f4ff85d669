"""Whole pipelines of every family, from a folder to images: what is captured, searched, cached
and generated.
"""

import dataclasses
import inspect

import numpy as np
import pytest
from diffusers import DDPMScheduler

from dmq.capture.trajectories import record_trajectory
from dmq.errors import DmqError
from dmq.evaluation.compare import compare_images
from dmq.models import libraries
from dmq.models.loading import decode, sample
from dmq.models.sampling_arguments import arguments, has_class_prompts
from dmq.models.tiny import tiny_ddpm, tiny_sd
from dmq.models.tiny_pipelines import PIPELINES, tiny_pipeline
from dmq.progress import run_to_end
from dmq.recipe import (
    FLOAT,
    Activations,
    ActiveSteps,
    Cache,
    Calibration,
    Comparison,
    LearnedGroups,
    MinMax,
    Recipe,
    Sampling,
    Temporal,
    Tiar,
    Weights,
)
from dmq.workflow.answers import get_plan
from dmq.workflow.learning import capture_statistics, learn_time_rounding, search_groups
from tests.tiny import runs_in


STEPS = 3
PER_REQUEST = {"SDXL", "DiT", "PixArt-alpha", "Hunyuan-DiT", "SD3", "Flux"}


@pytest.fixture(scope="module", params=PIPELINES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def recipe(family, tmp_path_factory):
    """Eight bits, and what each family has to say about its time embedding."""
    with runs_in(tmp_path_factory.mktemp("family")) as folder:
        tiny_pipeline(family).save_pretrained(folder / family, safe_serialization=True)
        made = Recipe(
            model=str(folder / family),
            calibration=Calibration(samples=2, prompts=prompts_of(family)),
            sampling=Sampling(steps=STEPS, guidance=3.0, size=0 if family == "DiT" else 16),
            weights=Weights(range=MinMax()),
            activations=Activations(range=MinMax()),
        )
        run_to_end(capture_statistics(made))
        yield made


def prompts_of(family):
    return ("goldfish", "7") if family == "DiT" else ("cat", "dog")


def compare(recipe, prompts):
    asked = Comparison(prompts=prompts, seeds=(5,), sampling=recipe.sampling)
    return run_to_end(compare_images(asked, (recipe,)))


def test_a_cache_draws_the_float_images(recipe, family):
    """Made for each prompt, class or size where these enter: other prompts than those of the
    calibration, together.
    """
    cached = dataclasses.replace(
        recipe,
        weights=Weights(bits=FLOAT),
        activations=Activations(bits=FLOAT),
        temporal=Temporal(cache=Cache(bits=16)),
    )
    assert get_plan(cached).temporal.per_request == (family in PER_REQUEST)
    report = compare(cached, ("3", "shark") if family == "DiT" else ("bird", "a big house"))
    assert [score.psnr > 45 for score in report.scores] == [True, True]


def test_what_time_recipes_need_is_learned_and_drawn(recipe, family):
    """ADP-DM's search and TFM's rounding and finite sets, then images near those of the float
    model.
    """
    spec = LearnedGroups(count=2, iterations=3, trajectories=2, refits=0)
    made = dataclasses.replace(
        recipe,
        name="all",
        grouping=spec,
        calibration_steps=ActiveSteps(),
        temporal=Temporal(rounding=Tiar(iterations=10), fsc="tib"),
    )
    result = run_to_end(search_groups(made))
    run_to_end(learn_time_rounding(made))
    plan = get_plan(made)
    assert len(result.timesteps) == STEPS and result.slot.max() == 1
    of_time = [
        row.bank for row in plan.layers if row.layer.name in plan.temporal.block.layers and row.bank
    ]
    assert of_time and {len(bank.scale) for bank in of_time} == {STEPS}
    report = compare(made, prompts_of(family))
    assert min(score.psnr for score in report.scores) > 18
    assert (
        report.bytes["all"] < 0.75 * report.bytes["float"]
    )  # embeddings of words and classes stay in float


def test_the_last_step_shown_is_the_image(recipe):
    """Packed latents and those with a row for each half of guidance included."""
    loaded, seen = libraries.load(recipe.model), []
    prompts = list(recipe.calibration.prompts)
    how = {"prompts": prompts, "seeds": [3, 4], "sampling": recipe.sampling}
    images = sample(
        loaded.pipe, loaded, **how, on_step=lambda i, t, latents: seen.append(latents.clone())
    )
    shown = decode(loaded, seen[-1][:2])
    assert len(seen) == STEPS and len(shown) == 2
    for a, b in zip(shown, images, strict=True):
        assert a.shape == b.shape and np.abs(a.astype(int) - b).max() <= 1


def test_another_sampler_than_the_captured_one_is_refused(recipe, family, monkeypatch):
    loaded = libraries.load(recipe.model)
    captured_with = type(loaded.pipe.scheduler).__name__
    monkeypatch.setattr(loaded.pipe, "scheduler", DDPMScheduler())
    with pytest.raises(
        DmqError, match=rf"with {captured_with}, 3 steps.*; the pipeline has DDPMScheduler, 3 steps"
    ):
        compare(recipe, prompts_of(family))


def test_guidance_halves_are_told_apart(recipe, family):
    """The conditional half is the one that changes with the prompt."""
    loaded = libraries.load(recipe.model)
    prompts = prompts_of(family)
    calls = [
        record_trajectory(loaded, prompts=[prompt], seeds=[0], sampling=recipe.sampling)[0]
        for prompt in prompts
    ]
    half, (first, second) = calls[0].half[0], (trajectory.outputs[0] for trajectory in calls)
    differ = [not np.allclose(a, b) for a, b in zip(first, second, strict=True)]
    guided = family != "Flux"  # whose guidance is a number that it reads
    assert sorted(half) == ([0, 1] if guided else [-1])
    assert differ == [h != 0 for h in half]


# --- what is asked of a pipeline ------------------------------------------------------------------


def test_classes_have_names_and_numbers():
    pipe = tiny_pipeline("DiT")
    assert (
        has_class_prompts(pipe) == ("fish", "goldfish", "shark", "tench")
        and has_class_prompts(tiny_sd()) == ()
    )
    call = arguments(pipe, ["tench", "999", "shark"], [0, 1, 2], Sampling(steps=2))
    assert call["class_labels"] == [0, 999, 2]
    for wrong in ("1000", "cat", "-1", ""):
        with pytest.raises(
            DmqError, match=r"is no class of this model; give a number below 1000 or a name: fish"
        ):
            arguments(pipe, [wrong], [0], Sampling(steps=2))


def test_images_of_a_size():
    for family in ("SDXL", "PixArt-sigma"):
        pipe = tiny_pipeline(family)
        call = arguments(pipe, ["a"], [0], Sampling(steps=2, size=24))
        assert call["height"] == call["width"] == 24
        binned = "use_resolution_binning" in inspect.signature(pipe.__call__).parameters
        assert call.get("use_resolution_binning", True) is not binned
        assert "height" not in arguments(pipe, ["a"], [0], Sampling(steps=2))
    with pytest.raises(
        DmqError, match=r"sampling\.size is 20, but must be a multiple of 8; use 16"
    ):
        arguments(pipe, ["a"], [0], Sampling(steps=2, size=20))
    with pytest.raises(
        DmqError, match=r"generates images of one size only; set sampling\.size to 0"
    ):
        arguments(tiny_ddpm(), [], [0], Sampling(steps=2, size=16))
