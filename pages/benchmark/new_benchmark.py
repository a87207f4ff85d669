"""A new benchmark: what it is of, how long it will take, and its rows as they come; stopped and
gone on with.
"""

from collections.abc import Callable, Generator, Iterator
from typing import Any

import gradio as gr

from dmq.artifacts.model_info import get_info
from dmq.errors import DmqError
from dmq.evaluation import benchmark_estimate
from dmq.evaluation.benchmark import check_benchmark, make_benchmark, run_benchmark
from dmq.figures import bench_table
from dmq.recipe import Benchmark, Recipe
from dmq.results import BenchReport
from dmq.store import benchmarks as kept
from dmq.store import folders, prompts
from dmq.workflow import gpu_time

from ..events import MODEL, on
from ..forms import build_engine_choice
from ..job_panel import JobPanel, format_note, watch
from ..layout import build_gallery
from ..request import choose_engine, choose_recipes, list_recipes
from ..session import Shared, read


LAST = 12  # images shown while generating
MAX_IMAGES = 20_000  # images of each model that a visitor may ask for


def parse_form(
    text: str,
    domains: list[str],
    file: str | None,
    count: float,
    seeds: float,
    others: list[str],
    computed: str | None = None,
) -> tuple[Benchmark, tuple[Recipe, ...]]:
    """What the form asks for. Raises DmqError for what makes no sense."""
    recipe = read(text)
    known = prompts.shipped_domains()
    chosen = [known[name] for name in domains or [] if name in known] + (
        [prompts.read_prompts(file)] if file else []
    )
    if get_info(recipe.model).prompted and not chosen:
        raise DmqError(
            "choose at least one list of prompts, or give a file with one prompt a line."
        )
    for number, label in ((count, "images"), (seeds, "seeds")):
        if not number or not float(number).is_integer() or not 1 <= number <= MAX_IMAGES:
            raise DmqError(
                f"{label} must be a whole number from 1 to {MAX_IMAGES:,}, got {number}."
            )
    benchmark = make_benchmark(recipe, chosen, seeds=int(seeds), images=int(count))
    return benchmark, choose_recipes(recipe, others, computed)


def estimate(text: str, *form: Any) -> Iterator[dict[str, Any]]:
    """How long the form's benchmark will take, or why it cannot be generated."""
    yield {"estimate": format_note("Measuring the speed of this machine …")}
    try:
        text = str(benchmark_estimate.estimate_benchmark(*parse_form(text, *form)))
    except DmqError as error:
        text = f"Cannot be estimated: {folders.hide_places(error)}"
    yield {"estimate": format_note(text)}


def start(text: str, *form: Any) -> Iterator[dict[str, Any]]:
    """Begin a benchmark of the form; its name comes from the model and its recipes."""
    benchmark, recipes = parse_form(text, *form)
    yield from run(benchmark, recipes, kept.free_name(f"{recipes[0].model} {recipes[0].name}"))


def resume(name: str | None) -> Iterator[dict[str, Any]]:
    """Generate the rest of an interrupted benchmark."""
    if not name or name not in kept.list_unfinished():
        raise DmqError("no interrupted benchmark is chosen.")
    yield from run(kept.load_benchmark(name), kept.load_recipes(name), name)


def estimate_seconds(text: str, *form: Any) -> float:
    """How long `start` needs a GPU."""
    return _estimate_seconds(*parse_form(text, *form))


def estimate_rest_seconds(name: str | None) -> float:
    """How long `go_on` needs a GPU, as if nothing were generated yet."""
    return _estimate_seconds(kept.load_benchmark(name or ""), kept.load_recipes(name or ""))


def _estimate_seconds(benchmark: Benchmark, recipes: tuple[Recipe, ...]) -> float:
    models = len(recipes) + 2  # float, and with other seeds
    return gpu_time.estimate_gpu_seconds(
        recipes[0].model, benchmark.images, benchmark.sampling.steps, models
    )


def show_interrupted() -> dict[str, Any]:
    """The interrupted benchmarks, to go on with."""
    left = kept.list_unfinished()
    shown = gr.update(choices=left, value=next(iter(left), None), visible=bool(left))
    return {"unfinished": shown, "resume": gr.update(visible=bool(left))}


JOB = JobPanel(
    start={"start": "Start the benchmark", "resume": "Resume"},
    hidden=("resume",),
    stop="Stop, keep what is generated",
    progress="Progress of the benchmark",
    at_end=show_interrupted,
    stopped="Stopped; what was generated is kept. “Resume” generates the rest; the result is the same as without "
    "a stop.",
)


@JOB.run
def run(
    benchmark: Benchmark, recipes: tuple[Recipe, ...], name: str
) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Generate and measure, with a bar, the last images, and the rows of every model that is done."""
    check_benchmark(benchmark, recipes)
    estimate_text = str(benchmark_estimate.estimate_benchmark(benchmark, recipes, name=name))
    yield {
        "estimate": format_note(estimate_text),
        "live": gr.update(visible=True),
        "rows": "",
        "last": [],
    }
    last: list[tuple[Any, str]] = []

    def add(seen: Any) -> dict[str, Any]:
        if isinstance(seen, BenchReport):
            return {"rows": format_rows(seen)}
        last.append((seen.pixels, f"{seen.recipe} · {seen.prompt} · seed {seen.seed}"))
        del last[:-LAST]
        return {"last": list(last)} if seen.index % benchmark.batch == benchmark.batch - 1 else {}

    yield from watch(run_benchmark(benchmark, recipes, name=name), add)
    return {
        "status": format_note(f"Done; kept as “{name}”."),
        "live": gr.update(visible=False),
        "done": name,
    }


def format_rows(report: BenchReport) -> str:
    """The tables of what is done by now."""
    named = [
        f"<b>{d.name}</b>{bench_table.as_html(report, d.name)}" for d in report.benchmark.domains
    ]
    return "".join([*named, f"<p>{bench_table.context(report)}</p>"])


def show_form(recipe: Recipe, computed: str | None = None) -> dict[str, Any]:
    """The form for the current recipe."""
    prompted = get_info(recipe.model).prompted
    return {
        "others": gr.update(choices=list(list_recipes(recipe))),
        "domains": gr.update(visible=prompted),
        "file": gr.update(visible=prompted),
        "seeds": gr.update(visible=prompted),
        "computed": choose_engine(recipe, computed),
    } | show_interrupted()


def build(out: dict[str, Any]) -> None:
    """The form, and what is shown while it is generated."""
    shipped = prompts.shipped_domains()
    labels = {"names": "names (of the kind it was trained on)"}
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            out["domains"] = gr.CheckboxGroup(
                [(labels.get(name, f"{name} (never trained on)"), name) for name in shipped],
                value=list(shipped),
                label="Prompts",
            )
            out["others"] = gr.Dropdown([], multiselect=True, label="Other recipes to measure")
            out["computed"] = build_engine_choice()
        with gr.Column(scale=2, min_width=280):
            with gr.Row():
                out["count"] = gr.Number(
                    16, label="Images of each list", precision=0, minimum=1, min_width=100
                )
                out["seeds"] = gr.Number(
                    1, label="Seeds of each prompt", precision=0, minimum=1, min_width=100
                )
            out["file"] = gr.File(
                label="Your own prompts: a text file, one a line", file_types=["text"], height=110
            )
    out["estimate"] = gr.HTML(label="Estimated time", elem_id="bench-estimate")
    with gr.Row():
        JOB.build_buttons(out, "start", "stop", min_width=220)
        out["unfinished"] = gr.Dropdown(
            [], value=None, label="Interrupted", visible=False, min_width=220
        )
        JOB.build_buttons(out, "resume", min_width=120)
    JOB.build_progress(out)
    with gr.Column(visible=False) as out["live"]:
        out["rows"] = gr.HTML(
            label="Rows so far", elem_id="bench-rows", css_template=bench_table.STYLE
        )
        out["last"] = build_gallery("Latest images", LAST)
    out["done"] = gr.State("")  # the benchmark that was finished last


def connect(
    shared: Shared,
    out: dict[str, Any],
    more: gr.Accordion,
    shown: Any,
    opened: Callable,
    view: list[Any],
) -> None:
    """The form's events; a finished benchmark is shown by `opened`."""
    form = [
        shared.recipe,
        *(out[name] for name in ("domains", "file", "count", "seeds", "others", "computed")),
    ]
    moved = [
        *(out[name].input for name in ("domains", "others", "computed")),
        out["count"].blur,
        out["seeds"].blur,
        out["file"].upload,
    ]
    on(
        [more.expand, *moved],
        estimate,
        form,
        {"estimate": out["estimate"]},
        trigger_mode="always_last",
        **MODEL,
    )
    drawing = [
        JOB.connect_start(out["start"].click, start, form, out, seconds=estimate_seconds),
        JOB.connect_start(
            out["resume"].click, resume, [out["unfinished"]], out, seconds=estimate_rest_seconds
        ),
    ]
    JOB.connect_stop(out, drawing, shared.recipe)

    def finished(text: str, name: str) -> dict[str, Any]:
        if not name:
            return {}
        names = [
            benchmark
            for benchmark in kept.list_finished()
            if kept.model_of(benchmark) == read(text).model
        ]
        return {"run": gr.update(choices=names, value=name)} | opened(name, [], None, None)

    on(out["done"].change, finished, [shared.recipe, out["done"]], out)
