"""Layers: which layers are sensitive, to what and when; how many bits each gets within a budget."""

from typing import Any

import gradio as gr

from dmq.errors import DmqError
from dmq.figures import layers as figures
from dmq.results import SensitivityTable
from dmq.store import folders
from dmq.workflow.tables import compare_tables

from ..job_panel import format_note
from ..layout import show_body, show_hint
from ..session import read
from . import learned_table
from .budget import open_budget
from .tables import describe_table, find_predictor, find_table, format_layer, list_titles


MATTERS = "difference between formats (largest − smallest)"
HEADINGS = {
    "bars": "The most sensitive layers; click one for its choices",
    "tree": "Every block and its layers: area is size, colour is cost; click a block to open it",
    "choices": "What each layer costs as each choice",
    "steps": "When each layer costs: noisy steps on the left",
    "role": "Costs of the layers of each kind",
    "block": "Costs of the layers of each block",
    "choice": "Costs of all layers at each choice",
    "agreement": "Do two tables agree? Each point is a layer as a choice",
}
AT_A_CHOICE = (
    "bars",
    "tree",
    "steps",
    "role",
    "block",
)  # views of one choice, or of how much it matters
PICKED = "Click a layer in a figure to see its choices."


def show(
    text: str, name: str | None, view: str, label: str, area: str, other: str | None, *budget: Any
) -> dict[str, Any]:
    """The tab for the current recipe's model: the table that is shown, or the first that there
    is.
    """
    recipe = read(text)
    names = list_titles(recipe.model)
    if not names:
        why = f"Nothing is known yet of the layers of **{recipe.model}**. Open **A new table** below and press "
        why += "**Measure**; how *fisher* answers soonest."
        return show_hint(why) | {"name": gr.update(choices=[], value=None, visible=False)}
    chosen = name if name in names else next(iter(names))
    shown = show_body() | {
        "name": gr.update(
            choices=[(title, table_name) for table_name, title in names.items()],
            value=chosen,
            visible=True,
        ),
    }
    return shown | open_table(
        text, chosen, view, label, area, other if other in names else None, *budget
    )


def open_table(
    text: str, name: str | None, view: str, label: str, area: str, other: str | None, *budget: Any
) -> dict[str, Any]:
    """Another table: its view, and the budget within it."""
    model = read(text).model
    table, trust = (
        find_table(model, name),
        learned_table.describe_trust(find_predictor(model, name)),
    )
    texts = {
        "context": describe_table(table),
        "picked": format_note(PICKED),
        "trust": gr.update(value=trust, visible=bool(trust)),
        "reward": gr.update(visible=table.kind == "score"),
    }
    return (
        texts | change_view(text, name, view, label, area, other) | open_budget(text, name, *budget)
    )


def change_view(
    text: str, name: str | None, view: str, label: str, area: str, other: str | None
) -> dict[str, Any]:
    """One of the views of a table, with the controls that mean something there."""
    model = read(text).model
    table = find_table(model, name)
    label = label if label in table.labels else ""
    others = {choice: title for choice, title in list_titles(model).items() if choice != name}
    other = other if other in others else next(iter(others), None)
    why = ""
    try:
        figure = draw_view(
            table,
            view,
            label,
            area,
            find_table(model, other) if other and view == "agreement" else None,
        )
    except DmqError as error:
        figure, why = None, folders.hide_places(error)
    return {
        "label": gr.update(
            choices=[(MATTERS, ""), *((choice, choice) for choice in table.labels)],
            value=label,
            visible=view in AT_A_CHOICE,
        ),
        "area": gr.update(visible=view == "tree" and bool(label)),
        "other": gr.update(
            choices=[(title, choice) for choice, title in others.items()],
            value=other,
            visible=view == "agreement" and bool(others),
        ),
        "figure": gr.update(value=figure, label=HEADINGS[view], visible=figure is not None),
        "why": gr.update(value=why, visible=bool(why)),
    }


def draw_view(
    table: SensitivityTable, view: str, label: str, area: str, other: SensitivityTable | None
) -> Any:
    """The figure of a view. Raises DmqError that says why there is none."""
    if view == "bars":
        return figures.bars(table, label)
    if view == "tree":
        return figures.tree(table, label, area)
    if view == "choices":
        return figures.choice_map(table)
    if view in ("role", "block", "choice"):
        return figures.boxes(table, view, label)
    if view == "steps":
        figure = figures.step_map(table, label)
        if figure is None:
            raise DmqError(
                "This table does not tell steps apart. One that is judged by noise does."
            )
        return figure
    if other is None:
        raise DmqError(
            "This is the only table of this model. Ask for a second one below, measured another "
            "way."
        )
    ranks = compare_tables(table, other)
    figure = figures.agreement(table, other, (ranks.spearman, ranks.kendall))
    if figure is None:
        raise DmqError("These two tables have no layer and choice in common.")
    return figure


def pick(text: str, name: str | None, click: gr.SelectData) -> dict[str, Any]:
    """The choices of the layer that was clicked in a figure."""
    table = find_table(read(text).model, name)
    row = click.custom
    if row in (None, -1):  # a box and not a point of it; a block of the tree map
        return {}
    if type(row) is not int or not 0 <= row < len(table.layers):
        raise DmqError("this layer is no longer there; click again.")
    return {"picked": format_layer(table, row)}
