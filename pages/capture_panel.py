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
from .job_panel import JobPanel, format_note, watch
from .session import Shared, make_stamp, read, set_outside


FORMS = {"sampling": Sampling, "calibration": Calibration}
JOB = JobPanel(
    start={"go": "Capture"},
    stop="Stop capture",
    progress="Progress of the capture",
    stopped="Stopped; nothing was saved.",
)


def edit_recipe(paths: list[str], text: str, *values: Any) -> Recipe:
    """The recipe with the sampling and calibration of the form."""
    return recipe_forms.replace_parts(read(text), FORMS, paths, values)


def change(paths: list[str], text: str, *values: Any) -> dict[str, Any]:
    """The recipe after a control has moved."""
    changed = edit_recipe(paths, text, *values)
    return {} if changed == read(text) else set_outside(changed)


@JOB.run
def capture(
    paths: list[str], text: str, *values: Any
) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Capture what the form asks for, with a bar; nothing is left behind when it is stopped."""
    recipe = edit_recipe(paths, text, *values)
    yield {}
    yield from watch(capture_statistics(recipe))
    return {"status": format_note("Captured."), "captured": make_stamp()} | set_outside(recipe)


def refresh(paths: list[str], text: str) -> dict[str, Any]:
    """The controls for the current recipe, opened up where there are no statistics for it."""
    recipe = read(text)
    shown = recipe_forms.name_outputs(recipe_forms.list_part_values(recipe, FORMS, paths))
    done = has_capture(recipe)
    settings = f"{recipe.calibration.samples} images, {recipe.sampling.steps} steps"
    title = f"Statistics: {settings} captured" if done else f"Statistics: none yet for {settings}"
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
            "The figures show statistics of the float model while it generated the calibration images. "
            "Other steps, guidance or images need their own capture; it is stored."
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
        recipe = edit_recipe(paths, text, *values)
        return gpu_time.estimate_gpu_seconds(
            recipe.model, recipe.calibration.samples, recipe.sampling.steps
        )

    chosen = shared.chosen
    inputs = [shared.recipe, *form.values()]
    on(forms.list_events(form), bind(change, paths), inputs, chosen, trigger_mode="always_last")
    JOB.connect(
        out, bind(capture, paths), inputs, chosen | {"captured": shared.captured}, seconds=seconds
    )
    shown = recipe_forms.name_outputs(form) | {
        "panel": panel,
        "go": out["go"],
    }
    on([shared.recipe.change, shared.captured.change], bind(refresh, paths), [shared.recipe], shown)
