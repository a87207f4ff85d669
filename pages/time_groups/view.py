"""The components of the Time groups tab, and what their events call."""

from typing import Any

import gradio as gr

from ..events import on, shows
from ..layout import build_hint, build_plots
from ..session import Shared
from ..widgets.partition_strip import PartitionStrip
from ..widgets.plotly_view import PlotlyView
from . import search
from .handlers import drag, merge, optimal, per_step, recount, shared, show, split, uniform


def tab(session: Shared) -> None:
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
                    ("Shared", shared),
                    ("Uniform", uniform),
                    ("Optimal", optimal),
                    ("Per step", per_step),
                    ("Split the longest", split),
                    ("Merge the shortest", merge),
                )
            }
        with gr.Row(elem_classes="dmq-count"):
            count = out["count"] = gr.Slider(1, 50, 8, step=1, label="Number of groups", scale=3)
            own = out["own"] = gr.Checkbox(
                False, label="Each layer its own cuts (optimal)", scale=1
            )
        gr.Markdown(
            "Drag a boundary, or move it with the arrow keys; Delete removes it, a double click "
            "adds one.",
            elem_classes="dmq-hint",
        )
        out["said"] = gr.Markdown(label="Total error", elem_id="total-error")
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
        uniform: [count],
        optimal: [count, own],
    }
    for handler, button in presets.items():
        on(button.click, handler, [session.recipe, *more.get(handler, [])], out)
    on(strip.input, drag, [session.recipe, strip], out, trigger_mode="always_last")
    on(count.input, recount, [session.recipe, count, own], out, trigger_mode="always_last")
    on(own.input, optimal, [session.recipe, count, own], out, trigger_mode="always_last")
    shows(session, show, [count], out, waiting=out["said"])
    search.build(session)
