"""The handlers of the Activations tab, called as functions."""

import dataclasses
import json

import gradio as gr
import pytest

from dmq import jsonio
from dmq.describe import DYNAMIC_NOTE
from dmq.errors import DmqError
from dmq.workflow.answers import get_errors, get_statistics
from pages.activations import handlers as activations
from pages.time_groups import handlers as time_groups


def test_a_click_picks_row_and_step(text, recipe):
    stats = get_statistics(recipe)
    rows = activations.list_rows(stats, "outputs", activations.ALL)
    click = gr.SelectData(None, {"index": [2, 3], "value": 0.0})
    answer = activations.pick(text, "max |x|", "outputs", activations.ALL, click)
    assert json.loads(answer["picked"]) == [stats.sites[rows[2]].name, "output", 3]
    assert stats.sites[rows[2]].label in answer["title"]


@pytest.mark.parametrize("index", [[900, 0], [0, 900], [-1, 0], 3], ids=str)
def test_a_click_on_a_cell_that_is_gone_is_refused(text, index):
    with pytest.raises(DmqError, match="no longer there"):
        activations.pick(
            text,
            "max |x|",
            "inputs",
            activations.ALL,
            gr.SelectData(None, {"index": index, "value": 0}),
        )


@pytest.mark.parametrize("point", activations.POINTS)
def test_every_point_has_rows_and_figures(text, recipe, point):
    answer = activations.refilter(text, "kurtosis", point, activations.ALL, "")
    assert activations.list_rows(get_statistics(recipe), point, activations.ALL)
    assert all(answer[name].data for name in ("heat", "ridge", "fan", "film", "grid", "channels"))


def test_the_grid_drawn_is_that_of_the_recipe(text, recipe):
    errors, stats = get_errors(recipe), get_statistics(recipe)
    s = next(s for s, site in enumerate(stats.sites) if errors.bits[s].max() == 6)
    said = activations.show_step(recipe, stats, s, 5)["title"]
    assert f"grid of 6 bits, {errors.low[s, 5]:.3g} to {errors.high[s, 5]:.3g}" in said


def test_tabs_say_where_ranges_are_taken_as_they_come(text, recipe):
    spec = dataclasses.replace(recipe.activations, dynamic="token")
    own = dataclasses.replace(recipe, activations=spec)
    stats, errors = get_statistics(own), get_errors(own)
    s = next(s for s in range(len(stats.sites)) if errors.bits[s].max() == 6)
    said = {
        time_groups.group_shared(jsonio.dumps(r))["summary"].count("takes dynamic ranges")
        for r in (own, recipe)
    }
    assert said == {1, 0}
    titles = [activations.show_step(r, stats, s, 5)["title"] for r in (own, recipe)]
    assert titles[0] == f"{titles[1]}. {DYNAMIC_NOTE}"
