"""Ranges along the quantized trajectory (PCR), in the Error over time tab: set them, stop, go on, see
what they changed.
"""

from collections.abc import Generator, Iterator
from typing import Any

import gradio as gr
import numpy as np

from dmq.errors import DmqError
from dmq.evaluation import range_change
from dmq.figures import error_over_time as figures
from dmq.figures.style import label
from dmq.recipe import FLOAT, Progressive, Recipe
from dmq.store import folders
from dmq.workflow.answers import (
    count_finished_calls,
    get_ranges,
    get_relaxed_steps,
    has_ranges,
    has_windows,
)
from dmq.workflow.learning import calibrate_ranges

from .. import forms
from ..events import on
from ..job_panel import JobPanel, format_note, watch
from ..layout import build_hint, explain_no_capture, show_body, show_hint
from ..recipe_forms import change_part, connect_part, show_part
from ..session import Shared, read
from ..widgets.plotly_view import PlotlyView


# --- the recipe and its state ---------------------------------------------------------------------


def change(paths: list[str], text: str, enabled: bool, *values: Any) -> dict[str, Any]:
    """The recipe after a control has moved."""
    return change_part("progressive", Progressive, paths, text, enabled, *values)


def explain_hindrance(recipe: Recipe) -> str:
    """Why no ranges can be set, with what to do; empty if they can."""
    if hint := explain_no_capture(recipe):
        return hint
    if recipe.progressive is None:
        return "Ranges are those of the float model's trajectory. Tick the box to set them on the quantized one."
    if recipe.activations.bits == FLOAT and not any(
        o.activation_bits not in (None, FLOAT) for o in recipe.overrides
    ):
        return "This recipe leaves all activations in float: there are no ranges to set. Choose activation bits."
    if not has_windows(recipe):
        return "Which steps get more bits is still to be measured: press **Measure the windows** below."
    try:
        get_relaxed_steps(recipe)
    except DmqError as error:
        return folders.hide_places(error)
    return ""


def show(paths: list[str], text: str, picked: str) -> Iterator[dict[str, Any]]:
    """The part for the current recipe: the form at once, then the ranges."""
    recipe = read(text)
    form = show_part(recipe.progressive, Progressive, paths)
    if why := explain_hindrance(recipe):
        yield form | show_hint(why) | {"go": gr.update(visible=False)}
        return
    yield form
    yield show_ranges(recipe, picked)


def show_ranges(recipe: Recipe, picked: str) -> dict[str, Any]:
    """The ranges that were set, or what there is of them, and the button for the rest."""
    if not has_ranges(recipe):
        finished_calls = count_finished_calls(recipe)
        why = "The ranges are still to be set: press **Calibrate**. That takes two denoiser calls for each step."
        if finished_calls:
            why = f"{finished_calls} denoiser calls are finished: press **Calibrate the other steps**."
        return show_hint(why) | {
            "go": gr.update(
                visible=True, value="Calibrate the other steps" if finished_calls else "Calibrate"
            )
        }
    return show_overview(recipe, picked) | {"go": gr.update(visible=False)}


# --- figures --------------------------------------------------------------------------------------


def show_overview(recipe: Recipe, picked: str) -> dict[str, Any]:
    """The map, the ribbons of the picked layer, and what there is to say."""
    change = range_change.compare_ranges(recipe)
    wider, labels = change.wider, [site.label for site in change.sites]
    name, _, step = picked.rpartition(" ")
    if name in labels and int(step) < wider.shape[1]:
        s, i = labels.index(name), int(step)
    else:
        s, i = (int(k) for k in np.unravel_index(np.abs(wider).argmax(), wider.shape))
    cell = f"### {label(change.sites[s])}, step {i}\n"
    cell += f"float trajectory: {change.float_low[s, i]:.4g} to {change.float_high[s, i]:.4g}; "
    cell += f"quantized trajectory: {change.low[s, i]:.4g} to {change.high[s, i]:.4g}, "
    return show_body() | {
        "summary": summarize(recipe, wider),
        "map": figures.range_change(change.sites, wider, (s, i)),
        "cell": cell
        + f"{100 * abs(wider[s, i]):.2f} % {'wider' if wider[s, i] > 0 else 'narrower'}.",
        "ribbons": figures.ranges(
            (change.float_low[s], change.float_high[s]), (change.low[s], change.high[s])
        ),
        "layer": gr.update(
            choices=[(label(site), site.label) for site in change.sites], value=labels[s]
        ),
        "picked": f"{labels[s]} {i}",
    }


def summarize(recipe: Recipe, wider: np.ndarray) -> str:
    """How far the ranges moved, in two or three sentences."""
    ranges = get_ranges(recipe)
    if ranges is None:  # a click that came after the box was emptied
        raise DmqError("this recipe sets no ranges on the quantized trajectory; click again.")
    text = f"Set on {recipe.calibration.samples} images at {ranges.calls} denoiser calls. "
    text += f"A range is **{100 * np.abs(wider).mean():.2f} %** wider or narrower than on the float trajectory on "
    text += f"average, {100 * np.abs(wider).max():.1f} % at most."
    if ranges.widest_change > 0:
        text += (
            "\n\n⚠ Some range serves several calls, and grew by up to "
            f"{100 * ranges.widest_change:.2f} % after it "
            "was first used: the earlier calls were answered with a narrower one. A range per step "
            "avoids this."
        )
    return text


def pick(text: str, click: gr.SelectData) -> dict[str, Any]:
    """The layer and step that were clicked in the map."""
    recipe = read(text)
    change = range_change.compare_ranges(recipe)
    row, step = click.index if isinstance(click.index, list | tuple) else (-1, -1)
    if not (0 <= row < len(change.sites) and 0 <= step < change.low.shape[1]):
        raise DmqError("this cell is no longer there; click again.")
    return show_overview(recipe, f"{change.sites[row].label} {step}")


def choose(text: str, layer: str | None, picked: str) -> dict[str, Any]:
    """Another layer at the same step."""
    return show_overview(read(text), f"{layer} {picked.rpartition(' ')[2] or 0}") if layer else {}


# --- what runs ------------------------------------------------------------------------------------


def show_rest(text: str) -> dict[str, Any]:
    """What there is when calibrating was stopped."""
    recipe = read(text)
    return {} if explain_hindrance(recipe) else show_ranges(recipe, "")


JOB = JobPanel(
    start={"go": "Calibrate"},
    hidden=("go",),
    stop="Stop, keep finished calls",
    progress="Progress of the calibration",
    stopped="Stopped; finished denoiser calls were kept.",
    after_stop=show_rest,
)


@JOB.run
def calibrate(text: str) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Set the ranges, with a bar; denoiser calls that are finished when it is stopped are kept."""
    recipe = read(text)
    yield {}
    yield from watch(calibrate_ranges(recipe))
    return {"status": format_note("The ranges are set.")} | show_ranges(recipe, "")


def build(shared: Shared) -> None:
    """Generate the part and connect it."""
    out: dict[str, Any] = {"picked": gr.State("")}
    with gr.Accordion(
        "Ranges along the quantized trajectory", open=True, elem_id="trajectory-ranges"
    ):
        out["enabled"] = gr.Checkbox(False, label="Set the ranges on the quantized trajectory")
        with gr.Column(visible=False) as out["settings"], gr.Row():
            form = forms.build_form(Progressive, "Trajectory")
            for component in form.values():
                component.min_width = 240  # else help stands in a column of single words on a phone
        JOB.build(out)
        build_hint(out)
        with gr.Column(visible=False) as out["body"]:
            out["summary"] = gr.Markdown(
                label="Summary of the ranges", elem_id="trajectory-ranges-summary"
            )
            with gr.Row():
                with gr.Column(min_width=380):
                    out["map"] = PlotlyView(
                        label="How much wider each range is; click a cell",
                        elem_id="trajectory-ranges-map",
                    )
                with gr.Column(min_width=380):
                    out["layer"] = gr.Dropdown([], label="Layer whose ranges are shown")
                    out["cell"] = gr.Markdown(
                        label="Chosen range", elem_id="trajectory-ranges-cell"
                    )
                    out["ribbons"] = PlotlyView(
                        label="Its range at every step", elem_id="trajectory-ranges-ribbons"
                    )
    on(out["map"].select, pick, [shared.recipe], out, trigger_mode="always_last")
    on(
        out["layer"].input,
        choose,
        [shared.recipe, out["layer"], out["picked"]],
        out,
        trigger_mode="always_last",
    )
    JOB.connect(out, calibrate, [shared.recipe])
    connect_part(shared, out, form, change, show, [out["picked"]])
