"""The components of the Error over time tab, and what their events call."""

from typing import Any

import gradio as gr

from ..events import connect_show
from ..layout import build_gallery, build_hint, build_plots
from ..session import Shared
from . import probe, relaxing, trajectory_ranges
from .handlers import JOB, generate, show


HEAD = [
    "Recipe",
    "Error of the finished sample",
    "Isolated error, mean",
    "Mean activation bits",
    "MB",
]


def build_tab(shared: Shared) -> None:
    """Generate the tab and connect it."""
    gr.Markdown(
        "Each step starts from the result of the step before, so errors accumulate. Progressive "
        "calibration sets the ranges on the trajectory of the quantized model; activation relaxing "
        "gives more bits to the steps that need them (PCR)."
    )
    build(shared)
    trajectory_ranges.build(shared)
    relaxing.build(shared)
    probe.build(shared)


def build(shared: Shared) -> None:
    """The errors along the steps, and their events."""
    out: dict[str, Any] = {}
    with gr.Accordion("Errors along the steps", open=True, elem_id="error-over-time"):
        with gr.Row():
            prompts = out["prompts"] = gr.Textbox(
                "grinning cat", lines=2, label="Prompts to follow, one per line"
            )
            with gr.Column(min_width=280):
                seeds = out["seeds"] = gr.Textbox("0", label="Seeds to follow, such as 0, 1 or 0-3")
                others = out["others"] = gr.Dropdown([], multiselect=True, label="More recipes")
        JOB.build(out)
        build_results(out)
    JOB.connect(out, generate, [shared.recipe, prompts, seeds, others])
    connect_show(shared, show, [others], out, waiting=out["summary"])


def build_results(out: dict[str, Any]) -> None:
    """What is shown of the steps."""
    build_hint(out)
    with gr.Column(visible=False) as out["body"]:
        out["summary"] = gr.Markdown(
            label="Summary of the curves", elem_id="error-over-time-summary"
        )
        build_plots(
            out,
            "error-over-time",
            accumulated="Accumulated: the latents on the recipe's own trajectory",
            predicted_x0="Predicted x₀ at each step",
        )
        build_plots(
            out,
            "error-over-time",
            isolated="Isolated: the model's output on the float trajectory",
            weighed="Isolated, as it enters the latents",
        )
        out["strip"] = build_gallery(
            "Predicted x₀ at each step, then the finished image",
            9,
            elem_id="error-over-time-strip",
        )
        out["table"] = gr.Dataframe(
            headers=HEAD, label="Every recipe", interactive=False, max_height=300
        )
