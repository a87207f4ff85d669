"""The components of the Rounding tab, and what their events call."""

import dataclasses
from typing import Any

import gradio as gr

from dmq.recipe import BlockReconstruction

from .. import forms
from ..layout import build_hint, build_plots
from ..recipe_forms import connect_part
from ..session import Shared
from .handlers import JOB, change, learn, show


MAIN = ("iterations", "images", "time")
HEAD = [
    "Block",
    "Layers",
    "Error, nearest",
    "Error, learned",
    "… step sizes too",
    "Codes changed",
    "Weights",
    "Share",
]


def build_tab(shared: Shared) -> None:
    """Generate the tab and connect it."""
    out: dict[str, Any] = {}
    gr.Markdown(
        "The nearest code of a weight is not always best for the output of its block. Here the "
        "rounding of each block's weights is learned, one block after another, so that its output "
        "matches the float block (AdaRound, BRECQ). It helps at 4 bits and below, and takes minutes "
        "to hours."
    )
    out["enabled"] = gr.Checkbox(False, label="Learn the rounding block by block")
    form = build_settings(out)
    JOB.build(out)
    build_results(out)
    JOB.connect(out, learn, [shared.recipe])
    connect_part(shared, out, form, change, show, [])


def build_settings(out: dict[str, Any]) -> dict[str, Any]:
    """The form of a BlockReconstruction; its components by path."""
    rest = tuple(
        field.name for field in dataclasses.fields(BlockReconstruction) if field.name not in MAIN
    )
    with gr.Column(visible=False) as out["settings"]:
        form = forms.build_form(BlockReconstruction, "Blocks", leave=rest)
        with gr.Accordion("More settings", open=False):
            form |= forms.build_form(BlockReconstruction, "Blocks", leave=MAIN)
    return form


def build_results(out: dict[str, Any]) -> None:
    """What is shown of learned blocks."""
    build_hint(out)
    with gr.Column(visible=False) as out["body"]:
        out["summary"] = gr.Markdown(label="Summary of the blocks", elem_id="blocks-summary")
        build_plots(
            out,
            "blocks",
            errors="Error of each block before and after",
            losses="Learning each block",
        )
        out["table"] = gr.Dataframe(
            headers=HEAD, label="Every block", interactive=False, max_height=420
        )
