"""The handlers of the Temporal tab, called as functions, with a tiny model and a real learned
rounding.
"""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from dmq import jsonio
from dmq.describe import describe_recipe, describe_temporal, short_name
from dmq.errors import DmqError
from dmq.progress import Progress, run_to_end
from dmq.recipe import BlockReconstruction, Cache, LearnedGroups, NoCache, Temporal, Tiar, Weights
from dmq.workflow.answers import get_time_errors, has_time_rounding
from dmq.workflow.learning import learn_blocks
from pages.temporal import handlers as temporal


PATHS = [
    "rounding.kind",
    "rounding.Tiar.iterations",
    "fsc",
    "cache.kind",
    "cache.Cache.bits",
    "cache.Cache.selection",
]
VALUES = ["Tiar", 50, "tib", "NoCache", 8, "none"]
SPEC = Temporal(rounding=Tiar(iterations=50), fsc="tib")


@pytest.fixture
def low(recipe):
    """Four bits, so that there is something to see."""
    return dataclasses.replace(
        recipe, weights=Weights(bits=4), grouping=type(recipe.grouping)(count=1)
    )


@pytest.fixture
def kept(low):
    return dataclasses.replace(low, temporal=SPEC)


def last(answers):
    *_, end = answers
    return end


def test_the_form_makes_the_time_embedding_of_the_recipe(low):
    made = jsonio.loads(temporal.change(PATHS, jsonio.dumps(low), True, *VALUES)["recipe"])
    assert made.temporal == SPEC and "TIAR" in made.name and "FSC" in made.name
    off = temporal.change(PATHS, jsonio.dumps(made), False, *VALUES)
    assert jsonio.loads(off["recipe"]).temporal is None
    assert temporal.change(PATHS, jsonio.dumps(made), True, *VALUES) == {}


def test_without_a_way_of_its_own_the_tab_shows_what_happens_anyway(low):
    answer = last(temporal.show(PATHS, jsonio.dumps(low), ""))
    errors = get_time_errors(low)
    assert f"{errors.cosine_after.min():.6f}" in answer["summary"]
    k, i = json.loads(answer["picked"])
    worst = np.unravel_index(errors.cosine_before.argmin(), errors.cosine_before.shape)
    assert (k, i) == (errors.block.projections[worst[0]].name, worst[1])


def test_rounding_that_was_not_learned_says_so_and_learning_it_helps(kept):
    text = jsonio.dumps(
        dataclasses.replace(kept, temporal=dataclasses.replace(SPEC, rounding=Tiar(iterations=75)))
    )
    first, second = temporal.show(PATHS, text, "")
    assert first["learn"]["visible"] is True and "Learn the rounding" in second["summary"]
    answers = list(temporal.learn(text))
    assert any("Learn the rounding" in answer["status"] for answer in answers[1:-1])
    assert (
        "Learn the rounding" not in answers[-1]["summary"]
        and answers[-1]["loss"]["visible"] is True
    )
    errors = get_time_errors(jsonio.loads(text))
    assert errors.error_computed.mean() < errors.error_before.mean()


def test_stopping_keeps_nothing(kept):
    text = jsonio.dumps(
        dataclasses.replace(kept, temporal=dataclasses.replace(SPEC, rounding=Tiar(iterations=100)))
    )
    work = temporal.learn(text)
    next(answer for answer in work if "Learn the rounding" in answer["status"])
    work.close()
    assert not has_time_rounding(jsonio.loads(text))
    assert temporal.JOB.show_stopped(text)["learn"]["visible"] is True


def test_learning_that_fails_gives_its_button_back(kept, monkeypatch):
    def fails(recipe):
        yield Progress("Learn the rounding", 0, 1)
        raise DmqError("no luck")

    monkeypatch.setattr("pages.temporal.handlers.learn_time_rounding", fails)
    seen = []
    with pytest.raises(DmqError, match="no luck"):
        for answer in temporal.learn(jsonio.dumps(kept)):
            seen.append(answer)
    assert seen[-1]["learn"]["visible"] is True and seen[-1]["stop"]["visible"] is False


def test_a_click_frames_its_cell_and_shows_its_vectors(low):
    answer = temporal.pick(jsonio.dumps(low), SimpleNamespace(index=[1, 3]))
    errors = get_time_errors(low)
    assert json.loads(answer["picked"]) == [errors.block.projections[1].name, 3]
    assert answer["before"].layout.shapes[0].x0 == 2.5
    lines = {part.name: part.y for part in answer["vectors"].data}
    np.testing.assert_allclose(np.sort(lines["float"]), np.sort(errors.vectors[1][3]), rtol=1e-6)
    again = last(temporal.show(PATHS, jsonio.dumps(low), answer["picked"]))
    assert again["picked"] == answer["picked"]


@pytest.mark.parametrize("index", [[99, 0], [0, 99], 5])
def test_a_click_on_a_cell_that_is_gone_is_refused(low, index):
    with pytest.raises(DmqError, match="no longer there"):
        temporal.pick(jsonio.dumps(low), SimpleNamespace(index=index))


def test_a_cache_of_sixteen_bits_is_right_and_its_selection_is_shown(low):
    cached = dataclasses.replace(low, temporal=Temporal(cache=Cache(bits=16, selection="row")))
    answer = last(temporal.show(PATHS, jsonio.dumps(cached), ""))
    errors = get_time_errors(cached)
    assert errors.cached.all() and errors.cosine_after.min() == pytest.approx(1, abs=1e-6)
    assert (
        answer["selection"]["visible"] is True
        and "100 % of the features come from the cache" in answer["summary"]
    )


def test_running_the_time_embedding_alone_shows_both_ways(low):
    cached = dataclasses.replace(low, temporal=Temporal(cache=Cache(bits=16)))
    answers = list(temporal.deviate(jsonio.dumps(cached), 1))
    lines = {part.name: np.array(part.y) for part in answers[-1]["deviation"]["value"].data}
    assert set(lines) == {temporal.STATES["before"], temporal.STATES["after"]}
    assert (lines[temporal.STATES["after"]] < lines[temporal.STATES["before"]])[1:].all()
    assert answers[-1]["run"]["visible"] is True
    assert last(temporal.show(PATHS, jsonio.dumps(low), ""))["deviation"]["visible"] is False, (
        "of another recipe"
    )
    plain = list(temporal.deviate(jsonio.dumps(low), 1))
    assert len(plain[-1]["deviation"]["value"].data) == 1


def test_a_time_embedding_learned_with_its_blocks_is_shown(low):
    spec = BlockReconstruction(iterations=20, images=1, batch=2, rate=0.03, time=True)
    recipe = dataclasses.replace(low, weights=Weights(bits=3), reconstruction=spec)
    text, nearest = (
        jsonio.dumps(recipe),
        get_time_errors(dataclasses.replace(recipe, reconstruction=None)),
    )
    waiting = last(temporal.show(PATHS, text, ""))
    assert "open **Rounding**" in waiting["summary"] and waiting["after"].data[
        0
    ].z.tolist() == _map(nearest)
    run_to_end(learn_blocks(recipe))
    answer = last(temporal.show(PATHS, text, ""))
    assert (
        "still to be learned" not in answer["summary"]
        and "as all other layers" in answer["summary"]
    )
    assert answer["before"].data[0].z.tolist() == waiting["before"].data[0].z.tolist()
    assert answer["after"].data[0].z.tolist() != _map(nearest)
    drawn = list(temporal.deviate(text, 1))[-1]["deviation"]["value"].data
    assert {part.name for part in drawn} == {temporal.STATES["before"], temporal.STATES["after"]}
    assert not np.array_equal(drawn[0].y, drawn[1].y)


def _map(errors):
    return temporal.figures.cosine_map(errors, "after").data[0].z.tolist()


def test_what_hinders_is_said(low):
    other = dataclasses.replace(low, sampling=dataclasses.replace(low.sampling, steps=5))
    (answer,) = temporal.show(PATHS, jsonio.dumps(other), "")
    assert "Press **Capture**" in answer["empty"]["value"] and answer["body"]["visible"] is False
    floats = dataclasses.replace(
        low, weights=Weights(bits=32), activations=dataclasses.replace(low.activations, bits=32)
    )
    (answer,) = temporal.show(PATHS, jsonio.dumps(floats), "")
    assert "no error to see" in answer["empty"]["value"]


def test_a_recipe_says_in_words_how_it_keeps_the_time(low):
    assert describe_temporal(Temporal()) == ""
    made = Temporal(rounding=Tiar(), fsc="tib", cache=Cache(bits=4, selection="row"))
    said = describe_recipe(dataclasses.replace(low, temporal=made))
    assert (
        "Time embedding: rounding learned, ranges per step, 4-bit cache where a step errs less."
        in said
    )
    named = short_name(dataclasses.replace(low, temporal=made, grouping=LearnedGroups(count=2)))
    assert named == "W4A6 2 learned groups, TIAR, FSC, 4-bit time cache"
    blocks = dataclasses.replace(low, reconstruction=BlockReconstruction())
    assert short_name(blocks).endswith(
        ", BRECQ"
    ) and "Rounding learned block by block." in describe_recipe(blocks)
    assert (
        describe_temporal(dataclasses.replace(made, cache=NoCache()))
        == "rounding learned, ranges per step"
    )
