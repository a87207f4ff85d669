"""The components of the Benchmark tab, and what their events call."""

from typing import Any

import gradio as gr

from dmq.figures import bench_table
from dmq.figures import benchmark as figures

from ..events import connect_show, on
from ..layout import build_gallery, build_hint, build_plots
from ..session import Shared
from . import new_benchmark as benching
from .handlers import change_view, open_benchmark, show


VIEW = ("run", "others_shown", "domain", "measure")  # the controls of what is shown


FINDING_STYLE = """
.finding { border-left: 4px solid #E69F00; padding: 6px 14px; background: rgba(230,159,0,.10); border-radius: 4px; }
.finding ul { margin: 4px 0 0; padding-left: 18px; list-style: disc; }
.finding p, .quiet { margin: 4px 0 0; opacity: .75; font-size: 13px; }
"""


def build_tab(shared: Shared) -> None:
    """Generate the tab and connect it."""
    out: dict[str, Any] = {}
    gr.Markdown(
        "Each recipe generates the same prompts from the same noise as the float model, and is "
        "measured against the **float model's own images**. The noise floor is the difference between "
        "float images of different seeds."
    )
    with gr.Row():
        out["run"] = gr.Dropdown([], value=None, label="Finished benchmark", min_width=240)
        out["others_shown"] = gr.Dropdown(
            [],
            multiselect=True,
            label="Compare with",
            min_width=240,
            info="With the same prompts, seeds and sampling.",
        )
    build_hint(out)
    build_results(out)
    with gr.Accordion("A new benchmark", open=False) as more:
        benching.build(out)
    view_inputs = [out[name] for name in VIEW]
    shown = on(
        [out["run"].input, out["others_shown"].input],
        open_benchmark,
        view_inputs,
        out,
        show_progress="minimal",
        show_progress_on=out["context"],
        trigger_mode="always_last",
    )
    on(
        [out["domain"].input, out["measure"].input],
        change_view,
        view_inputs,
        out,
        trigger_mode="always_last",
    )
    benching.connect(shared, out, more, shown, open_benchmark, view_inputs)
    connect_show(shared, show, [*view_inputs, out["computed"]], out, waiting=out["context"])


def build_results(out: dict[str, Any]) -> None:
    """What is shown of a benchmark."""
    with gr.Column(visible=False) as out["body"]:
        out["finding"] = gr.HTML(
            label="Finding", elem_id="bench-finding", css_template=FINDING_STYLE
        )
        out["domain"] = gr.Radio([], label="Domain")
        out["table"] = gr.HTML(label="Table", elem_id="bench-table", css_template=bench_table.STYLE)
        out["context"] = gr.Markdown(
            label="Conditions of the measurement", elem_id="bench-context", elem_classes="dmq-hint"
        )
        out["notes"] = gr.Markdown(visible=False, label="Notes", elem_id="bench-notes")
        out["measure"] = gr.Dropdown([], value=None, label="Measure in the figures")
        out["key"] = gr.HTML(label="Marks", elem_id="bench-key", css_template=figures.KEY_STYLE)
        build_plots(
            out,
            "bench",
            320,
            bytes="Quality against bytes",
            seconds="Quality against seconds",
        )
        out["gallery"] = build_gallery(
            "The worst images: float | quantized",
            6,
            classes="dmq-pixels dmq-pairs",
            elem_id="bench-worst",
        )
        with gr.Row():
            out["page"] = gr.DownloadButton("Download the report (HTML)", size="sm")
            out["csv"] = gr.DownloadButton("Download the table (CSV)", size="sm")
