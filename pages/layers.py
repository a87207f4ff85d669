"""Layers: which layers are sensitive, to what and when; how many bits each gets within a budget."""

from typing import Any

import gradio as gr

from dmq import runs, stages
from dmq.errors import DmqError
from dmq.figures import layers as figures
from dmq.results import SensitivityTable

from . import layers_asked, layers_budget, layers_learned
from .job_panel import note
from .layers_kept import REWARD, choices_of_layer, context, named, predictor_of, table_of
from .shell import Shared, on, read, shows
from .widgets.plotly_view import PlotlyView


MATTERS = "how much the choice matters (dearest − cheapest)"
VIEWS = {
    "bars": "Most sensitive layers",
    "tree": "Tree map by block",
    "choices": "Layer × choice",
    "steps": "Layer × step",
    "role": "By kind of layer",
    "block": "By block",
    "choice": "By choice",
    "agreement": "Two tables",
}
HEADINGS = {
    "bars": "The most sensitive layers; click one for its choices",
    "tree": "Every block and its layers: area is size, colour is cost; click a block to look into it",
    "choices": "What each layer costs as each choice",
    "steps": "When each layer costs: noisy steps on the left",
    "role": "Costs of the layers of each kind",
    "block": "Costs of the layers of each block",
    "choice": "Costs of all layers at each choice",
    "agreement": "Do two tables agree? Each point is a layer as a choice",
}
AT_A_CHOICE = ("bars", "tree", "steps", "role", "block")  # views of one choice, or of how much it matters
PICKED = "Click a layer in a figure to see its choices."


def show(
    text: str, name: str | None, view: str, label: str, area: str, other: str | None, *budget: Any
) -> dict[str, Any]:
    """The tab for the current recipe's model: the table that is shown, or the first that there is."""
    recipe = read(text)
    names = named(recipe.model)
    if not names:
        why = f"Nothing is known yet of the layers of **{recipe.model}**. Open **A new table** below and press "
        why += "**Measure**; how *fisher* answers soonest."
        return {"empty": gr.update(value=why, visible=True), "body": gr.update(visible=False),
                "name": gr.update(choices=[], value=None, visible=False)}  # fmt: skip
    chosen = name if name in names else next(iter(names))
    shown = {
        "empty": gr.update(visible=False),
        "body": gr.update(visible=True),
        "name": gr.update(choices=[(title, one) for one, title in names.items()], value=chosen, visible=True),
    }
    return shown | opened(text, chosen, view, label, area, other if other in names else None, *budget)


def opened(
    text: str, name: str | None, view: str, label: str, area: str, other: str | None, *budget: Any
) -> dict[str, Any]:
    """Another table: its view, and the budget within it."""
    model = read(text).model
    table, trust = table_of(model, name), layers_learned.trust(predictor_of(model, name))
    said = {"context": context(table), "picked": note(PICKED),
            "trust": gr.update(value=trust, visible=bool(trust)),
            "reward": gr.update(visible=table.kind == "score")}  # fmt: skip
    return said | look(text, name, view, label, area, other) | layers_budget.fresh(text, name, *budget)


def look(text: str, name: str | None, view: str, label: str, area: str, other: str | None) -> dict[str, Any]:
    """One of the views of a table, with the controls that mean something there."""
    model = read(text).model
    table = table_of(model, name)
    label = label if label in table.labels else ""
    others = {one: title for one, title in named(model).items() if one != name}
    other = other if other in others else next(iter(others), None)
    why = ""
    try:
        figure = drawn(table, view, label, area, table_of(model, other) if other and view == "agreement" else None)
    except DmqError as error:
        figure, why = None, runs.shown(error)
    return {
        "label": gr.update(choices=[(MATTERS, ""), *((one, one) for one in table.labels)], value=label,
                           visible=view in AT_A_CHOICE),
        "area": gr.update(visible=view == "tree" and bool(label)),
        "other": gr.update(choices=[(title, one) for one, title in others.items()], value=other,
                           visible=view == "agreement" and bool(others)),
        "figure": gr.update(value=figure, label=HEADINGS[view], visible=figure is not None),
        "why": gr.update(value=why, visible=bool(why)),
    }  # fmt: skip


def drawn(table: SensitivityTable, view: str, label: str, area: str, other: SensitivityTable | None) -> Any:
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
            raise DmqError("This table does not tell steps apart. One that is judged by noise does.")
        return made
    if other is None:
        raise DmqError("This is the only table of this model. Ask for a second one below, measured another way.")
    ranks = stages.agreement(table, other)
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


def tab(shared: Shared) -> None:
    """Draw the tab and connect it."""
    out: dict[str, Any] = {}
    gr.Markdown(
        "Not all layers need the same bits. A **sensitivity table** says what it costs to make each layer's weight "
        "into each of some formats; a **budget** shares out the bytes so that the costs add up to the least."
    )
    out["name"] = gr.Dropdown([], value=None, label="Table", elem_id="table-name")
    out["empty"] = gr.Markdown(visible=False, label="What to do first", elem_classes="dmq-empty")
    with gr.Column(visible=False) as out["body"]:
        out["context"] = gr.Markdown(label="What the costs hold for", elem_id="table-context")
        out["trust"] = gr.HTML(visible=False, label="How far to trust it", elem_id="table-trust")
        draw_views(out)
        layers_budget.draw(out)
    with gr.Accordion("A new table", open=False, elem_id="new-table"):
        asked = layers_asked.draw()
    with gr.Accordion(layers_learned.TITLE, open=False, elem_id="learn-mixes"):
        learned = layers_learned.draw()
    views = [out[name] for name in ("name", "view", "label", "area", "other")]
    budget = [out[name] for name in layers_budget.INPUTS]
    on([out["name"].input], opened, [shared.recipe, *views, *budget], out, trigger_mode="always_last",
       show_progress="minimal", show_progress_on=out["context"])  # fmt: skip
    on([out["view"].input, out["label"].input, out["area"].input, out["other"].input], look, [shared.recipe, *views],
       out, trigger_mode="always_last")  # fmt: skip
    for figure in ("figure", "strip"):
        on(out[figure].select, pick, [shared.recipe, out["name"]], {"picked": out["picked"]},
           trigger_mode="always_last")  # fmt: skip
    layers_budget.connect(shared, out)
    for drawn_by, job, make in (
        (asked, layers_asked.JOB, layers_asked.measure), (learned, layers_learned.JOB, layers_learned.learn)
    ):  # fmt: skip
        layers_asked.connect(shared, *drawn_by, job, make, show, [*views, *budget], out)
    shows(shared, show, [*views, *budget], out, waiting=out["context"])


def draw_views(out: dict[str, Any]) -> None:
    """The figures of a table, one at a time, and the layer that was clicked."""
    gr.Markdown("### Which layers are sensitive")
    out["view"] = gr.Radio([(title, key) for key, title in VIEWS.items()], value="bars", label="View",
                           elem_id="layer-views")  # fmt: skip
    with gr.Row():
        out["label"] = gr.Dropdown([(MATTERS, "")], value="", label="At the choice", min_width=240)
        out["area"] = gr.Radio(["weights", "bytes"], value="weights", label="Area", visible=False, min_width=200)
        out["other"] = gr.Dropdown([], value=None, label="Beside the table", visible=False, min_width=240)
    out["reward"] = gr.Markdown(REWARD, visible=False, label="Scores", elem_classes="dmq-hint", elem_id="layer-reward")
    out["why"] = gr.Markdown(visible=False, label="Why there is no figure", elem_classes="dmq-empty")
    out["figure"] = PlotlyView(label=HEADINGS["bars"], elem_id="layer-figure")
    out["picked"] = gr.HTML(label="Chosen layer", elem_id="layer-picked")
