"""The session: its state, all of it text, and links that restore it:
`?recipe=…&tab=time-groups`.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from dmq import jsonio
from dmq.artifacts.model_info import for_model
from dmq.errors import DmqError
from dmq.recipe import Activations, Recipe, UniformGroups
from dmq.store import folders


# What the app opens with: boundaries to drag, and an error that can be seen.
OPENING = Recipe(
    name="W8A6, 8 equal groups", activations=Activations(bits=6), grouping=UniformGroups(count=8)
)

# What tabs were called in links of earlier versions.
FORMER_TABS = {
    "over-time": "error-over-time",
    "reconstruct": "rounding",
    "take-away": "export",
}

# Puts a query into the address bar, keeps Gradio's own parameters, and answers with the whole link.
REMEMBER = """query => {
  const now = new URL(location), next = new URLSearchParams(query.slice(query.indexOf('?')));
  if (!next.has('tab')) return query;
  for (const key of ['recipe', 'tab']) now.searchParams.set(key, next.get(key));
  history.replaceState(history.state, '', now);
  return now.href;
}"""


@dataclass(frozen=True)
class Shared:
    """The session's state; every value is text, so that a link or a file can hold all of it."""

    recipe: gr.State  # JSON of the current recipe
    outside: gr.State  # changes when the recipe was set elsewhere than in the tab that is open
    open_tab: gr.State  # id of the open tab
    turn: gr.State  # changes when the tab at hand is to be generated; every tab has its own
    captured: gr.State  # changes when new statistics are there
    wanted: gr.State  # id of a tab to be opened, and a `stamp`, so that it changes every time

    @property
    def chosen(self) -> dict[str, Any]:
        """The outputs of a handler that sets the recipe; see `set_outside`."""
        return {"recipe": self.recipe, "outside": self.outside}


def read(text: str) -> Recipe:
    """The recipe in a session's state, which is empty before the page has loaded and after a
    restart.
    """
    return jsonio.loads(text) if text else OPENING


def make_stamp() -> str:
    """A text that was never there before: what `Shared.outside` is set to."""
    return str(time.monotonic_ns())


def set_outside(recipe: Recipe) -> dict[str, str]:
    """The outputs by which a recipe is made the current one for all tabs."""
    return {"recipe": jsonio.dumps(recipe), "outside": make_stamp()}


def adopt(recipe: Recipe, current: Recipe) -> Recipe:
    """`recipe` for the current model and its statistics: model, sampling and calibration stay as
    they are.
    """
    moved = for_model(recipe, current.model, current.sampling)
    return replace(moved, calibration=current.calibration)


# --- links ----------------------------------------------------------------------------------------


def write_query(recipe: Recipe, tab: str) -> str:
    """The part of a link behind the address."""
    return "?" + urlencode({"recipe": jsonio.dumps(recipe, short=True), "tab": tab})


def parse_link(params: Mapping[str, str], tabs: list[str]) -> tuple[Recipe, str, str]:
    """Recipe, tab, and what was wrong with the link in one line ("" if nothing); what is wrong
    gets its default.
    """
    wrong = []
    recipe, tab = OPENING, params.get("tab", tabs[0])
    tab = FORMER_TABS.get(tab, tab)
    try:
        if params.get("recipe"):
            recipe = jsonio.loads(params["recipe"], path="recipe in the link")
    except DmqError as error:
        wrong.append(folders.hide_places(error))
    if tab not in tabs:
        wrong.append(f"tab in the link: unknown name {tab!r:.40}, not one of {', '.join(tabs)}.")
        tab = tabs[0]
    return recipe, tab, " ".join(wrong)
