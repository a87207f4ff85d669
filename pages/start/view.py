"""The components of the Start tab, and what their events call."""

from typing import Any

import gradio as gr

from dmq import public

from .. import sidebar
from ..events import connect_show, on
from ..session import Shared
from ..widgets.plotly_view import PlotlyView
from . import placement as placing
from .handlers import begin, show


HEAD = ["Layer", "Kind", "Role", "Block", "Shape", "Weights", "MMAC"]


def build_tab(shared: Shared) -> None:
    """Generate the tab and connect it."""
    out: dict[str, Any] = {}
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            out["title"] = gr.Markdown("## …", label="Model")
            out["numbers"] = gr.HTML("Loading the model …", label="Numbers of the model")
        with gr.Column(scale=1, min_width=240):
            out["image"] = gr.Image(
                label="Sample images",
                format="png",
                interactive=False,
                visible=False,
                buttons=["fullscreen"],
                elem_classes="dmq-sample",
                elem_id="model-image",
            )
    gr.Markdown(
        "### Begin with a recipe\nEvery choice can be changed later; the sidebar shows what it "
        "costs."
    )
    recipes = out["recipes"] = gr.Radio([], label="Starting recipes")
    gr.Markdown("### Its layers")
    out["figure"] = PlotlyView(label="Layers by kind and block")
    with gr.Accordion("Table of layers", open=False):
        out["table"] = gr.Dataframe(headers=HEAD, label="Layers", interactive=False, max_height=420)
    with gr.Accordion("Another model", open=False, visible=not public.is_public()):
        gr.Markdown(
            "A folder that a diffusers pipeline was saved to, or a Hub id; safetensors only."
        )
        with gr.Row():
            name = gr.Textbox(label="Folder or Hub id", placeholder="owner/name", scale=4)
            load = gr.Button("Load", variant="primary", scale=1)
    if not public.is_public():  # it moves the models of all visitors
        placing.build(shared)
    chosen = shared.chosen
    on(
        [load.click, name.submit],
        sidebar.choose_model,
        [shared.recipe, name],
        chosen,
        show_progress="full",
        show_progress_on=[name],
    )
    on(recipes.input, begin, [shared.recipe, recipes], chosen)
    connect_show(shared, show, [], out, waiting=out["title"])
