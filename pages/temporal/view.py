"""The components of the Temporal tab, and what their events call."""

import dataclasses
from typing import Any

import gradio as gr

from dmq.recipe import Temporal

from .. import forms
from ..events import on
from ..layout import build_hint, build_plots
from ..recipe_forms import connect_part
from ..session import Shared
from ..widgets.plotly_view import PlotlyView
from .handlers import JOB, change, deviate, learn, pick, show


PARTS = tuple(field.name for field in dataclasses.fields(Temporal))


def build_tab(shared: Shared) -> None:
    """Generate the tab and connect it."""
    out: dict[str, Any] = {"picked": gr.State("")}
    gr.Markdown(
        "Each block receives the timestep as an embedding that does not depend on the image. If it "
        "is quantized coarsely, the model acts as if it were at another timestep (Temporal Feature "
        "Matters)."
    )
    out["enabled"] = gr.Checkbox(False, label="Quantize the time embedding separately")
    form = build_settings(out)
    with gr.Row():
        JOB.build_buttons(out, "learn")
        count = gr.Slider(1, 16, 2, step=1, label="Images to run", min_width=160)
        JOB.build_buttons(out, "run", "stop")
    JOB.build_progress(out)
    build_results(out)
    connect(shared, form, out, count)


def build_settings(out: dict[str, Any]) -> dict[str, Any]:
    """The form of a Temporal, its parts side by side; its components by path."""
    form: dict[str, Any] = {}
    with gr.Column(visible=False) as out["settings"], gr.Row():
        for part in PARTS:
            with gr.Column(min_width=240):
                form |= forms.build_form(
                    Temporal, "Time embedding", leave=tuple(name for name in PARTS if name != part)
                )
    return form


def build_results(out: dict[str, Any]) -> None:
    """What is shown of the time embedding."""
    build_hint(out)
    with gr.Column(visible=False) as out["body"]:
        out["summary"] = gr.Markdown(label="Summary of the features", elem_id="temporal-summary")
        build_plots(
            out,
            "temporal",
            before="Error of the features, as all other layers",
            after="Error of the features, with this recipe; click a cell",
        )
        build_plots(
            out,
            "temporal",
            shift_before="Step a feature is taken for, as all other layers",
            shift_after="Step a feature is taken for, with this recipe",
        )
        out["cell"] = gr.Markdown(label="Chosen cell", elem_id="temporal-cell")
        out["vectors"] = PlotlyView(label="The vectors behind the cell", elem_id="temporal-vectors")
        build_plots(
            out,
            "temporal",
            ranges="Ranges of the time embedding's activations",
            bits="A cache of everything: bits, error, size",
        )
        out["selection"] = PlotlyView(label="Computed or from the cache", visible=False)
        out["deviation"] = PlotlyView(
            label="The latents, with the time embedding alone quantized",
            visible=False,
            elem_id="temporal-deviation",
        )
        out["loss"] = PlotlyView(label="Learning the rounding", visible=False)


def connect(shared: Shared, form: dict[str, Any], out: dict[str, Any], count: gr.Slider) -> None:
    """The tab's events."""
    clicks = [
        out[name].select for name in ("before", "after", "shift_before", "shift_after", "selection")
    ]
    on(clicks, pick, [shared.recipe], out, trigger_mode="always_last")
    learning = JOB.connect_start(out["learn"].click, learn, [shared.recipe], out)
    running = JOB.connect_start(out["run"].click, deviate, [shared.recipe, count], out)
    JOB.connect_stop(out, [learning, running], shared.recipe)
    connect_part(shared, out, form, change, show, [out["picked"]])
