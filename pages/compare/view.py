"""The components of the Compare tab, and what their events call."""

from typing import Any

import gradio as gr

from ..events import connect_show, on
from ..forms import build_engine_choice
from ..layout import build_gallery, build_plots
from ..session import Shared
from .handlers import JOB, estimate_seconds, generate, show, show_pair, show_run, take_recipe


EXAMPLES = ("grinning cat", "red heart", "sun behind cloud", "pizza")


def build_tab(shared: Shared) -> None:
    """Generate the tab and connect it."""
    out: dict[str, Any] = {}
    prompts = build_request(out)
    build_results(out)
    connect(shared, out, prompts)


def build_request(out: dict[str, Any]) -> gr.Textbox:
    """What is to be generated; returns the prompts, which a model may have no use for."""
    with gr.Row():
        with gr.Column(scale=3, min_width=320) as out["prompt_column"]:
            prompts = gr.Textbox(EXAMPLES[0], lines=2, label="Prompts, one per line")
            gr.Examples(
                [[prompt] for prompt in EXAMPLES], [prompts], label="Try", api_visibility="private"
            )
        with gr.Column(scale=2, min_width=280):
            out["seeds"] = gr.Textbox("0", label="Seeds, such as 0, 1 or 0-3")
            with gr.Row():
                out["steps"] = gr.Number(50, label="Steps", precision=0, min_width=100)
                out["guidance"] = gr.Number(4.0, label="Guidance", min_width=100)
            out["others"] = gr.Dropdown(
                [],
                multiselect=True,
                label="Compare with recipes",
                info="Recipes that ship and those of earlier runs, for this model and its "
                "statistics.",
            )
            out["computed"] = build_engine_choice()
    with gr.Row(equal_height=True):
        JOB.build_buttons(out, min_width=280)
        out["run"] = gr.Dropdown([], label="Open an earlier run", value=None, min_width=280)
    JOB.build_progress(out)
    return prompts


def build_results(out: dict[str, Any]) -> None:
    """What is shown of a run."""
    with gr.Column(visible=False) as out["results"]:
        out["gallery"] = build_gallery("Images", 6)
        out["summary"] = gr.Markdown(label="Summary", elem_id="summary")
        with gr.Row():
            out["image"] = gr.Dropdown([], label="Image", type="value", min_width=280)
            out["recipe_name"] = gr.Dropdown([], label="Recipe", min_width=280)
        frame: dict[str, Any] = {
            "format": "png",
            "interactive": False,
            "elem_classes": "dmq-pixels dmq-pair",
            "height": 360,
        }
        frame |= {"min_width": 280}
        with gr.Row():
            out["slider"] = gr.ImageSlider(label="Float | quantized", **frame)
            out["difference"] = gr.Image(
                label="Difference × 4", buttons=["download", "fullscreen"], **frame
            )
        out["strip"] = build_gallery("Intermediate images, noise to image", 8)
        build_plots(out, "compare", 320, psnr="PSNR of every image", ssim="SSIM of every image")
        head = ["Recipe", "Prompt", "Seed", "PSNR (dB)", "SSIM"]
        out["table"] = gr.Dataframe(
            headers=head, label="Every image", interactive=False, max_height=360
        )
        with gr.Row():
            out["sheet"] = gr.DownloadButton("Download all images (PNG)", size="sm")
            out["take"] = gr.Button("Make this recipe the current one", size="sm")


def connect(shared: Shared, out: dict[str, Any], prompts: gr.Textbox) -> None:
    """The tab's events."""
    run, image, recipe_name, others = (
        out[name] for name in ("run", "image", "recipe_name", "others")
    )
    chosen = shared.chosen
    form = [prompts, *(out[name] for name in ("seeds", "steps", "guidance", "others", "computed"))]
    # "once", since Enter can be pressed twice.
    started = JOB.connect_start(
        [out["go"].click, prompts.submit],
        generate,
        [shared.recipe, *form],
        out,
        seconds=estimate_seconds,
        trigger_mode="once",
    )
    JOB.connect_stop(out, [started], shared.recipe)
    on(run.input, show_run, [run], out, show_progress="minimal")
    on([image.input, recipe_name.input], show_pair, [run, image, recipe_name], out)
    on(out["take"].click, take_recipe, [run, recipe_name], chosen)
    connect_show(shared, show, [others, out["computed"]], out)
