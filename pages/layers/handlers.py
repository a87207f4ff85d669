"""Layers: which layers are sensitive, to what and when; how many bits each gets within a budget."""

from typing import Any

import gradio as gr

from dmq.errors import DmqError
from dmq.figures import layers as figures
from dmq.results import SensitivityTable
from dmq.store import folders
from dmq.workflow.tables import compare_tables

from ..job_panel import note
from ..layout import show_body, show_hint
from ..session import read
from . import learned_table
from .budget import fresh
from .tables import choices_of_layer, context, named, predictor_of, table_of


MATTERS = "how much the choice matters (dearest − cheapest)"
HEADINGS = {
    "bars": "The most sensitive layers; click one for its choices",
    "tree": "Every block and its layers: area is size, colour is cost; click a block to look into "
    "it",
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
    names = named(recipe.model)
    if not names:
        why = f"Nothing is known yet of the layers of **{recipe.model}**. Open **A new table** below and press "
        why += "**Measure**; how *fisher* answers soonest."
        return show_hint(why) | {"name": gr.update(choices=[], value=None, visible=False)}
    chosen = name if name in names else next(iter(names))
    shown = show_body() | {
        "name": gr.update(
            choices=[(title, one) for one, title in names.items()], value=chosen, visible=True
        ),
    }
    return shown | opened(
        text, chosen, view, label, area, other if other in names else None, *budget
    )


def opened(
    text: str, name: str | None, view: str, label: str, area: str, other: str | None, *budget: Any
) -> dict[str, Any]:
    """Another table: its view, and the budget within it."""
    model = read(text).model
    table, trust = table_of(model, name), learned_table.trust(predictor_of(model, name))
    said = {
        "context": context(table),
        "picked": note(PICKED),
        "trust": gr.update(value=trust, visible=bool(trust)),
        "reward": gr.update(visible=table.kind == "score"),
    }
    return said | look(text, name, view, label, area, other) | fresh(text, name, *budget)


def look(
    text: str, name: str | None, view: str, label: str, area: str, other: str | None
) -> dict[str, Any]:
    """One of the views of a table, with the controls that mean something there."""
    model = read(text).model
    table = table_of(model, name)
    label = label if label in table.labels else ""
    others = {one: title for one, title in named(model).items() if one != name}
    other = other if other in others else next(iter(others), None)
    why = ""
    try:
        figure = drawn(
            table,
            view,
            label,
            area,
            table_of(model, other) if other and view == "agreement" else None,
        )
    except DmqError as error:
        figure, why = None, folders.shown(error)
    return {
        "label": gr.update(
            choices=[(MATTERS, ""), *((one, one) for one in table.labels)],
            value=label,
            visible=view in AT_A_CHOICE,
        ),
        "area": gr.update(visible=view == "tree" and bool(label)),
        "other": gr.update(
            choices=[(title, one) for one, title in others.items()],
            value=other,
            visible=view == "agreement" and bool(others),
        ),
        "figure": gr.update(value=figure, label=HEADINGS[view], visible=figure is not None),
        "why": gr.update(value=why, visible=bool(why)),
    }


def drawn(
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
        made = figures.step_map(table, label)
        if made is None:
            raise DmqError(
                "This table does not tell steps apart. One that is judged by noise does."
            )
        return made
    if other is None:
        raise DmqError(
            "This is the only table of this model. Ask for a second one below, measured another "
            "way."
        )
    ranks = compare_tables(table, other)
    made = figures.agreement(table, other, (ranks.spearman, ranks.kendall))
    if made is None:
        raise DmqError("These two tables have no layer and choice in common.")
    return made


def pick(text: str, name: str | None, click: gr.SelectData) -> dict[str, Any]:
    """The choices of the layer that was clicked in a figure."""
    table = table_of(read(text).model, name)
    row = click.custom
    if row in (None, -1):  # a box and not a point of it; a block of the tree map
        return {}
    if type(row) is not int or not 0 <= row < len(table.layers):
        raise DmqError("this layer is no longer there; click again.")
    return {"picked": choices_of_layer(table, row)}
