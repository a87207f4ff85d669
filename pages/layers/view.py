"""The components of the Layers tab, and what their events call."""

from typing import Any

import gradio as gr

from ..events import on, shows
from ..layout import build_hint
from ..session import Shared
from ..widgets.plotly_view import PlotlyView
from . import budget, learned_table, new_table
from .handlers import HEADINGS, MATTERS, look, opened, pick, show
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


def tab(shared: Shared) -> None:
    """Generate the tab and connect it."""
    out: dict[str, Any] = {}
    gr.Markdown(
        "Not all layers need the same bits. A **sensitivity table** says what it costs to make "
        "each layer's weight "
        "into each of some formats; a **budget** shares out the bytes so that the costs add up to "
        "the least."
    )
    out["name"] = gr.Dropdown([], value=None, label="Table", elem_id="table-name")
    build_hint(out)
    with gr.Column(visible=False) as out["body"]:
        out["context"] = gr.Markdown(label="What the costs hold for", elem_id="table-context")
        out["trust"] = gr.HTML(visible=False, label="How far to trust it", elem_id="table-trust")
        build_views(out)
        budget.draw(out)
    with gr.Accordion("A new table", open=False, elem_id="new-table"):
        asked = new_table.draw()
    with gr.Accordion(learned_table.TITLE, open=False, elem_id="learn-mixes"):
        learned = learned_table.draw()
    views = [out[name] for name in ("name", "view", "label", "area", "other")]
    shares = [out[name] for name in budget.INPUTS]
    on(
        [out["name"].input],
        opened,
        [shared.recipe, *views, *shares],
        out,
        trigger_mode="always_last",
        show_progress="minimal",
        show_progress_on=out["context"],
    )
    on(
        [out["view"].input, out["label"].input, out["area"].input, out["other"].input],
        look,
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
        (asked, new_table.JOB, new_table.measure),
        (learned, learned_table.JOB, learned_table.learn),
    ):
        new_table.connect(shared, *drawn_by, job, make, show, [*views, *shares], out)
    shows(shared, show, [*views, *shares], out, waiting=out["context"])


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
            [], value=None, label="Beside the table", visible=False, min_width=240
        )
    out["reward"] = gr.Markdown(
        REWARD, visible=False, label="Scores", elem_classes="dmq-hint", elem_id="layer-reward"
    )
    out["why"] = gr.Markdown(
        visible=False, label="Why there is no figure", elem_classes="dmq-empty"
    )
    out["figure"] = PlotlyView(label=HEADINGS["bars"], elem_id="layer-figure")
    out["picked"] = gr.HTML(label="Chosen layer", elem_id="layer-picked")
