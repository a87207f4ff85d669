"""The handlers of the panel that learns groups, called as functions, with a tiny model and a
real search.
"""

import dataclasses
from types import SimpleNamespace

import pytest

from dmq import jsonio
from dmq.errors import DmqError
from dmq.recipe import LearnedGroups, UniformGroups
from dmq.store import folders
from dmq.workflow.answers import get_search, has_search
from pages import job_panel
from pages.time_groups import handlers as time_groups
from pages.time_groups import search


SPEC = LearnedGroups(count=2, iterations=8, trajectories=2, batch=1, refits=1)
PATHS = ["count", "iterations", "trajectories", "batch", "refits"]
VALUES = [2, 8, 2, 1, 1]
VISITOR = SimpleNamespace(session_hash="visitor")


@pytest.fixture
def text(recipe):
    return jsonio.dumps(recipe)


def learned(recipe, **changes):
    return dataclasses.replace(recipe, grouping=dataclasses.replace(SPEC, **changes))


@pytest.fixture
def ended(text):
    """All answers of a whole search."""
    return list(search.search(PATHS, text, VISITOR, *VALUES))


def test_a_search_streams_its_state_and_ends_with_what_it_found(ended, recipe):
    assert ended[0]["go"]["visible"] is False and ended[0]["stop"]["visible"] is True
    watched = [answer for answer in ended if "importance" in answer and "assignment" not in answer]
    assert watched and all("Progress" in answer["status"] for answer in watched)
    last = ended[-1]
    assert last["go"]["visible"] is True and last["use"]["visible"] is True
    found = jsonio.loads(last["searched"])
    assert found.grouping == SPEC and has_search(found)
    bars = last["yardsticks"].data[0]
    local = get_search(found).local
    assert len(bars.y) == len(local) and search.WAYS["learned"] in bars.y
    assert bars.x[list(bars.y).index(search.WAYS["learned"])] == pytest.approx(
        100 * local["learned"].mean()
    )


def test_what_was_found_becomes_the_recipe_and_fills_the_tab(ended):
    chosen = search.use(ended[-1]["searched"])
    shown = time_groups.show(chosen["recipe"], 8)
    assert shown["body"]["visible"] is True
    assert shown["strip"].locked, "cuts would say too little of learned groups"
    assert search.use("") == {}


def test_the_panel_opens_on_what_was_found_before(ended, recipe, text):
    again = search.show(PATHS, jsonio.dumps(learned(recipe)))
    assert again["summary"] == ended[-1]["summary"]
    assert again["use"]["visible"] is False, "these groups are in use already"
    assert (
        search.show(PATHS, text)["body"]["visible"] is False
    )  # the ordinary settings were not searched with
    assert search.show(PATHS, jsonio.dumps(learned(recipe)))["form iterations"] == 8


def test_groups_still_to_be_learned_say_so(recipe):
    answer = time_groups.show(jsonio.dumps(learned(recipe, seed=5)), 8)
    assert "Press **Search**" in answer["empty"]["value"].replace("press", "Press")
    assert answer["body"]["visible"] is False


def test_finishing_early_keeps_what_is_there(text, monkeypatch):
    monkeypatch.setattr(job_panel, "BAR_SECONDS", 0.0)  # every iteration is told
    work = search.search(["seed", *PATHS], text, VISITOR, 1, *VALUES)
    next(answer for answer in work if "Search" in answer["status"])
    search.finish(SimpleNamespace(session_hash="somebody else"))
    assert "Search" in next(work)["status"], "others cannot end it"
    search.finish(VISITOR)
    last = list(work)[-1]
    assert "ended early" in last["summary"] and "of 8 iterations" in last["summary"]
    assert has_search(jsonio.loads(last["searched"]))
    assert not search.enough - {"somebody else"}


def test_stopping_keeps_nothing(text, recipe):
    work = search.search(["seed", *PATHS], text, VISITOR, 2, *VALUES)
    next(answer for answer in work if "Search" in answer["status"])
    work.close()
    assert not has_search(learned(recipe, seed=2))
    assert not list(folders.home().rglob("*.part"))
    assert search.JOB.show_stopped()["go"]["visible"] is True


def test_a_failed_search_gives_the_buttons_back(recipe):
    floats = dataclasses.replace(
        recipe, activations=dataclasses.replace(recipe.activations, bits=32)
    )
    seen = []
    with pytest.raises(DmqError, match="nothing to search"):
        for answer in search.search(PATHS, jsonio.dumps(floats), VISITOR, *VALUES):
            seen.append(answer)
    assert seen[-1]["go"]["visible"] is True and seen[-1]["status"] == ""


def test_more_groups_than_steps_are_refused(text):
    with pytest.raises(DmqError, match="7"):
        list(search.search(PATHS, text, VISITOR, 7, *VALUES[1:]))


def test_the_form_leaves_the_other_settings_of_the_recipe_alone(recipe):
    made = search.parse_form(["count"], jsonio.dumps(learned(recipe, seed=9)), 3.0)
    assert made.grouping == dataclasses.replace(SPEC, seed=9, count=3)
    assert search.find_settings(
        dataclasses.replace(recipe, grouping=UniformGroups())
    ) == LearnedGroups(count=6)
