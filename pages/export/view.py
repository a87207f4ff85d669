"""The components of the Export tab, and what their events call."""

from typing import Any

import gradio as gr

from ..events import MODEL, connect_show, on
from ..layout import build_hint
from ..session import Shared
from .handlers import (
    FORMS,
    JOB,
    PARTS,
    export,
    fetch,
    push,
    show,
    show_code,
    show_form_code,
    show_kernels,
)


PLACED = ["Runs on", "Layers", "Formats", "Which"]


SIZES_STYLE = """
.dmq-sizes { border-collapse: collapse; border: 0; width: 100%; max-width: 900px; font-size: 13px;
  font-variant-numeric: tabular-nums; }
.dmq-sizes tr { border: 0; }
.dmq-sizes th, .dmq-sizes td { border: 0; padding: 3px 12px 3px 0; text-align: right; white-space: nowrap;
  background: none; }
.dmq-sizes th { text-align: left; font-weight: 600; }
.dmq-sizes .bar { width: 45%; min-width: 60px; }
.dmq-sizes .part th { font-weight: 400; padding-left: 16px; }
.dmq-sizes .dmq-meter { height: 10px; border-radius: 5px; background: var(--border-color-primary); overflow: hidden; }
.dmq-sizes .dmq-meter div { height: 100%; border-radius: 5px; background: var(--color-accent); }
.dmq-sizes .part .dmq-meter div { opacity: .6; }
"""


def build_tab(shared: Shared) -> None:
    """Generate the tab and connect it."""
    out: dict[str, Any] = {}
    gr.Markdown(
        "Export the current recipe: packed codes that `diffusers` loads after `import "
        "dmq.checkpoint`, as large as the plan states, or weights alone that need no dmq. Sizes are "
        "of the denoiser."
    )
    build_hint(out)
    out["sizes"] = gr.HTML(label="Sizes", elem_id="export-sizes", css_template=SIZES_STYLE)
    with gr.Column(visible=False) as out["body"]:
        where = gr.Button("What runs where", size="sm")
        out["kernels"] = gr.Dataframe(
            headers=PLACED,
            label="What runs where",
            interactive=False,
            wrap=True,
            column_widths=["30%", "10%", "16%", "44%"],
            visible=False,
            max_height=360,
            elem_id="export-kernels",
        )
        with gr.Row(equal_height=True):
            form = gr.Radio(list(FORMS), value=next(iter(FORMS)), label="Files", min_width=300)
            part = gr.Radio(list(PARTS), value=next(iter(PARTS)), label="Of", min_width=200)
        JOB.build(out, min_width=220)
    with gr.Row(elem_classes="dmq-ends"):
        out["name"] = gr.Dropdown(
            [], value=None, label="Exports", min_width=260, info="Stored next to the runs."
        )
        out["file"] = gr.DownloadButton(
            "Download", visible=False, min_width=260, elem_id="export-file"
        )
    out["description"] = gr.HTML(label="The chosen export", elem_id="export-description")
    out["python"] = gr.Code(
        language="python", label="Code to load it", interactive=False, wrap_lines=True
    )
    out["commands"] = gr.Code(
        language="shell", label="Command line", lines=2, interactive=False, wrap_lines=True
    )
    with gr.Accordion("To the Hugging Face Hub", open=False):
        with gr.Row(elem_classes="dmq-ends"):
            repository = gr.Textbox("", label="Repository, owner/name", max_lines=1, min_width=240)
            private = gr.Checkbox(True, label="Private", min_width=100)
            out["push"] = gr.Button("Push the chosen export", min_width=200, interactive=False)
        out["hub"] = gr.HTML(label="Upload log", elem_id="export-hub")
    connect(shared, out, (form, part), where, (repository, private))


def connect(
    shared: Shared,
    out: dict[str, Any],
    chosen: tuple[Any, Any],
    where: gr.Button,
    hub: tuple[Any, Any],
) -> None:
    """The tab's events."""
    shown: dict[str, Any] = {
        "show_progress": "minimal",
        "show_progress_on": out["status"],
        "trigger_mode": "multiple",
    }
    snippets = {name: out[name] for name in ("python", "commands")}
    on(where.click, show_kernels, [shared.recipe], out, **MODEL, **shown)
    JOB.connect(out, export, [shared.recipe, *chosen])
    on(
        out["name"].input,
        fetch,
        [out["name"]],
        out,
        show_progress="minimal",
        show_progress_on=out["status"],
    )
    on(out["name"].input, show_code, [shared.recipe, *chosen, out["name"]], snippets)
    on(
        [component.input for component in chosen],
        show_form_code,
        [shared.recipe, *chosen],
        snippets,
        trigger_mode="always_last",
    )
    on(
        out["push"].click,
        push,
        [out["name"], *hub],
        out,
        show_progress="minimal",
        show_progress_on=out["hub"],
    )
    connect_show(shared, show, [*chosen, out["name"]], out, waiting=out["sizes"])
