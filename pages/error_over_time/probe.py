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
from dmq.figures import over_time as figures
from dmq.recipe import FLOAT, Probe, Recipe
from dmq.results import ProbeImage
from dmq.store.prompts import UNPROMPTED

from .. import forms
from ..events import on, shows
from ..job_panel import JobPanel, note, watch
from ..layout import (
    build_gallery,
    build_hint,
    build_plots,
    explain_no_capture,
    show_body,
    show_hint,
)
from ..request import seeds_of
from ..session import Shared, read


HEAD = ["Steps", "Gain", "PSNR (dB)", "Latent error", "Match", "Match of float"]
PUBLISHED = (
    "*Published example, one quarter of the steps each: errors in the first quarter (noisiest) "
    "give wrong content or "
    "style, in the second another pose, in the third almost nothing, in the last grain and loss of "
    "fidelity.*"
)
MOST = 24  # images of a probe


def asked(
    text: str, windows: float, own: bool, first: Any, last: Any, gains: str, prompt: str, seed: str
) -> Probe:
    """The experiment of the form. Raises DmqError for what is none."""
    recipe, seeds = read(text), seeds_of(seed)
    if len(seeds) != 1:
        raise DmqError("the probe generates one image each: give one seed.")
    edges = {}
    if own:
        edges = {
            "first": forms.plain(first, int, "First step"),
            "last": forms.plain(last, int, "Last step"),
        }
    spec = Probe(
        windows=forms.plain(windows, int, "Windows"),
        gains=gains_of(gains),
        seed=seeds[0],
        prompt=(prompt or "").strip() if get_info(recipe.model).prompted else UNPROMPTED,
        **edges,
    )
    if (count := (1 if own else spec.windows) * len(spec.gains)) > MOST:
        raise DmqError(f"{count} images; a probe generates at most {MOST}: fewer windows or gains.")
    return spec


def gains_of(text: str) -> tuple[float, ...]:
    """Numbers with commas or spaces between them. Raises DmqError for anything else."""
    try:
        gains = tuple(
            dict.fromkeys(float(part) for part in str(text or "").replace(",", " ").split())
        )
    except ValueError:
        raise DmqError(f"gains must be numbers such as 1, 2, 4, got {text!r:.40}.") from None
    return gains


def hindrance(recipe: Recipe) -> str:
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
    if why := hindrance(recipe):
        return form | show_hint(why)
    last = probe.find_last_probe(recipe)
    if last is None:
        return form | show_hint("Nothing was probed with this recipe yet: press **Probe**.")
    spec, images = last
    own = spec.first is not None
    form |= {
        "windows": gr.update(maximum=min(20, recipe.sampling.steps), value=spec.windows),
        "own": own,
        "window": gr.update(visible=own),
        "seed": str(spec.seed),
        "gains": ", ".join(f"{gain:g}" for gain in spec.gains),
    }
    form |= {"first": spec.first, "last": spec.last} if own else {}
    form |= {"prompt": gr.update(visible=True, value=spec.prompt)} if prompted else {}
    return form | shown(images)


def shown(images: tuple[ProbeImage, ...]) -> dict[str, Any]:
    """The images that there are by now, and what they say."""
    lost = figures.probed(images, "match")
    gains = len({one.gain for one in images})
    return show_body() | {
        "grid": gr.update(value=grid(images), columns=gains + 1),
        "said": summary(images),
        "error": figures.probed(images, "error"),
        "match": gr.update(value=lost, visible=lost is not None),
        "table": [
            [
                f"{one.start} to {one.end - 1}",
                one.gain,
                _db(one.psnr),
                f"{one.error:.3e}",
                _two(one.match),
                _two(one.match_float),
            ]
            for one in images
        ],
    }


def grid(images: tuple[ProbeImage, ...]) -> list[tuple[Any, str]]:
    """A row for each window: the float image, then one for each gain."""
    made: list[tuple[Any, str]] = []
    for n, one in enumerate(images):
        if n == 0 or one.start != images[n - 1].start:
            match = "" if math.isnan(one.match_float) else f", match {one.match_float:.1f}"
            made.append((one.exact, f"Steps {one.start} to {one.end - 1} → float{match}"))
        match = "" if math.isnan(one.match) else f", match {one.match:.1f}"
        made.append(
            (one.pixels, f"× {one.gain:g}: {_db(one.psnr)} dB, error {one.error:.2g}{match}")
        )
    return made


def summary(images: tuple[ProbeImage, ...]) -> str:
    """Which window hurts fidelity most, and which the fit to the prompt, at the largest gain."""
    gain = max(one.gain for one in images)
    own = [one for one in images if one.gain == gain]
    if len({one.start for one in own}) < 2:
        return PUBLISHED
    worst = max(own, key=lambda one: one.error)
    text = f"Seen here at gain {gain:g}: fidelity suffers most from steps **{worst.start} to {worst.end - 1}** "
    text += f"(latent error {worst.error:.2g}, {_db(worst.psnr)} dB)"
    if not math.isnan(worst.match):
        odd = max(own, key=lambda one: one.match_float - one.match)
        lost = odd.match_float - odd.match
        which = (
            f"steps **{odd.start} to {odd.end - 1}** ({-lost:+.2f})"
            if lost > 0.005
            else "none of the windows"
        )
        text += f", the match with the prompt from {which}"
    return f"{text}. One image: an impression, no measurement.\n\n{PUBLISHED}"


def _db(psnr: float) -> str:
    return f"{psnr:.1f}" if math.isfinite(psnr) else "∞"


def _two(value: float) -> str:
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
    if why := hindrance(recipe):
        raise DmqError(why.replace("**", ""))
    spec = asked(text, *form)
    yield {}

    def add(image: ProbeImage) -> dict[str, Any]:
        seen.append(image)
        return shown(tuple(seen))

    found = yield from watch(probe.run_probe(recipe, spec), add)
    return shown(found) | {"status": note("Probed; the answer is kept.")}


def build(shared: Shared) -> None:
    """Generate the part and connect it."""
    out: dict[str, Any] = {}
    knobs = Probe.__dataclass_fields__
    with gr.Accordion(
        "Probe: what an error at some steps does to the image", open=True, elem_id="probe"
    ):
        gr.Markdown(
            "Within a window the error of the answer is multiplied by a gain; all other steps are "
            "in float."
        )
        with gr.Row():
            out["prompt"] = gr.Textbox(Probe.prompt, label="Prompt to probe", min_width=200)
            out["windows"] = forms.control(knobs["windows"], int)
            out["gains"] = gr.Textbox("1, 2, 4", label="Gains, such as 1, 2, 4", min_width=140)
            out["seed"] = gr.Textbox("0", label="Seed to probe", min_width=100)
        out["own"] = gr.Checkbox(False, label="One window of my own")
        with gr.Row(visible=False) as out["window"]:
            out["first"] = gr.Number(0, precision=0, label="First step")
            out["last"] = gr.Number(9, precision=0, label="Last step")
        JOB.build(out)
        build_results(out)
    asked_in = [
        out[name] for name in ("windows", "own", "first", "last", "gains", "prompt", "seed")
    ]
    on(
        out["own"].input,
        lambda own: {"window": gr.update(visible=own)},
        [out["own"]],
        {"window": out["window"]},
    )
    JOB.connect(out, run, [shared.recipe, *asked_in])
    shows(shared, show, [], out, waiting=out["said"])


def build_results(out: dict[str, Any]) -> None:
    """What is shown of a probe."""
    build_hint(out)
    with gr.Column(visible=False) as out["body"]:
        out["said"] = gr.Markdown(label="What the probe says", elem_id="probe-said")
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
