"""The components of the Time groups tab, and what their events call."""

from typing import Any

import gradio as gr

from ..events import connect_show, on
from ..layout import build_hint, build_plots
from ..session import Shared
from ..widgets.partition_strip import PartitionStrip
from ..widgets.plotly_view import PlotlyView
from . import search
from .handlers import (
    drag,
    group_optimal,
    group_per_step,
    group_shared,
    group_uniform,
    merge,
    recount,
    show,
    split,
)


def build_tab(session: Shared) -> None:
    """Generate the tab and connect it."""
    out: dict[str, Any] = {"recipe": session.recipe}
    build_hint(out)
    with gr.Column(visible=False) as out["body"]:
        strip = out["strip"] = PartitionStrip(
            [], steps=50, label="Groups of steps", elem_id="strip"
        )
        out["locked"] = gr.Markdown(
            "Each layer has cuts of its own; the map at the bottom shows them.", visible=False
        )
        with gr.Row(elem_classes="dmq-buttons"):
            presets = {
                fn: gr.Button(name, size="sm", min_width=90)
                for name, fn in (
                    ("Shared", group_shared),
                    ("Uniform", group_uniform),
                    ("Optimal", group_optimal),
                    ("Per step", group_per_step),
                    ("Split the longest", split),
                    ("Merge the shortest", merge),
                )
            }
        with gr.Row(elem_classes="dmq-count"):
            count = out["count"] = gr.Slider(1, 50, 8, step=1, label="Number of groups", scale=3)
            per_layer = out["per_layer"] = gr.Checkbox(
                False, label="Separate cuts per layer (optimal)", scale=1
            )
        gr.Markdown(
            "Drag a boundary, or move it with the arrow keys; Delete removes it, a double click "
            "adds one.",
            elem_classes="dmq-hint",
        )
        out["summary"] = gr.Markdown(label="Total error", elem_id="total-error")
        out["per_step"] = PlotlyView(label="Error per step", elem_id="error-per-step")
        build_plots(
            out,
            "groups",
            against="Error against the number of groups",
            slots="Group of every layer and step",
        )
        out["per_site"] = PlotlyView(label="Error per layer")
    more: dict[Any, list[Any]] = {
        split: [strip],
        merge: [strip],
        group_uniform: [count],
        group_optimal: [count, per_layer],
    }
    for handler, button in presets.items():
        on(button.click, handler, [session.recipe, *more.get(handler, [])], out)
    on(strip.input, drag, [session.recipe, strip], out, trigger_mode="always_last")
    on(count.input, recount, [session.recipe, count, per_layer], out, trigger_mode="always_last")
    on(
        per_layer.input,
        group_optimal,
        [session.recipe, count, per_layer],
        out,
        trigger_mode="always_last",
    )
    connect_show(session, show, [count], out, waiting=out["summary"])
    search.build(session)
