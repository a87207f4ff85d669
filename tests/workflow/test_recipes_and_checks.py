"""Recipes for other models, checks before work, and former names: what needs no model."""

import dataclasses
import importlib
import re
import threading
import time

import pytest

from dmq import stages
from dmq.artifacts.model_info import for_model
from dmq.errors import DmqError
from dmq.evaluation import checks, compare
from dmq.models import libraries as libraries_module
from dmq.progress import run_to_end
from dmq.recipe import (
    EMBEDDED,
    Activations,
    Comparison,
    LearnedGroups,
    ManualGroups,
    Recipe,
    Relaxing,
    Sampling,
    UniformGroups,
)
from dmq.workflow.answers import get_statistics


def test_finish_returns_the_value():
    def work():
        yield 1
        return 5

    assert run_to_end(work()) == 5


def test_boundaries_keep_their_place_in_time_on_another_model():
    recipe = Recipe(sampling=Sampling(steps=50), grouping=ManualGroups(boundaries=(10, 25, 49)))
    moved = for_model(recipe, "emoji-ddpm")
    assert moved.sampling.steps == 100
    assert moved.grouping == ManualGroups(boundaries=(20, 50, 98))
    assert for_model(moved, "emoji-sd").grouping == recipe.grouping
    assert for_model(
        Recipe(grouping=UniformGroups(count=3)), "emoji-ddpm"
    ).grouping == UniformGroups(count=3)
    few = for_model(Recipe(grouping=LearnedGroups(count=8)), "some-model", Sampling(steps=5))
    assert (few.grouping.count, few.sampling.steps) == (5, 5)


def test_missing_statistics_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path))
    with pytest.raises(DmqError, match="press Capture, or run `dmq capture`"):
        get_statistics(Recipe(sampling=Sampling(steps=3)))


@pytest.mark.parametrize(
    ("recipes", "says"),
    [
        ((), "nothing to compare"),
        ((Recipe(), Recipe(name="b", model="emoji-ddpm")), "different models"),
        ((Recipe(), Recipe()), "a name of its own"),
        ((Recipe(name="float"),), "other than 'float'"),
    ],
    ids=["none", "models", "twice", "float"],
)
def test_a_comparison_that_makes_no_sense_is_refused_before_it_starts(recipes, says):
    with pytest.raises(DmqError, match=says):
        next(compare.compare_images(Comparison(), recipes))


@pytest.mark.parametrize(
    ("sampling", "says"),
    [
        (
            Sampling(steps=20),
            r"20 steps, but the ranges were captured for 50 steps; generate with 50, capture for 20",
        ),
        (
            Sampling(guidance=7.5),
            r"guidance 7\.5, but the ranges were captured for guidance 4; generate with 4",
        ),
        (
            Sampling(size=128),
            r"an image side of 128, but the ranges were captured for an image side of 0",
        ),
    ],
    ids=["steps", "guidance", "size"],
)
def test_another_sampling_is_refused_naming_both_or_told(sampling, says):
    """Unless the recipe accepts the nearest step; and unless nothing was learned from the
    captured ones.
    """
    with pytest.raises(DmqError, match=says):
        checks.check_sampling(Recipe(), sampling)
    (line,) = checks.check_sampling(Recipe(unknown_timestep="nearest"), sampling)
    assert line.startswith("generated with ") and ", the ranges were captured for " in line
    assert checks.check_sampling(Recipe(activations=Activations(bits=32)), sampling) == []
    assert checks.check_sampling(Recipe(), Sampling()) == []
    dynamic = Activations(dynamic="token")
    assert checks.check_sampling(Recipe(activations=dynamic), sampling) == []
    with pytest.raises(DmqError, match="the ranges were captured"):
        checks.check_sampling(Recipe(activations=dynamic, relaxing=Relaxing()), sampling)


def test_guidance_means_nothing_to_a_model_without_prompts():
    recipe = Recipe(model="emoji-ddpm", sampling=EMBEDDED["emoji-ddpm"])
    assert checks.check_sampling(recipe, dataclasses.replace(recipe.sampling, guidance=9.0)) == []


def test_the_libraries_are_imported_by_one_thread_at_a_time(monkeypatch):
    """diffusers and transformers import their parts lazily; a second importer would find them
    half made.
    """
    inside, most = [], []

    def slow_import(name):
        inside.append(name)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()

    monkeypatch.setattr(libraries_module.importlib, "import_module", slow_import)
    threads = [threading.Thread(target=libraries_module.import_libraries) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]


def test_what_the_readme_showed_of_stages_works_and_says_where_it_is():
    for name, now in stages._NOW.items():
        with pytest.warns(
            DeprecationWarning, match=rf"dmq\.stages\.{name} is {re.escape(now)} now"
        ):
            function = getattr(stages, name)
        module, _, there = now.rpartition(".")
        assert function is getattr(importlib.import_module(module), there)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = stages.nothing
