"""A new sensitivity table, in the Layers tab: what is asked, measured with a bar, stopped and gone
on with.

What any way to a new table has is here as well: `follow_table` and `connect`.
"""

from collections.abc import Callable, Generator
from typing import Any

import gradio as gr
import numpy as np

from dmq.errors import DmqError
from dmq.recipe import FORMATS, Sensitivity, WeightFormat, format_name, parse_format
from dmq.results import SensitivityTable
from dmq.workflow.learning import measure_costs

from .. import forms
from ..events import bind, on
from ..job_panel import JobPanel, format_note, watch
from ..recipe_forms import name_outputs
from ..session import Shared, make_stamp, read
from .tables import find_table, list_titles


BITS = (8, 4, 3, 2)  # of the choices that are offered; others can be written
OFFERED = [
    f"{name}-{bits}"
    for bits in BITS
    for name in ("UAQ", "KMC", "KMA", "HQQ", "GPTQ", "LR", "PoT", "W")
]
MEASURED = ("mode", "measure", "activations")  # what only a table that is measured has a choice of
HOWS = "**measure** runs the model for each layer and choice; **fisher** takes one pass and gradients, and answers "
HOWS += "soonest; **local** looks at each layer's own output only."


def parse_form(paths: list[str], labels: list[str] | None, *values: Any) -> Sensitivity:
    """What the form asks for. Raises DmqError for choices or numbers that make no sense."""
    by_path = dict(zip(paths, values, strict=True))
    if by_path["how"] != "measure":
        by_path |= {name: Sensitivity.__dataclass_fields__[name].default for name in MEASURED}
    return forms.make_spec(
        Sensitivity, by_path, Sensitivity(choices=parse_choices(labels), how="measure")
    )


def parse_choices(labels: list[str] | None) -> tuple[WeightFormat, ...]:
    """The choices of those labels, each once.

    Raises DmqError for what is none, and if there are none.
    """
    if not labels:
        raise DmqError(
            f"choose at least one choice, such as UAQ-4; formats are {', '.join(FORMATS)}."
        )
    return tuple({format_name(choice): choice for choice in map(parse_format, labels)}.values())


def show_controls(how: str) -> dict[str, Any]:
    """The controls that mean something for a way to measure."""
    shown = {f"form {name}": gr.update(visible=how == "measure") for name in MEASURED}
    return shown | {"form probes": gr.update(visible=how == "fisher")}


JOB = JobPanel(
    start={"go": "Measure"},
    stop="Stop, keep finished layers",
    progress="Progress of the table",
    stopped="Stopped; finished layers were kept; “Measure” resumes after them.",
)


@JOB.run
def measure(
    paths: list[str], text: str, labels: list[str] | None, *values: Any
) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Make the table, with a bar; what is finished when it is stopped is kept."""
    recipe, spec = read(text), parse_form(paths, labels, *values)
    yield {}
    return (yield from follow_table(recipe.model, measure_costs(recipe, spec)))


def follow_table(
    model: str, work: Generator[Any, None, SensitivityTable]
) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Run `work`, which keeps the table of `model` that it returns, with a bar; returns the name
    of that table.
    """
    table = yield from watch(work)
    name = next(
        (name for name in list_titles(model) if is_same(find_table(model, name), table)), ""
    )
    return {"status": format_note("The table is kept."), "table_name": f"{name} {make_stamp()}"}


def is_same(table: SensitivityTable, other: SensitivityTable) -> bool:
    """Are two tables one?"""
    return (table.title, table.labels) == (other.title, other.labels) and np.array_equal(
        table.cost, other.cost, True
    )


def build() -> tuple[dict[str, Any], dict[str, Any]]:
    """What is generated, by name, and the form's components by path."""
    gr.Markdown(HOWS, elem_classes="dmq-hint")
    controls = {"choices": build_choices(Sensitivity().choices)}
    with gr.Row():
        form = forms.build_form(Sensitivity, "Sensitivity", leave=("choices",))
        widen(form)
    form["probes"].visible = False
    build_running(controls, JOB)
    on(
        form["how"].input,
        show_controls,
        [form["how"]],
        name_outputs(form),
    )
    return controls, form


def build_choices(choices: tuple[WeightFormat, ...]) -> gr.Dropdown:
    """Which choices each layer has."""
    labels = [format_name(choice) for choice in choices]
    return gr.Dropdown(
        OFFERED,
        value=labels,
        multiselect=True,
        allow_custom_value=True,
        label="Choices: a format and its bits",
    )


def widen(form: dict[str, Any]) -> None:
    """Give each control room: else help stands in a column of single words on a phone."""
    for component in form.values():
        component.min_width = 240


def build_running(controls: dict[str, Any], job: JobPanel) -> None:
    """The panel of the job that makes a table."""
    with gr.Row(elem_classes="dmq-buttons"):
        job.build_buttons(controls, min_width=180)
    job.build_progress(controls)
    controls["table_name"] = gr.State("")  # the table that was made last


def connect(
    shared: Shared,
    controls: dict[str, Any],
    form: dict[str, Any],
    job: JobPanel,
    make: Callable,
    show: Callable,
    view: list[Any],
    out: dict[str, Any],
) -> None:
    """The events of what was generated: `make(paths, recipe text, labels, *values)` is the handler of
    `job`.

    A finished table is shown in `out` by `show`, which begins with its name in `view`.
    """
    paths = list(form)

    def finished(text: str, table_name: str, _: str | None, *rest: Any) -> dict[str, Any]:
        return show(text, table_name.partition(" ")[0], *rest) if table_name else {}

    inputs = [shared.recipe, controls["choices"], *form.values()]
    job.connect(controls, bind(make, paths), inputs)
    on(controls["table_name"].change, finished, [shared.recipe, controls["table_name"], *view], out)
