"""The handlers of the Time groups tab, called as functions, with a tiny model and its real
statistics.
"""

import dataclasses

import pytest

from dmq import jsonio
from dmq.errors import DmqError
from dmq.recipe import ManualGroups, OptimalGroups, PerStep, SharedRange
from dmq.workflow.answers import get_errors
from pages.activations import handlers as activations
from pages.time_groups import handlers as time_groups


def grouping(answer):
    return jsonio.loads(answer["recipe"]).grouping


def test_a_drag_answers_with_what_the_library_computes(text, recipe):
    answer = time_groups.drag(text, [1, 4])
    made = dataclasses.replace(recipe, grouping=ManualGroups(boundaries=(1, 4)))
    assert grouping(answer) == made.grouping
    assert f"{100 * get_errors(made).total:.3g} %" in answer["summary"]
    assert "strip" not in answer  # an answer that comes late must not undo the next drag
    assert time_groups.split(text, [2])["strip"].value == [2, 4]


def test_presets_set_the_grouping_they_are_named_for(text):
    assert grouping(time_groups.group_shared(text)) == SharedRange()
    assert grouping(time_groups.group_per_step(text)) == PerStep()
    assert grouping(time_groups.group_optimal(text, 3, True)) == OptimalGroups(
        count=3, per_layer=True
    )
    assert grouping(time_groups.recount(text, 3, False)).count == 3


def test_splitting_and_merging_change_the_number_of_groups_by_one(text):
    assert grouping(time_groups.split(text, [2])) == ManualGroups(boundaries=(2, 4))
    assert grouping(time_groups.merge(text, [2, 3])).boundaries in ((2,), (3,))
    with pytest.raises(DmqError, match="nothing to split"):
        time_groups.split(text, [1, 2, 3, 4, 5])
    with pytest.raises(DmqError, match="nothing to merge"):
        time_groups.merge(text, [])


def test_cuts_of_each_layer_lock_the_strip(text):
    answer = time_groups.group_optimal(text, 2, True)
    assert (
        len({row.tobytes() for row in get_errors(jsonio.loads(answer["recipe"])).groups.slot}) > 1
    )
    assert answer["strip"].locked
    assert not time_groups.group_optimal(text, 2, False)["strip"].locked


@pytest.mark.parametrize("tab", [time_groups, activations], ids=["time groups", "activations"])
def test_a_tab_without_statistics_says_what_to_do(tab, recipe):
    other = jsonio.dumps(
        dataclasses.replace(recipe, sampling=dataclasses.replace(recipe.sampling, steps=5))
    )
    given = {time_groups: (8,), activations: ("max |x|", "inputs", activations.ALL, "")}[tab]
    answer = tab.show(other, *given)
    answer = answer if isinstance(answer, dict) else next(answer)
    assert "Press **Capture**" in answer["empty"]["value"]
    assert answer["body"]["visible"] is False


def test_float_activations_say_that_there_is_no_error(recipe):
    plain = dataclasses.replace(
        recipe, activations=dataclasses.replace(recipe.activations, bits=32)
    )
    assert "no error to see" in time_groups.group_shared(jsonio.dumps(plain))["summary"]
