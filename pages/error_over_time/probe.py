"""The probe (PCR), in the Error over time tab: the quantization error of a window of steps, amplified,
the rest in float.
"""

import math
from collections.abc import Generator
from typing import Any

import gradio as gr

from dmq.artifacts.model_info import get_info
from dmq.errors import DmqError
from dmq.evaluation import probe
from dmq.figures import error_over_time as figures
from dmq.recipe import FLOAT, Probe, Recipe
from dmq.results import ProbeImage
from dmq.store.prompts import UNPROMPTED

from .. import forms
from ..events import connect_show, on
from ..job_panel import JobPanel, format_note, watch
from ..layout import (
    build_gallery,
    build_hint,
    build_plots,
    explain_no_capture,
    show_body,
    show_hint,
)
from ..request import parse_seeds
from ..session import Shared, read


HEAD = ["Steps", "Gain", "PSNR (dB)", "Latent error", "Match", "Match of float"]
PUBLISHED = (
    "*Published example, one quarter of the steps each: errors in the first quarter (noisiest) "
    "give wrong content or "
    "style, in the second another pose, in the third almost nothing, in the last grain and loss of "
    "fidelity.*"
)
MAX_IMAGES = 24  # images of a probe


def parse_form(
    text: str,
    windows: float,
    single_window: bool,
    first: Any,
    last: Any,
    gains: str,
    prompt: str,
    seed: str,
) -> Probe:
    """The experiment of the form. Raises DmqError for what is none."""
    recipe, seeds = read(text), parse_seeds(seed)
    if len(seeds) != 1:
        raise DmqError("the probe generates one image each: give one seed.")
    edges = {}
    if single_window:
        edges = {
            "first": forms.convert_value(first, int, "First step"),
            "last": forms.convert_value(last, int, "Last step"),
        }
    spec = Probe(
        windows=forms.convert_value(windows, int, "Windows"),
        gains=parse_gains(gains),
        seed=seeds[0],
        prompt=(prompt or "").strip() if get_info(recipe.model).prompted else UNPROMPTED,
        **edges,
    )
    if (count := (1 if single_window else spec.windows) * len(spec.gains)) > MAX_IMAGES:
        raise DmqError(
            f"{count} images; a probe generates at most {MAX_IMAGES}: fewer windows or gains."
        )
    return spec


def parse_gains(text: str) -> tuple[float, ...]:
    """Numbers with commas or spaces between them. Raises DmqError for anything else."""
    try:
        gains = tuple(
            dict.fromkeys(float(part) for part in str(text or "").replace(",", " ").split())
        )
    except ValueError:
        raise DmqError(f"gains must be numbers such as 1, 2, 4, got {text!r:.40}.") from None
    return gains


def explain_hindrance(recipe: Recipe) -> str:
    """Why nothing can be probed, with what to do; empty if it can."""
    if hint := explain_no_capture(recipe):
        return hint
    if recipe.weights.bits == recipe.activations.bits == FLOAT and not recipe.overrides:
        return "This recipe leaves everything in float: there is no error to amplify. Choose bits."
    return ""


def show(text: str) -> dict[str, Any]:
    """The part for the current recipe: its last probe, and the question of that in the form."""
    recipe = read(text)
    prompted = get_info(recipe.model).prompted
    form: dict[str, Any] = {
        "prompt": gr.update(visible=prompted),
        "windows": gr.update(maximum=min(20, recipe.sampling.steps)),
    }
    if why := explain_hindrance(recipe):
        return form | show_hint(why)
    last = probe.find_last_probe(recipe)
    if last is None:
        return form | show_hint("Nothing was probed with this recipe yet: press **Probe**.")
    spec, images = last
    single_window = spec.first is not None
    form |= {
        "windows": gr.update(maximum=min(20, recipe.sampling.steps), value=spec.windows),
        "single_window": single_window,
        "window": gr.update(visible=single_window),
        "seed": str(spec.seed),
        "gains": ", ".join(f"{gain:g}" for gain in spec.gains),
    }
    form |= {"first": spec.first, "last": spec.last} if single_window else {}
    form |= {"prompt": gr.update(visible=True, value=spec.prompt)} if prompted else {}
    return form | show_images(images)


def show_images(images: tuple[ProbeImage, ...]) -> dict[str, Any]:
    """The images that there are by now, and what they say."""
    lost = figures.show_probe(images, "match")
    gains = len({image.gain for image in images})
    return show_body() | {
        "grid": gr.update(value=list_grid(images), columns=gains + 1),
        "summary": summarize(images),
        "error": figures.show_probe(images, "error"),
        "match": gr.update(value=lost, visible=lost is not None),
        "table": [
            [
                f"{image.start} to {image.end - 1}",
                image.gain,
                _format_db(image.psnr),
                f"{image.error:.3e}",
                _format_match(image.match),
                _format_match(image.match_float),
            ]
            for image in images
        ],
    }


def list_grid(images: tuple[ProbeImage, ...]) -> list[tuple[Any, str]]:
    """A row for each window: the float image, then one for each gain."""
    grid: list[tuple[Any, str]] = []
    for n, image in enumerate(images):
        if n == 0 or image.start != images[n - 1].start:
            match = "" if math.isnan(image.match_float) else f", match {image.match_float:.1f}"
            grid.append((image.exact, f"Steps {image.start} to {image.end - 1} → float{match}"))
        match = "" if math.isnan(image.match) else f", match {image.match:.1f}"
        grid.append(
            (
                image.pixels,
                f"× {image.gain:g}: {_format_db(image.psnr)} dB, error {image.error:.2g}{match}",
            )
        )
    return grid


def summarize(images: tuple[ProbeImage, ...]) -> str:
    """Which window hurts fidelity most, and which the fit to the prompt, at the largest gain."""
    gain = max(image.gain for image in images)
    at_gain = [image for image in images if image.gain == gain]
    if len({image.start for image in at_gain}) < 2:
        return PUBLISHED
    worst = max(at_gain, key=lambda image: image.error)
    text = f"Seen here at gain {gain:g}: fidelity suffers most from steps **{worst.start} to {worst.end - 1}** "
    text += f"(latent error {worst.error:.2g}, {_format_db(worst.psnr)} dB)"
    if not math.isnan(worst.match):
        odd = max(at_gain, key=lambda image: image.match_float - image.match)
        lost = odd.match_float - odd.match
        which = (
            f"steps **{odd.start} to {odd.end - 1}** ({-lost:+.2f})"
            if lost > 0.005
            else "none of the windows"
        )
        text += f", the match with the prompt from {which}"
    return f"{text}. One image: an impression, no measurement.\n\n{PUBLISHED}"


def _format_db(psnr: float) -> str:
    return f"{psnr:.1f}" if math.isfinite(psnr) else "∞"


def _format_match(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


# --- what runs ------------------------------------------------------------------------------------


JOB = JobPanel(
    start={"go": "Probe"},
    stop="Stop the probe",
    progress="Progress of the probe",
    stopped="Stopped; what is shown stays, but was not kept.",
)


@JOB.run
def run(text: str, *form: Any) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Generate image after image; they are shown as they come, and stay after Stop."""
    recipe, seen = read(text), []
    if why := explain_hindrance(recipe):
        raise DmqError(why.replace("**", ""))
    spec = parse_form(text, *form)
    yield {}

    def add(image: ProbeImage) -> dict[str, Any]:
        seen.append(image)
        return show_images(tuple(seen))

    result = yield from watch(probe.run_probe(recipe, spec), add)
    return show_images(result) | {"status": format_note("Probed; the answer is kept.")}


def build(shared: Shared) -> None:
    """Generate the part and connect it."""
    out: dict[str, Any] = {}
    knobs = Probe.__dataclass_fields__
    with gr.Accordion(
        "Probe: what an error at some steps does to the image", open=True, elem_id="probe"
    ):
        gr.Markdown(
            "Within a window the error of the model's output is multiplied by a gain; all other steps "
            "are in float."
        )
        with gr.Row():
            out["prompt"] = gr.Textbox(Probe.prompt, label="Prompt to probe", min_width=200)
            out["windows"] = forms.build_control(knobs["windows"], int)
            out["gains"] = gr.Textbox("1, 2, 4", label="Gains, such as 1, 2, 4", min_width=140)
            out["seed"] = gr.Textbox("0", label="Seed to probe", min_width=100)
        out["single_window"] = gr.Checkbox(False, label="Single window")
        with gr.Row(visible=False) as out["window"]:
            out["first"] = gr.Number(0, precision=0, label="First step")
            out["last"] = gr.Number(9, precision=0, label="Last step")
        JOB.build(out)
        build_results(out)
    asked_in = [
        out[name]
        for name in ("windows", "single_window", "first", "last", "gains", "prompt", "seed")
    ]
    on(
        out["single_window"].input,
        lambda single: {"window": gr.update(visible=single)},
        [out["single_window"]],
        {"window": out["window"]},
    )
    JOB.connect(out, run, [shared.recipe, *asked_in])
    connect_show(shared, show, [], out, waiting=out["summary"])


def build_results(out: dict[str, Any]) -> None:
    """What is shown of a probe."""
    build_hint(out)
    with gr.Column(visible=False) as out["body"]:
        out["summary"] = gr.Markdown(label="Result of the probe", elem_id="probe-summary")
        out["grid"] = build_gallery("Windows of steps down, gains across", 4, elem_id="probe-grid")
        build_plots(
            out,
            "probe",
            error="Fidelity: error of the finished sample",
            match="Fit to the prompt: match that is lost",
        )
        out["table"] = gr.Dataframe(
            headers=HEAD, label="Every image probed", interactive=False, max_height=300
        )
