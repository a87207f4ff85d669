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
from ..forms import engine_choice
from ..job_panel import JobPanel, note, watch
from ..layout import build_gallery
from ..request import engine_shown, offered, recipes_of
from ..session import Shared, read


LAST = 12  # images shown while generating
MOST = 20_000  # images of each model that a visitor may ask for


def asked(
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
    for number, said in ((count, "images"), (seeds, "seeds")):
        if not number or not float(number).is_integer() or not 1 <= number <= MOST:
            raise DmqError(f"{said} must be a whole number from 1 to {MOST:,}, got {number}.")
    made = make_benchmark(recipe, chosen, seeds=int(seeds), images=int(count))
    return made, recipes_of(recipe, others, computed)


def estimate(text: str, *form: Any) -> Iterator[dict[str, Any]]:
    """How long the form's benchmark will take, or why it cannot be generated."""
    yield {"estimate": note("Measuring the speed of this machine …")}
    try:
        said = str(benchmark_estimate.estimate_benchmark(*asked(text, *form)))
    except DmqError as error:
        said = f"Not like this: {folders.shown(error)}"
    yield {"estimate": note(said)}


def start(text: str, *form: Any) -> Iterator[dict[str, Any]]:
    """Begin a benchmark of the form; its name comes from the model and its recipes."""
    benchmark, recipes = asked(text, *form)
    yield from running(benchmark, recipes, kept.free_name(f"{recipes[0].model} {recipes[0].name}"))


def go_on(name: str | None) -> Iterator[dict[str, Any]]:
    """Generate the rest of an interrupted benchmark."""
    if not name or name not in kept.unfinished():
        raise DmqError("no interrupted benchmark is chosen.")
    yield from running(kept.load_benchmark(name), kept.load_recipes(name), name)


def seconds(text: str, *form: Any) -> float:
    """How long `start` needs a GPU."""
    return _seconds(*asked(text, *form))


def seconds_of_the_rest(name: str | None) -> float:
    """How long `go_on` needs a GPU, as if nothing were generated yet."""
    return _seconds(kept.load_benchmark(name or ""), kept.load_recipes(name or ""))


def _seconds(benchmark: Benchmark, recipes: tuple[Recipe, ...]) -> float:
    models = len(recipes) + 2  # float, and with other seeds
    return gpu_time.estimate_gpu_seconds(
        recipes[0].model, benchmark.images, benchmark.sampling.steps, models
    )


def waiting() -> dict[str, Any]:
    """The interrupted benchmarks, to go on with."""
    left = kept.unfinished()
    shown = gr.update(choices=left, value=next(iter(left), None), visible=bool(left))
    return {"unfinished": shown, "resume": gr.update(visible=bool(left))}


JOB = JobPanel(
    start={"start": "Start the benchmark", "resume": "Go on"},
    hidden=("resume",),
    stop="Stop, keep what is generated",
    progress="Progress of the benchmark",
    at_end=waiting,
    stopped="Stopped; what was generated is kept. “Go on” generates the rest, and ends as if it had not "
    "been stopped.",
)


@JOB.run
def running(
    benchmark: Benchmark, recipes: tuple[Recipe, ...], name: str
) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Generate and measure, with a bar, the last images, and the rows of every model that is done."""
    check_benchmark(benchmark, recipes)
    said = str(benchmark_estimate.estimate_benchmark(benchmark, recipes, name=name))
    yield {"estimate": note(said), "live": gr.update(visible=True), "rows": "", "last": []}
    last: list[tuple[Any, str]] = []

    def add(seen: Any) -> dict[str, Any]:
        if isinstance(seen, BenchReport):
            return {"rows": rows(seen)}
        last.append((seen.pixels, f"{seen.recipe} · {seen.prompt} · seed {seen.seed}"))
        del last[:-LAST]
        return {"last": list(last)} if seen.index % benchmark.batch == benchmark.batch - 1 else {}

    yield from watch(run_benchmark(benchmark, recipes, name=name), add)
    return {
        "status": note(f"Done; kept as “{name}”."),
        "live": gr.update(visible=False),
        "done": name,
    }


def rows(report: BenchReport) -> str:
    """The tables of what is done by now."""
    named = [
        f"<b>{d.name}</b>{bench_table.as_html(report, d.name)}" for d in report.benchmark.domains
    ]
    return "".join([*named, f"<p>{bench_table.context(report)}</p>"])


def form_for(recipe: Recipe, computed: str | None = None) -> dict[str, Any]:
    """The form for the current recipe."""
    prompted = get_info(recipe.model).prompted
    return {
        "others": gr.update(choices=list(offered(recipe))),
        "domains": gr.update(visible=prompted),
        "file": gr.update(visible=prompted),
        "seeds": gr.update(visible=prompted),
        "computed": engine_shown(recipe, computed),
    } | waiting()


def draw(out: dict[str, Any]) -> None:
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
            out["others"] = gr.Dropdown(
                [], multiselect=True, label="Recipes besides the current one"
            )
            out["computed"] = engine_choice()
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
    out["estimate"] = gr.HTML(label="How long it will take", elem_id="bench-estimate")
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
        out["last"] = build_gallery("Generated last", LAST)
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
        JOB.connect_start(out["start"].click, start, form, out, seconds=seconds),
        JOB.connect_start(
            out["resume"].click, go_on, [out["unfinished"]], out, seconds=seconds_of_the_rest
        ),
    ]
    JOB.connect_stop(out, drawing, shared.recipe)

    def finished(text: str, name: str) -> dict[str, Any]:
        if not name:
            return {}
        names = [one for one in kept.finished() if kept.model_of(one) == read(text).model]
        return {"run": gr.update(choices=names, value=name)} | opened(name, [], None, None)

    on(out["done"].change, finished, [shared.recipe, out["done"]], out)
