"""The components of the Rounding tab, and what their events call."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import gradio as gr

from dmq.recipe import BlockReconstruction

from .. import forms
from ..events import on, shows
from ..session import Shared
from ..widgets.plotly_view import PlotlyView
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


def tab(shared: Shared) -> None:
    """Generate the tab and connect it."""
    out: dict[str, Any] = {}
    gr.Markdown(
        "A weight need not take its nearest code: what matters is what its block answers. Here the "
        "rounding of each block's weights is learned, one block after another, so that it answers "
        "as the float one (AdaRound, BRECQ). It shows at 4 bits and below; it takes minutes to "
        "hours."
    )
    own = out["own"] = gr.Checkbox(False, label="Learn the rounding block by block")
    form = build_settings(out)
    with gr.Row():
        JOB.build_buttons(out)
    JOB.build_progress(out)
    build_results(out)
    paths = list(form)

    def moved(text: str, own: bool, *values: Any) -> dict[str, Any]:
        return change(paths, text, own, *values)

    def redraw(text: str) -> Iterator[dict[str, Any]]:
        yield from show(paths, text)

    chosen_in = {"recipe": shared.recipe, "outside": shared.outside}
    on(
        [own.input, *forms.events(form)],
        moved,
        [shared.recipe, own, *form.values()],
        chosen_in,
        trigger_mode="always_last",
    )
    JOB.connect_stop(
        out, [JOB.connect_start(out["learn"].click, learn, [shared.recipe], out)], shared.recipe
    )
    shown = {f"form {path}": component for path, component in form.items()} | out
    shows(shared, redraw, [], shown, waiting=out["said"])


def build_settings(out: dict[str, Any]) -> dict[str, Any]:
    """The form of a BlockReconstruction; its components by path."""
    rest = tuple(
        field.name for field in dataclasses.fields(BlockReconstruction) if field.name not in MAIN
    )
    with gr.Column(visible=False) as out["settings"]:
        form = forms.form(BlockReconstruction, "Blocks", leave=rest)
        with gr.Accordion("More settings", open=False):
            form |= forms.form(BlockReconstruction, "Blocks", leave=MAIN)
    return form


def build_results(out: dict[str, Any]) -> None:
    """What is shown of learned blocks."""
    out["empty"] = gr.Markdown(visible=False, label="What to do first", elem_classes="dmq-empty")
    with gr.Column(visible=False) as out["body"]:
        out["said"] = gr.Markdown(label="What was learned", elem_id="blocks-said")
        with gr.Row():
            with gr.Column(min_width=380):
                out["errors"] = PlotlyView(
                    label="Error of each block before and after", elem_id="blocks-errors"
                )
            with gr.Column(min_width=380):
                out["losses"] = PlotlyView(label="Learning each block", elem_id="blocks-losses")
        out["table"] = gr.Dataframe(
            headers=HEAD, label="Every block", interactive=False, max_height=420
        )
