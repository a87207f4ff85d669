"""What the tabs are laid out with: a hint while there are no results, plots side by side,
galleries.
"""

from typing import Any

import gradio as gr

from dmq.recipe import Recipe
from dmq.workflow.answers import has_capture

from .widgets.plotly_view import PlotlyView


def explain_no_capture(recipe: Recipe) -> str:
    """What to do if there are no statistics for `recipe`; empty if there are."""
    if has_capture(recipe):
        return ""
    return (
        f"Nothing captured yet for **{recipe.model}** with these settings. Press **Capture** below."
    )


def show_hint(hint: str) -> dict[str, Any]:
    """The hint in place of the results."""
    return {"empty": gr.update(value=hint, visible=True), "body": gr.update(visible=False)}


def show_body() -> dict[str, Any]:
    """The results in place of the hint."""
    return {"empty": gr.update(visible=False), "body": gr.update(visible=True)}


def build_hint(out: dict[str, Any]) -> None:
    """Draw the place of the hint into `out`."""
    out["empty"] = gr.Markdown(visible=False, label="What to do first", elem_classes="dmq-empty")


def build_plots(out: dict[str, Any], prefix: str, min_width: int = 380, **labels: str) -> None:
    """Draw the figures of these names and labels side by side into `out`; ids begin with
    `prefix`.
    """
    with gr.Row():
        for name, label in labels.items():
            with gr.Column(min_width=min_width):
                out[name] = PlotlyView(label=label, elem_id=f"{prefix}-{name.replace('_', '-')}")


def build_gallery(label: str, columns: int, *, classes: str = "dmq-pixels", **options: Any) -> Any:
    """A gallery that keeps every pixel of small images."""
    return gr.Gallery(
        label=label,
        columns=columns,
        format="png",
        object_fit="contain",
        elem_classes=classes,
        height="auto",
        interactive=False,
        fit_columns=False,
        **options,
    )
