"""The components of the Layers tab, and what their events call."""

from typing import Any

import gradio as gr

from ..events import connect_show, on
from ..layout import build_hint
from ..session import Shared
from ..widgets.plotly_view import PlotlyView
from . import budget, learned_table, new_table
from .handlers import HEADINGS, MATTERS, change_view, open_table, pick, show
from .tables import REWARD


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


def build_tab(shared: Shared) -> None:
    """Generate the tab and connect it."""
    out: dict[str, Any] = {}
    gr.Markdown(
        "A **sensitivity table** holds the cost of storing each layer's weight in each format. A "
        "**budget** assigns formats to layers so that the total cost is minimal."
    )
    out["name"] = gr.Dropdown([], value=None, label="Table", elem_id="table-name")
    build_hint(out)
    with gr.Column(visible=False) as out["body"]:
        out["context"] = gr.Markdown(label="What the costs are", elem_id="table-context")
        out["trust"] = gr.HTML(visible=False, label="Reliability", elem_id="table-trust")
        build_views(out)
        budget.build(out)
    with gr.Accordion("A new table", open=False, elem_id="new-table"):
        measured = new_table.build()
    with gr.Accordion(learned_table.TITLE, open=False, elem_id="learn-mixes"):
        learned = learned_table.build()
    views = [out[name] for name in ("name", "view", "label", "area", "other")]
    shares = [out[name] for name in budget.INPUTS]
    on(
        [out["name"].input],
        open_table,
        [shared.recipe, *views, *shares],
        out,
        trigger_mode="always_last",
        show_progress="minimal",
        show_progress_on=out["context"],
    )
    on(
        [out["view"].input, out["label"].input, out["area"].input, out["other"].input],
        change_view,
        [shared.recipe, *views],
        out,
        trigger_mode="always_last",
    )
    for figure in ("figure", "strip"):
        on(
            out[figure].select,
            pick,
            [shared.recipe, out["name"]],
            {"picked": out["picked"]},
            trigger_mode="always_last",
        )
    budget.connect(shared, out)
    for drawn_by, job, make in (
        (measured, new_table.JOB, new_table.measure),
        (learned, learned_table.JOB, learned_table.learn),
    ):
        new_table.connect(shared, *drawn_by, job, make, show, [*views, *shares], out)
    connect_show(shared, show, [*views, *shares], out, waiting=out["context"])


def build_views(out: dict[str, Any]) -> None:
    """The figures of a table, one at a time, and the layer that was clicked."""
    gr.Markdown("### Which layers are sensitive")
    out["view"] = gr.Radio(
        [(title, key) for key, title in VIEWS.items()],
        value="bars",
        label="View",
        elem_id="layer-views",
    )
    with gr.Row():
        out["label"] = gr.Dropdown([(MATTERS, "")], value="", label="At the choice", min_width=240)
        out["area"] = gr.Radio(
            ["weights", "bytes"], value="weights", label="Area", visible=False, min_width=200
        )
        out["other"] = gr.Dropdown(
            [], value=None, label="Compare with table", visible=False, min_width=240
        )
    out["reward"] = gr.Markdown(
        REWARD, visible=False, label="Scores", elem_classes="dmq-hint", elem_id="layer-reward"
    )
    out["why"] = gr.Markdown(visible=False, label="Reason for no figure", elem_classes="dmq-empty")
    out["figure"] = PlotlyView(label=HEADINGS["bars"], elem_id="layer-figure")
    out["picked"] = gr.HTML(label="Chosen layer", elem_id="layer-picked")
