"""Sampling and calibration under every tab, and the capture of statistics that figures and plans
stand on.
"""

from collections.abc import Generator
from typing import Any

import gradio as gr

from dmq.recipe import Calibration, Recipe, Sampling
from dmq.workflow import gpu_time
from dmq.workflow.answers import has_capture
from dmq.workflow.learning import capture_statistics

from . import forms, recipe_forms
from .events import bind, on
from .job_panel import JobPanel, note, watch
from .session import Shared, read, set_outside, stamp


FORMS = {"sampling": Sampling, "calibration": Calibration}
JOB = JobPanel(
    start={"go": "Capture"},
    stop="Stop capture",
    progress="Progress of the capture",
    stopped="Stopped; nothing was saved.",
)


def edited(paths: list[str], text: str, *values: Any) -> Recipe:
    """The recipe with the sampling and calibration of the form."""
    return recipe_forms.replace_parts(read(text), FORMS, paths, values)


def change(paths: list[str], text: str, *values: Any) -> dict[str, Any]:
    """The recipe after a control has moved."""
    made = edited(paths, text, *values)
    return {} if made == read(text) else set_outside(made)


@JOB.run
def capture(
    paths: list[str], text: str, *values: Any
) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Capture what the form asks for, with a bar; nothing is left behind when it is stopped."""
    recipe = edited(paths, text, *values)
    yield {}
    yield from watch(capture_statistics(recipe))
    return {"status": note("Captured."), "captured": stamp()} | set_outside(recipe)


def refresh(paths: list[str], text: str) -> dict[str, Any]:
    """The controls for the current recipe, opened up where there are no statistics for it."""
    recipe = read(text)
    shown = recipe_forms.name_outputs(recipe_forms.values_of_parts(recipe, FORMS, paths))
    done = has_capture(recipe)
    said = f"{recipe.calibration.samples} images, {recipe.sampling.steps} steps"
    title = f"Statistics: {said} captured" if done else f"Statistics: none yet for {said}"
    label = "Captured" if done else "Capture"
    return shown | {
        "panel": gr.update(label=title, open=not done),
        "go": gr.update(
            value=label, interactive=not done
        ),  # whether it is seen is up to the capture that may run
    }


def build(shared: Shared) -> None:
    """Generate the panel and connect it."""
    with gr.Accordion("Statistics", open=False, elem_classes="dmq-capture") as panel:
        gr.Markdown(
            "What the figures show was seen while the float model drew the calibration images. "
            "Other steps, guidance or images need a capture of their own; it is kept."
        )
        form: dict[str, Any] = {}
        out: dict[str, Any] = {}
        with gr.Row():
            for part, spec in FORMS.items():
                with gr.Column(min_width=260):
                    form |= recipe_forms.build_part(part, spec)
        JOB.build(out)
    paths = list(form)

    def seconds(text: str, *values: Any) -> float:
        recipe = edited(paths, text, *values)
        return gpu_time.estimate_gpu_seconds(
            recipe.model, recipe.calibration.samples, recipe.sampling.steps
        )

    chosen = shared.chosen
    inputs = [shared.recipe, *form.values()]
    on(forms.events(form), bind(change, paths), inputs, chosen, trigger_mode="always_last")
    JOB.connect(
        out, bind(capture, paths), inputs, chosen | {"captured": shared.captured}, seconds=seconds
    )
    shown = recipe_forms.name_outputs(form) | {
        "panel": panel,
        "go": out["go"],
    }
    on([shared.recipe.change, shared.captured.change], bind(refresh, paths), [shared.recipe], shown)
