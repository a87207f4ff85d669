"""Searches by stages: kept, found again, used by plans, refused where they do not fit; on a tiny
real pipeline.
"""

import dataclasses

import numpy as np
import pytest

from dmq.artifacts.of_recipe import search_spec
from dmq.errors import DmqError
from dmq.evaluation import compare
from dmq.models.tiny import tiny_ddpm
from dmq.progress import Progress, run_to_end
from dmq.recipe import (
    Activations,
    ActiveSteps,
    Calibration,
    Comparison,
    LearnedGroups,
    MinMax,
    PerChannel,
    PerStep,
    Recipe,
    Sampling,
    SharedRange,
    Temporal,
    UniformSteps,
    Weights,
)
from dmq.results import SearchSnapshot
from dmq.store import captures, folders, learned
from dmq.workflow.answers import get_errors, get_plan, get_search, get_statistics, has_search
from dmq.workflow.learning import capture_statistics, search_groups


STEPS = 4
SPEC = LearnedGroups(count=2, iterations=5, trajectories=2, refits=0)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe with learned groups, captured and searched."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_ddpm().save_pretrained(folder / "model", safe_serialization=True)
    patch = pytest.MonkeyPatch()
    patch.setenv("DMQ_RUNS", str(folder / "runs"))
    made = Recipe(
        model=str(folder / "model"),
        sampling=Sampling(steps=STEPS),
        calibration=Calibration(samples=2),
        weights=Weights(range=MinMax()),
        activations=Activations(bits=5),
        grouping=SPEC,
    )
    with pytest.raises(DmqError, match=r"Run the search first: press Search, or run `dmq search`"):
        run_to_end(capture_statistics(made))
        get_errors(made)
    assert not has_search(made)
    work = search_groups(made)
    seen = list(work)
    assert all(isinstance(p, Progress) for p in seen)
    shown = [p.snapshot for p in seen if p.stage == "Search"]
    assert len(shown) == 5 and all(isinstance(s, SearchSnapshot) for s in shown)
    assert shown[-1].importance.shape[1:] == (STEPS, 2) and shown[-1].visits.sum() == 5
    yield made
    patch.undo()


def test_a_search_is_run_once(recipe):
    assert has_search(recipe)
    work = search_groups(recipe)
    with pytest.raises(StopIteration) as end:
        next(work)
    assert end.value.value is get_search(recipe)


def test_it_survives_saving_exactly(recipe):
    result = get_search(recipe)
    again = learned.load_search(learned.save_search(recipe, SPEC, result))
    for f in dataclasses.fields(result):
        ours, theirs = getattr(result, f.name), getattr(again, f.name)
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype and np.array_equal(
                ours, theirs, equal_nan=ours.dtype.kind == "f"
            ), f.name
        elif f.name == "local":
            assert ours.keys() == theirs.keys() and all(
                np.array_equal(ours[k], theirs[k]) for k in ours
            )
        else:
            assert ours == theirs, f.name


def test_the_plan_has_the_ranges_and_slots_that_were_learned(recipe):
    result, errors, plan = get_search(recipe), get_errors(recipe), get_plan(recipe)
    banks = {row.bank.site: row.bank for row in plan.layers if row.bank}
    assert list(banks) == list(result.sites)
    for q, site in enumerate(result.sites):
        s = get_statistics(recipe).index[site.name, site.point]
        assert (
            np.array_equal(banks[site].slot, result.slot[q])
            and len(banks[site].bits) == result.slot[q].max() + 1
        )
        assert np.array_equal(errors.low[s], result.low[q][result.slot[q]])
    assert errors.per_step() == pytest.approx(result.local["learned"])


def test_the_quantized_model_is_called_at_its_own_steps_only(recipe):
    sampling = Sampling(steps=STEPS + 2)
    comparison = Comparison(prompts=("a",), sampling=sampling)
    with pytest.raises(DmqError, match="6 steps, but the ranges were captured for 4 steps"):
        run_to_end(compare.compare_images(comparison, (recipe,)))
    nearest = dataclasses.replace(recipe, unknown_timestep="nearest")
    assert run_to_end(compare.compare_images(comparison, (nearest,))).warnings


@pytest.mark.parametrize(
    "change",
    [
        {"activations": Activations(bits=4)},
        {"weights": Weights(bits=4, range=MinMax())},
        {"grouping": dataclasses.replace(SPEC, count=3)},
        {"grouping": dataclasses.replace(SPEC, score="linear")},
    ],
    ids=["activations", "weights", "groups", "score"],
)
def test_another_recipe_needs_a_search_of_its_own(recipe, change):
    assert not has_search(dataclasses.replace(recipe, **change))


def test_what_a_search_does_not_depend_on_does_not_ask_for_another(recipe):
    others = {
        "name": "x",
        "unknown_timestep": "nearest",
        "activations": dataclasses.replace(recipe.activations, range=MinMax()),
    }
    for name, value in others.items():
        assert has_search(dataclasses.replace(recipe, **{name: value}))
    assert has_search(dataclasses.replace(recipe, temporal=Temporal(fsc="tib")))
    assert has_search(dataclasses.replace(recipe, grouping=PerStep()))  # needs none


@pytest.mark.parametrize(("recorded", "draws"), [(2, False), (1, True)], ids=["enough", "too few"])
def test_recorded_calls_save_drawing_if_they_are_enough(recipe, recorded, draws):
    other = dataclasses.replace(recipe, calibration=Calibration(samples=2, seed=recorded))
    run_to_end(capture_statistics(other, trajectories=recorded))
    stages_seen = {progress.stage for progress in search_groups(other)}
    assert ("Generate" in stages_seen) == draws and "Search" in stages_seen


def test_calibration_steps_keep_the_capture(recipe):
    shared = dataclasses.replace(recipe, grouping=SharedRange())
    few = dataclasses.replace(shared, calibration_steps=UniformSteps(count=1))
    assert captures.capture_key(few) == captures.capture_key(shared)
    assert not np.array_equal(get_errors(few).low, get_errors(shared).low)


def test_active_steps_come_from_the_search(recipe):
    active = dataclasses.replace(recipe, calibration_steps=ActiveSteps())
    assert search_spec(active) == SPEC and has_search(active)
    alone = dataclasses.replace(active, grouping=SharedRange())
    assert search_spec(alone) == LearnedGroups()
    with pytest.raises(DmqError, match="Run the search first"):
        get_errors(alone)


def test_closing_a_search_leaves_nothing(recipe, tmp_path):
    before = sorted(folders.home().rglob("*"))
    work = search_groups(dataclasses.replace(recipe, activations=Activations(bits=3)))
    for _ in range(8):
        next(work)
    work.close()
    assert sorted(folders.home().rglob("*")) == before


def test_what_was_learned_by_stopping_is_kept(recipe):
    few = dataclasses.replace(recipe, activations=Activations(bits=6))
    calls = iter([False] * 2 + [True] * 9)
    result = run_to_end(search_groups(few, enough=lambda: next(calls)))
    assert "stopped after 2 of 5" in result.note and get_search(few).note == result.note
    assert get_plan(few).table_bytes > 0


def test_a_search_of_another_sampler_is_refused_naming_both(recipe):
    changed = dataclasses.replace(recipe, activations=Activations(bits=7))
    result = dataclasses.replace(get_search(recipe), sampler="PNDMScheduler, 4 steps")
    learned.save_search(changed, SPEC, result)
    with pytest.raises(
        DmqError,
        match=r"search was run with sampler PNDMScheduler, 4 steps, the capture with DDIMSch",
    ):
        get_errors(changed)


def test_a_damaged_search_is_one_line(recipe):
    changed = dataclasses.replace(recipe, activations=Activations(bits=2))
    folder = learned.save_search(changed, SPEC, get_search(recipe))
    file = folder / "search.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(
        DmqError, match=r"search.safetensors: damaged .* delete the folder and search again"
    ):
        get_errors(changed)


def test_nothing_to_search_is_said(recipe):
    with pytest.raises(DmqError, match="nothing to search: set grouping"):
        next(search_groups(dataclasses.replace(recipe, grouping=SharedRange())))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"grouping": LearnedGroups(count=9)},
            "count is 9, but there are only 4 steps; use 4 or fewer",
        ),
        (
            {"activations": Activations(granularity=PerChannel(), range=MinMax())},
            "granularity to PerTensor",
        ),
        (
            {
                "grouping": SharedRange(),
                "calibration_steps": UniformSteps(count=2),
                "activations": Activations(granularity=PerChannel(), range=MinMax()),
            },
            "calibration_steps needs",
        ),
    ],
    ids=["too many", "channels", "steps of channels"],
)
def test_recipes_that_cannot_be_are_refused(recipe, fields, says):
    with pytest.raises(DmqError, match=says):
        dataclasses.replace(recipe, **fields)


def test_a_temperature_that_rises_is_refused():
    with pytest.raises(DmqError, match="final_temperature is 2, above the 1 of the start"):
        LearnedGroups(final_temperature=2.0)
