"""A table learned from random mixes of choices (Qua²SeDiMo), in the Layers tab, and how far to
trust such tables.
"""

import math
from collections.abc import Generator
from typing import Any

import gradio as gr

from dmq.recipe import Predictor, Recipe
from dmq.results import PredictorResult, SensitivityTable
from dmq.workflow.learning import learn_scores

from .. import forms
from ..job_panel import JobPanel
from ..session import read
from .new_table import build_choices, build_running, choices_of, follow_table, widened
from .tables import escaped, html_table


TITLE = "Learn from random mixes (Qua²SeDiMo)"
HOW = (
    "Layers get choices **at random**, many times; each such mix is judged by what the whole model "
    "then does. A "
    "graph network learns from the mixes what every choice is worth, and simpler ways learn beside "
    "it as controls. "
    "More mixes take longer and teach more; what else can be set is in `dmq predict`."
)
# Few need another value of these.
LEFT = (
    "choices",
    "repeats",
    "bits_price",
    "weight",
    "width",
    "rate",
    "folds",
    "combinations",
    "seed",
)
HEAD = ["", "Spearman", "± over folds", "at equal bits", "NDCG", "agreement of folds (tau)"]


# --- how far to trust it --------------------------------------------------------------------------


def trust(found: PredictorResult | None) -> str:
    """How well a predictor does on mixes that it did not learn from, beside controls, as HTML;
    empty if unknown.
    """
    if found is None or not found.predictions:
        return ""
    rows = [
        [
            one.name,
            _said(one.srcc),
            f"±{_said(one.spread)}",
            _said(one.quality),
            _said(one.ndcg),
            _said(one.tau),
        ]
        for one in found.predictions
    ]
    low, high = found.average_bits.min(), found.average_bits.max()
    noise = f"{found.noise:.3g}" if math.isfinite(found.noise) else "–"
    mixes = f"{len(found.labels)} random mixes of {low:.2f} to {high:.2f} bits a weight. Label: {found.label}, "
    mixes += f"deviation {found.labels.std():.3g}, of it noise {noise}."
    order = "Order of mixes that were not learned from (1: right, 0: chance), mean over folds:"
    text = f"<h4>How far to trust it</h4><p>{escaped(mixes)} {order}</p>{html_table(HEAD, rows)}"
    if found.as_good:
        text += f"<p><b>A control is as good: {escaped(', '.join(found.as_good))}.</b></p>"
    return text


def _said(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"


# --- a new one ------------------------------------------------------------------------------------


def asked(paths: list[str], labels: list[str] | None, *values: Any) -> Predictor:
    """What the form asks for. Raises DmqError for choices or numbers that make no sense."""
    return forms.spec_of(
        Predictor, dict(zip(paths, values, strict=True)), Predictor(choices=choices_of(labels))
    )


JOB = JobPanel(
    start={"go": "Learn"},
    stop="Stop, keep judged mixes",
    progress="Progress of the table",
    stopped="Stopped; judged mixes were kept, and “Learn” goes on behind them.",
)


@JOB.run
def learn(
    paths: list[str], text: str, labels: list[str] | None, *values: Any
) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Judge mixes and learn from them, with a bar; the labels that are there when it is stopped
    are kept.
    """
    recipe, spec = read(text), asked(paths, labels, *values)
    yield {}
    return (yield from follow_table(recipe.model, predicted(recipe, spec)))


def predicted(recipe: Recipe, spec: Predictor) -> Generator[Any, None, SensitivityTable]:
    """The stage; returns the table of layers within their blocks."""
    found = yield from learn_scores(recipe, spec)
    return found.table("block")


def draw() -> tuple[dict[str, Any], dict[str, Any]]:
    """What is generated, by name, and the form's components by path."""
    gr.Markdown(HOW, elem_classes="dmq-hint")
    own = {"choices": build_choices(Predictor().choices)}
    with gr.Row():
        form = forms.form(Predictor, "Predictor", leave=LEFT)
        widened(form)
    build_running(own, JOB)
    return own, form
