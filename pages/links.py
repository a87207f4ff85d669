"""Links that restore model, recipe and tab: `?recipe=…&tab=time-groups`."""

from collections.abc import Mapping
from urllib.parse import urlencode

from dmq import jsonio, runs
from dmq.errors import DmqError
from dmq.recipe import Activations, Recipe, UniformGroups


# What the app opens with: boundaries to drag, and an error that can be seen.
OPENING = Recipe(name="W8A6, 8 equal groups", activations=Activations(bits=6), grouping=UniformGroups(count=8))

# Puts a query into the address bar, keeps Gradio's own parameters, and answers with the whole link.
REMEMBER = """query => {
  const now = new URL(location), next = new URLSearchParams(query.slice(query.indexOf('?')));
  if (!next.has('tab')) return query;
  for (const key of ['recipe', 'tab']) now.searchParams.set(key, next.get(key));
  history.replaceState(history.state, '', now);
  return now.href;
}"""


def query(recipe: Recipe, tab: str) -> str:
    """The part of a link behind the address."""
    return "?" + urlencode({"recipe": jsonio.dumps(recipe, short=True), "tab": tab})


def parsed(params: Mapping[str, str], tabs: list[str]) -> tuple[Recipe, str, str]:
    """Recipe, tab, and what was wrong with the link in one line ("" if nothing); what is wrong gets its default."""
    wrong = []
    recipe, tab = OPENING, params.get("tab", tabs[0])
    try:
        if params.get("recipe"):
            recipe = jsonio.loads(params["recipe"], path="recipe in the link")
    except DmqError as error:
        wrong.append(runs.shown(error))
    if tab not in tabs:
        wrong.append(f"tab in the link: unknown name {tab!r:.40}, not one of {', '.join(tabs)}.")
        tab = tabs[0]
    return recipe, tab, " ".join(wrong)
