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
from .new_table import build_choices, build_running, follow_table, parse_choices, widen
from .tables import escape, format_table


TITLE = "Learn from random mixes (Qua²SeDiMo)"
HOW = (
    "Layers get formats **at random**, many times, and the whole model is scored with each mix. A "
    "graph network learns the value of each format from the mixes; simpler models are trained on "
    "the same data as controls. More mixes take longer and improve the result; more settings are "
    "in `dmq prepare --only predictor`."
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


def describe_trust(result: PredictorResult | None) -> str:
    """How well a predictor does on mixes that it did not learn from, beside controls, as HTML;
    empty if unknown.
    """
    if result is None or not result.predictions:
        return ""
    rows = [
        [
            prediction.name,
            _format_number(prediction.srcc),
            f"±{_format_number(prediction.spread)}",
            _format_number(prediction.partial_srcc),
            _format_number(prediction.ndcg),
            _format_number(prediction.tau),
        ]
        for prediction in result.predictions
    ]
    low, high = result.average_bits.min(), result.average_bits.max()
    noise = f"{result.noise:.3g}" if math.isfinite(result.noise) else "–"
    mixes = f"{len(result.labels)} random mixes of {low:.2f} to {high:.2f} bits a weight. Label: {result.label}, "
    mixes += f"deviation {result.labels.std():.3g}, of it noise {noise}."
    order = "Order of mixes that were not learned from (1: right, 0: chance), mean over folds:"
    text = f"<h4>Reliability</h4><p>{escape(mixes)} {order}</p>{format_table(HEAD, rows)}"
    if result.as_good:
        text += f"<p><b>A control is as good: {escape(', '.join(result.as_good))}.</b></p>"
    return text


def _format_number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"


# --- a new one ------------------------------------------------------------------------------------


def parse_form(paths: list[str], labels: list[str] | None, *values: Any) -> Predictor:
    """What the form asks for. Raises DmqError for choices or numbers that make no sense."""
    return forms.make_spec(
        Predictor, dict(zip(paths, values, strict=True)), Predictor(choices=parse_choices(labels))
    )


JOB = JobPanel(
    start={"go": "Learn"},
    stop="Stop, keep judged mixes",
    progress="Progress of the table",
    stopped="Stopped; judged mixes were kept; “Learn” resumes after them.",
)


@JOB.run
def learn(
    paths: list[str], text: str, labels: list[str] | None, *values: Any
) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Judge mixes and learn from them, with a bar; the labels that are there when it is stopped
    are kept.
    """
    recipe, spec = read(text), parse_form(paths, labels, *values)
    yield {}
    return (yield from follow_table(recipe.model, predict_table(recipe, spec)))


def predict_table(recipe: Recipe, spec: Predictor) -> Generator[Any, None, SensitivityTable]:
    """The stage; returns the table of layers within their blocks."""
    result = yield from learn_scores(recipe, spec)
    return result.table("block")


def build() -> tuple[dict[str, Any], dict[str, Any]]:
    """What is generated, by name, and the form's components by path."""
    gr.Markdown(HOW, elem_classes="dmq-hint")
    controls = {"choices": build_choices(Predictor().choices)}
    with gr.Row():
        form = forms.build_form(Predictor, "Predictor", leave=LEFT)
        widen(form)
    build_running(controls, JOB)
    return controls, form
