"""The components of the Activations tab, and what their events call."""

from typing import Any

import gradio as gr

from dmq.figures import activations as figures

from ..events import connect_show, on
from ..layout import build_hint, build_plots
from ..session import Shared
from ..widgets.plotly_view import PlotlyView
from .handlers import ALL, POINTS, pick, refilter, scrub, show


def build_tab(shared: Shared) -> None:
    """Generate the tab and connect it."""
    out: dict[str, Any] = {"picked": gr.State("")}
    build_hint(out)
    with gr.Column(visible=False) as out["body"]:
        with gr.Row():
            names = list(figures.STATISTICS)
            statistic = gr.Dropdown(names, value=names[0], label="Statistic")
            point = gr.Dropdown(list(POINTS), value="inputs", label="Where")
            block = out["block"] = gr.Dropdown([ALL], value=ALL, label="Block")
        out["heat"] = PlotlyView(label="Statistic per layer and step; click a cell", elem_id="heat")
        out["title"] = gr.Markdown(label="Chosen layer", elem_id="layer-title")
        step = out["step"] = gr.Slider(0, 49, 0, step=1, label="Step (0 is noise)")
        build_plots(
            out,
            "activations",
            grid="Histogram at this step, with the grid and its error",
            channels="Channels at this step",
        )
        build_plots(
            out,
            "activations",
            ridge="Distribution over the steps",
            fan="Percentiles over the steps",
        )
        out["film"] = PlotlyView(label="Histogram over time; press play")
    filters = [statistic, point, block]
    on(
        [c.input for c in filters],
        refilter,
        [shared.recipe, *filters, out["picked"]],
        out,
        trigger_mode="always_last",
    )
    on(out["heat"].select, pick, [shared.recipe, *filters], out, trigger_mode="always_last")
    on(
        step.input,
        scrub,
        [shared.recipe, point, block, out["picked"], step],
        out,
        trigger_mode="always_last",
    )
    connect_show(shared, show, [*filters, out["picked"]], out, waiting=out["title"])
