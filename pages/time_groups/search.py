"""Learning the groups (ADP-DM), in the Time groups tab: start a search, watch it, end it early,
use what it found.
"""

import dataclasses
import math
from collections.abc import Generator
from typing import Any

import gradio as gr

from dmq import jsonio
from dmq.describe import short_name
from dmq.figures import search as figures
from dmq.recipe import LearnedGroups, Recipe
from dmq.results import SearchResult
from dmq.workflow.answers import get_search, has_capture, has_search
from dmq.workflow.learning import search_groups

from .. import forms
from ..events import bind, connect_show, on
from ..job_panel import FIGURE_SECONDS, JobPanel, format_note, watch
from ..layout import build_plots
from ..recipe_forms import name_outputs
from ..session import Shared, read, set_outside
from ..widgets.plotly_view import PlotlyView


MAIN = ("count", "per_layer", "contiguous", "iterations")
JOB = JobPanel(
    start={"go": "Search"},
    stop="Stop the search",
    progress="Progress of the search",
    stopped="Stopped; nothing was kept.",
    at_end=lambda: {"finish": gr.update(visible=False)},
)
WAYS = {
    "shared": "one range",
    "uniform": "equal groups",
    "kmeans": "k-means (its start)",
    "lloyd": "Lloyd's algorithm",
    "optimal": "optimal cuts",
    "learned": "learned",
    "per step": "a range per step",
}

enough: set[str] = set()  # sessions that asked their search to finish with what it has


def parse_form(paths: list[str], text: str, *values: Any) -> Recipe:
    """The current recipe with the groups of the form."""
    recipe = read(text)
    spec = forms.make_spec(
        LearnedGroups, dict(zip(paths, values, strict=True)), find_settings(recipe)
    )
    changed = dataclasses.replace(recipe, grouping=spec)
    return dataclasses.replace(changed, name=short_name(changed))


def find_settings(recipe: Recipe) -> LearnedGroups:
    """The recipe's own search settings, or the ordinary ones."""
    if isinstance(recipe.grouping, LearnedGroups):
        return recipe.grouping
    return LearnedGroups(count=min(LearnedGroups.count, recipe.sampling.steps))


@JOB.run
def search(
    paths: list[str], text: str, request: gr.Request, *values: Any
) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Run the search, with images of how it stands; what it found is kept, and shown."""
    recipe, session = parse_form(paths, text, *values), request.session_hash or ""
    enough.discard(session)
    yield {"finish": gr.update(visible=True)} | {
        name: gr.update(visible=False) for name in ("use", "more")
    }
    try:
        work = search_groups(recipe, again=True, enough=lambda: session in enough)
        result = yield from watch(work, show_snapshot, seconds=FIGURE_SECONDS)
    finally:
        enough.discard(session)
    return {
        "status": format_note("Done; the groups are kept."),
        "searched": jsonio.dumps(recipe),
    } | show_result(result)


def show_snapshot(snapshot: Any) -> dict[str, Any]:
    """How a search stands."""
    importance, unsure = figures.live(snapshot)
    text = f"**{snapshot.phase}**"
    if math.isfinite(snapshot.error):
        text += f": noise error {100 * snapshot.error:.3g} % at step {snapshot.step}"
    return {
        "body": gr.update(visible=True),
        "summary": text,
        "importance": importance,
        "entropy": unsure,
    }


def show_result(result: SearchResult) -> dict[str, Any]:
    """Everything a finished search found."""
    named = dataclasses.replace(
        result, local={WAYS[way]: errors for way, errors in result.local.items()}
    )
    return {
        "body": gr.update(visible=True),
        "more": gr.update(visible=True),
        "use": gr.update(visible=True),
        "summary": summarize(result),
        "assignment": figures.assignment(result.sites, result.importance.astype("float32")),
        "importance": figures.importance(result.importance.astype("float32").mean(0)),
        "entropy": figures.uncertainty(figures.entropy_of(result.importance), result.visits),
        "loss": figures.loss(result.errors, result.penalties),
        "noise": figures.noise_errors(result),
        "yardsticks": figures.yardsticks(named),
    }


def summarize(result: SearchResult) -> str:
    """What was found, in two or three sentences."""
    groups = result.slot.max(1) + 1
    least, most = int(groups.min()), int(groups.max())
    used = f"{least}" if least == most else f"{least} to {most}"
    apart = int(result.scattered.sum())
    text = (
        f"{used} group{'s' if most > 1 else ''} a layer are in use at {len(result.sites)} places; "
    )
    text += (
        f"{apart} of them have groups that are no single run of steps."
        if apart
        else "all are runs of steps."
    )
    mixed, hard, again = (
        float(errors.mean()) for errors in (result.soft, result.hard, result.refitted)
    )
    if math.isfinite(hard):
        error = again if math.isfinite(again) else hard
        text += f" Noise error **{100 * error:.3g} %** of the output's power"
        text += f" ({100 * mixed:.3g} % with mixed groups, {100 * hard:.3g} % made hard)."
    return text + (f"\n\n⚠ It ended early: {result.note}." if result.note else "")


def finish(request: gr.Request) -> dict[str, Any]:
    """Ask this session's search to harden what it has."""
    enough.add(request.session_hash or "")
    return {"status": format_note("Finishing with what is there …")}


def use(searched: str) -> dict[str, Any]:
    """The recipe whose search was shown as the current one."""
    return set_outside(jsonio.loads(searched)) if searched else {}


def show(paths: list[str], text: str) -> dict[str, Any]:
    """The form for the current recipe, and what its search found, if there was one."""
    recipe = read(text)
    spec = find_settings(recipe)
    known = name_outputs(forms.list_values(spec, paths))
    with_spec = dataclasses.replace(recipe, grouping=spec)
    if not (has_capture(recipe) and has_search(with_spec)):
        return known | {
            "body": gr.update(visible=False),
            "use": gr.update(visible=False),
            "searched": "",
        }
    with_spec = dataclasses.replace(with_spec, name=short_name(with_spec))
    answer = known | show_result(get_search(with_spec)) | {"searched": jsonio.dumps(with_spec)}
    return answer | {"use": gr.update(visible=recipe.grouping != spec)}


def build(session: Shared) -> None:
    """Generate the panel and connect it."""
    out: dict[str, Any] = {}
    with gr.Accordion("Learn the groups by gradients (ADP-DM)", open=False, elem_id="search"):
        gr.Markdown(
            "The search decides which steps share a quantizer. At every layer all groups are mixed by "
            "importance weights, which are learned together with the groups' ranges until each step has "
            "chosen one group. The search generates images with the float model and then runs the "
            "quantized model forward and backward, which takes minutes."
        )
        every = forms.build_form(
            LearnedGroups, "Search", leave=tuple(f for f in list_fields() if f not in MAIN)
        )
        with gr.Accordion("More settings", open=False):
            every |= forms.build_form(LearnedGroups, "Search", leave=MAIN)
        with gr.Row():
            JOB.build_buttons(out, "go")
            out["finish"] = gr.Button("Finish now, keep the result", visible=False)
            JOB.build_buttons(out, "stop")
            out["use"] = gr.Button("Use these groups", visible=False)
        JOB.build_progress(out)
        out["searched"] = gr.State("")
        with gr.Column(visible=False) as out["body"]:
            out["summary"] = gr.Markdown(label="Result of the search", elem_id="search-summary")
            build_plots(
                out,
                "search",
                importance="Importance of the groups, mean over layers",
                entropy="Entropy of the choice, and calibration steps",
            )
            with gr.Column(visible=False) as out["more"]:
                out["assignment"] = PlotlyView(
                    label="Group of every layer and step", elem_id="search-map"
                )
                build_plots(
                    out,
                    "search",
                    yardsticks="Activation error compared with other ways of grouping",
                    noise="Error of the denoiser's output",
                )
                out["loss"] = PlotlyView(label="Both terms of the loss")
    paths = list(every)

    JOB.connect(out, bind(search, paths), [session.recipe, *every.values()])
    on(out["finish"].click, finish, [], {"status": out["status"]})
    on(
        out["use"].click,
        use,
        [out["searched"]],
        session.chosen,
    )
    connect_show(session, bind(show, paths), [], name_outputs(every) | out)


def list_fields() -> list[str]:
    """The fields of a search."""
    return [field.name for field in dataclasses.fields(LearnedGroups)]
