"""More bits for some steps (PCR's activation relaxing), in the Error over time tab: what measuring
says, and the choice.
"""

import contextlib
import dataclasses
import math
from collections.abc import Generator, Iterator
from typing import Any

import gradio as gr

from dmq.artifacts.model_info import get_info
from dmq.describe import short_name
from dmq.errors import DmqError
from dmq.figures import error_over_time as figures
from dmq.figures.error_over_time import steps_text
from dmq.recipe import Recipe, Relaxing
from dmq.results import WindowEffects
from dmq.store import folders
from dmq.workflow import relaxation
from dmq.workflow.answers import find_windows, get_relaxed_steps, get_window_effects
from dmq.workflow.learning import measure_windows

from .. import forms
from ..job_panel import JobPanel, format_note, watch
from ..layout import build_hint, build_plots, explain_no_capture, show_body, show_hint
from ..recipe_forms import connect_part, show_part
from ..session import Shared, read, set_outside


MAIN = ("where", "bits", "judge")
OWN = ("fraction", "steps")  # have controls of their own
REST = ("windows", "images", "match_reference_code")
HEAD = ["Steps with more bits", "Which", "Mean bits", "Latent error, at best", "Match, at best"]
KERNELS = (
    "There is no integer kernel for 10-bit activations: their cost is counted in bits. Relaxed "
    "steps of **16 bits** can be executed. The expected values are a bound: as if the relaxed steps "
    "were not quantized."
)
WAYS = {
    "first": "noisy end (first)",
    "last": "clean end (last)",
    "list": "given steps",
    "auto": "measured (auto)",
}


# --- the recipe -----------------------------------------------------------------------------------


def parse_steps(text: str | None) -> tuple[int, ...]:
    """Steps with commas or spaces between them, or ranges such as 40-49, sorted.

    Raises DmqError for anything else.
    """
    steps: set[int] = set()
    for part in str(text or "").replace(",", " ").split():
        first, dash, last = part.partition("-")
        numbers = [first, last] if dash else [first]
        if not all(n.isascii() and n.isdigit() and len(n) < 6 for n in numbers):
            raise DmqError(f"steps must be whole numbers such as 3, 7 or 40-49, got {part!r:.40}.")
        if int(numbers[-1]) - int(first) >= 1000 or int(numbers[-1]) < int(first):
            raise DmqError(
                f"steps {part!r:.40}: a range goes from a step to a later one, at most 1000 of "
                "them."
            )
        steps.update(range(int(first), int(numbers[-1]) + 1))
    return tuple(sorted(steps))


def replace_relaxing(recipe: Recipe, enabled: bool, by_path: dict[str, Any]) -> Recipe:
    """The recipe with the relaxed steps of the form, or none if not `own`.

    Raises DmqError for what cannot be.
    """
    if not enabled:
        changed = dataclasses.replace(recipe, relaxing=None)
    else:
        base, listed = recipe.relaxing or Relaxing(), by_path["where"] == "list"
        steps = (parse_steps(by_path["steps"]) or list_steps(recipe)) if listed else ()
        fraction = forms.convert_value(by_path["fraction"], float, "Part of the steps")
        base = dataclasses.replace(base, where=by_path["where"], steps=steps, fraction=fraction)
        rest = {path: value for path, value in by_path.items() if path not in OWN}
        spec = forms.make_spec(Relaxing, rest, base)
        changed = dataclasses.replace(recipe, relaxing=spec)
        if spec.where == "auto" and spec.judge == "text" and not get_info(recipe.model).prompted:
            raise DmqError(
                "relaxing.judge is 'text', but this model generates without prompts; set it to "
                "fidelity."
            )
    return recipe if changed == recipe else dataclasses.replace(changed, name=short_name(changed))


def list_steps(recipe: Recipe) -> tuple[int, ...]:
    """The steps that are relaxed now, or would be: what a list of one's own begins with."""
    with contextlib.suppress(DmqError):
        if chosen := get_relaxed_steps(recipe):
            return chosen
    return get_relaxed_steps(dataclasses.replace(recipe, relaxing=Relaxing())) or (
        recipe.sampling.steps - 1,
    )


def change(paths: list[str], text: str, enabled: bool, *values: Any) -> dict[str, Any]:
    """The recipe after a control has moved, and at once what that promises."""
    recipe = read(text)
    changed = replace_relaxing(recipe, enabled, dict(zip(paths, values, strict=True)))
    return (
        {}
        if changed == recipe
        else set_outside(changed) | show_form(changed, paths) | show_effects(changed)
    )


def show_form(recipe: Recipe, paths: list[str]) -> dict[str, Any]:
    """What the form shows; controls that mean nothing for the chosen way are hidden."""
    spec = recipe.relaxing or Relaxing()
    parts = show_part(recipe.relaxing, Relaxing, [path for path in paths if path != "steps"])
    return parts | {
        "form fraction": gr.update(value=spec.fraction, visible=spec.where != "list"),
        "form steps": gr.update(value=steps_text(spec.steps), visible=spec.where == "list"),
        "form judge": gr.update(value=spec.judge, visible=spec.where == "auto"),
    }


# --- what was measured ----------------------------------------------------------------------------


def show(paths: list[str], text: str) -> Iterator[dict[str, Any]]:
    """The part for the current recipe: the form at once, then what was measured."""
    recipe = read(text)
    yield show_form(recipe, paths)
    yield show_effects(recipe)


def show_effects(recipe: Recipe) -> dict[str, Any]:
    """Curves, choices and the chosen steps, where the windows were measured."""
    try:
        effects = get_window_effects(recipe)
        choices, chosen = relaxation.compare_relaxations(recipe), get_relaxed_steps(recipe)
    except DmqError as error:
        if why := explain_no_capture(recipe):
            return show_hint(why) | {"go": gr.update(visible=False)}
        if not find_windows(recipe):
            why = "What each window of steps is worth was not measured yet: press **Measure the windows**."
            return show_hint(describe_steps(recipe) + why) | {"go": gr.update(visible=True)}
        return show_hint(folders.hide_places(error)) | {"go": gr.update(visible=False)}
    current = [dataclasses.replace(choices[0], where="")] if recipe.relaxing else []
    return show_curves(effects, chosen, recipe.relaxing) | {
        "go": gr.update(visible=False),
        "summary": summarize(recipe, choices[0]),
        "table": list_rows([*current, *choices[1:]], effects),
    }


def describe_steps(recipe: Recipe) -> str:
    """What can be said without measuring: the steps and the mean bits, if the choice needs none."""
    if recipe.relaxing is None or recipe.relaxing.where == "auto":
        return ""
    steps, mean = get_relaxed_steps(recipe), relaxation.mean_activation_bits(recipe)
    return f"Steps {steps_text(steps) or 'none'} have {recipe.relaxing.bits} bits: {mean:.2f} bits on average. "


def show_curves(
    effects: WindowEffects, chosen: tuple[int, ...], spec: Relaxing | None
) -> dict[str, Any]:
    """Both window curves, with the relaxed steps shaded."""
    text = figures.window_gains(effects, "text", chosen)
    return show_body() | {
        "fidelity": figures.window_gains(effects, "fidelity", chosen),
        "text": gr.update(value=text, visible=text is not None),
    }


def summarize(recipe: Recipe, choice: Any) -> str:
    """Which steps are relaxed, who decided that, what it costs and promises."""
    spec, effects = recipe.relaxing, get_window_effects(recipe)
    if spec is None:
        return f"No step has more bits. Shown is what a window without rounding does to {_count_images(effects)}."
    decided = (
        f"**{spec.judge}** decided"
        if spec.where == "auto"
        else "chosen by hand, neither curve decided"
    )
    text = f"Steps **{steps_text(choice.steps) or 'none'}** have {spec.bits} bits ({decided}): "
    text += f"**{choice.mean_bits:.2f} bits** on average. "
    before, after = effects.typical_error, expect_error(choice, effects)
    text += f"Expected at best, measured on {_count_images(effects)}: latent error {before:.3g} → "
    text += f"{after:.3g} ({100 * (after / before - 1):+.0f} %)"
    if math.isfinite(choice.text):
        match = float(effects.clip_score_all.mean())
        text += f", match {match:.2f} → {match + choice.text:.2f} (float: {effects.clip_score_float.mean():.2f})"
    return f"{text}."


def expect_error(choice: Any, effects: WindowEffects) -> float:
    """The typical latent error that is left when all that the relaxed steps bring adds up."""
    return effects.typical_error * 10 ** (-choice.fidelity / 10)


def _count_images(effects: WindowEffects) -> str:
    count = len(effects.fidelity_all)
    return f"{count} image{'s' if count > 1 else ''}"


def list_rows(choices: list[Any], effects: WindowEffects) -> list[list[Any]]:
    """One row for each way to choose as many steps."""
    before, match = effects.typical_error, float(effects.clip_score_all.mean())
    return [
        [
            "this recipe"
            if not choice.where
            else WAYS[choice.where] + (f", {choice.judge}" if choice.judge else ""),
            steps_text(choice.steps) or "none",
            f"{choice.mean_bits:.2f}",
            f"{before:.3g} → {expect_error(choice, effects):.3g}",
            f"{match:.2f} → {match + choice.text:.2f}" if math.isfinite(choice.text) else "–",
        ]
        for choice in choices
    ]


# --- what runs ------------------------------------------------------------------------------------


JOB = JobPanel(
    start={"go": "Measure the windows"},
    hidden=("go",),
    stop="Stop measuring",
    progress="Progress of the windows",
    stopped="Stopped; nothing was kept.",
    after_stop=lambda text: show_effects(read(text)),
)


@JOB.run
def measure(text: str) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Measure window after window, with the curves of those that are finished."""
    recipe = read(text)
    yield {}
    meanwhile = {"summary": "Windows are measured …", "table": []}
    yield from watch(
        measure_windows(recipe), lambda seen: show_curves(seen, (), recipe.relaxing) | meanwhile
    )
    # Progressive ranges, sizes and names of all tabs may stand on what was measured.
    return {"status": format_note("Measured.")} | show_effects(recipe) | set_outside(recipe)


def build(shared: Shared) -> None:
    """Generate the part and connect it."""
    out: dict[str, Any] = {}
    with gr.Accordion("More bits for some steps", open=True, elem_id="relaxing"):
        out["enabled"] = gr.Checkbox(False, label="Give some steps more activation bits")
        form = build_settings(out)
        JOB.build(out)
        build_results(out)
    JOB.connect(out, measure, [shared.recipe], shared.chosen)
    connect_part(shared, out, form, change, show, [])


def build_settings(out: dict[str, Any]) -> dict[str, Any]:
    """The form of a Relaxing; its components by path."""
    with gr.Column(visible=False) as out["settings"]:
        with gr.Row():
            form = forms.build_form(Relaxing, "Relaxing", leave=(*OWN, *REST))
            form["fraction"] = gr.Slider(0, 1, 0.2, step=0.01, label="Part of the steps")
            form["steps"] = gr.Textbox(
                "", label="Which steps, such as 0, 3 or 40-49", visible=False
            )
            for component in form.values():
                component.min_width = 200  # else help stands in a column of single words on a phone
        with gr.Accordion("How the windows are measured", open=False):
            form |= forms.build_form(Relaxing, "Relaxing", leave=(*OWN, *MAIN))
    return form


def build_results(out: dict[str, Any]) -> None:
    """What is shown of the windows."""
    build_hint(out)
    with gr.Column(visible=False) as out["body"]:
        out["summary"] = gr.Markdown(label="Expected effect", elem_id="relaxing-summary")
        build_plots(
            out,
            "relaxing",
            fidelity="Fidelity gain of each window",
            text="Prompt match gain of each window",
        )
        out["table"] = gr.Dataframe(
            headers=HEAD, label="Choices at equal mean bits", interactive=False, max_height=300
        )
        gr.Markdown(KERNELS, elem_classes="dmq-hint")
