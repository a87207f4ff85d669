"""Benchmark: quantized models against the float one on many images, with a noise floor
(QDiffBench).
"""

import html
from typing import Any

import gradio as gr

from dmq.errors import DmqError
from dmq.evaluation import joined_benchmarks, rank_inversions
from dmq.figures import bench_report, bench_table
from dmq.figures import benchmark as figures
from dmq.progress import FLOAT_NAME
from dmq.results import BENCH_MEASURES, BenchReport
from dmq.store import benchmarks as kept
from dmq.store import folders

from ..layout import show_body, show_hint
from ..session import read
from . import new_benchmark as benching


FINDINGS = 3
GALLERY = 24  # pairs of images


def list_finished(model: str) -> list[str]:
    """The finished benchmarks of `model`: those that ship first."""
    return [name for name in kept.list_finished() if _read_model(name) == model]


def _read_model(name: str) -> str:
    try:
        return kept.model_of(name)
    except DmqError:  # one that cannot be read must not take the whole tab away
        return ""


def show(
    text: str,
    run: str | None,
    beside: list[str] | None,
    domain: str | None,
    measure: str | None,
    computed: str | None = None,
) -> dict[str, Any]:
    """The tab for the current recipe's model: the benchmark that is shown, or the first that
    there is.
    """
    recipe = read(text)
    names = list_finished(recipe.model)
    name = run if run in names else next(iter(names), None)
    form = benching.show_form(recipe, computed) | {"run": gr.update(choices=names, value=name)}
    return form | open_benchmark(name, beside if name == run else [], domain, measure)


def open_benchmark(
    name: str | None, beside: list[str] | None, domain: str | None, measure: str | None
) -> dict[str, Any]:
    """A finished benchmark, with others beside it, and the files to download.

    All at once: the browser loses an answer's properties if the next answer comes before they are
    generated."""
    if not name:
        why = "No benchmark of this model yet: open **A new benchmark** below."
        return show_hint(why)
    others = [benchmark for benchmark in beside or [] if benchmark != name]
    report = joined_benchmarks.join_benchmarks([name, *others])
    choices = [other for other in list_finished(report.model) if other != name]
    top = show_body() | {
        "others_shown": gr.update(choices=choices, value=others),
        "gallery": make_gallery(name),
    }
    return top | show_view(report, domain, measure) | write_downloads(name)


def show_view(report: BenchReport, domain: str | None, measure: str | None) -> dict[str, Any]:
    """The table and the figures of one domain."""
    domains = [d.name for d in report.benchmark.domains]
    domain = domain if domain in domains else domains[0]
    known = [m.name for m in bench_table.measures(report) if m.name in _list_measures(report)]
    measure = measure if measure in known else next(iter(known), None)
    shown = {
        "domain": gr.update(choices=domains, value=domain),
        "measure": gr.update(
            choices=[(BENCH_MEASURES[name].label, name) for name in known], value=measure
        ),
        "table": bench_table.as_html(report, domain),
        "context": bench_table.context(report),
        "finding": format_findings(report),
        "notes": gr.update(
            value="\n".join(f"- {line}" for line in report.warnings), visible=bool(report.warnings)
        ),
    }
    if (
        measure is None
    ):  # no image of any recipe consists of numbers: the figures before must not stay
        return shown | {"key": "", "bytes": None, "seconds": None}
    return shown | {
        "key": figures.key(report),
        "bytes": figures.against_bytes(report, measure, domain),
        "seconds": figures.against_seconds(report, measure, domain),
    }


def _list_measures(report: BenchReport) -> set[str]:
    """The measures that some quantized model has."""
    return {name for row in report.rows if row.recipe in report.coverage for name in row.figures}


def format_findings(report: BenchReport) -> str:
    """Where the two references disagree, as marked lines; computed from the table, whichever it
    is.
    """
    inversions = rank_inversions.find_inversions(report)
    if not inversions:
        text = "distances to real images and to the float images rank no pair of models in opposite ways."
        return f'<p class="quiet">In this table {text}</p>' if report.reference else ""
    surely = (
        "would" if any(inversion.sure and inversion.apart for inversion in inversions) else "may"
    )
    lines = "".join(
        f"<li>{html.escape(str(inversion))}</li>" for inversion in inversions[:FINDINGS]
    )
    rest = len(inversions) - FINDINGS
    more = f"<p>{rest} more such pair{'s' * (rest > 1)} in this table.</p>" if rest > 0 else ""
    return (
        f"<div class='finding' role='note'><b>Real images as the yardstick {surely} mislead "
        f"here</b><ul>{lines}</ul>{more}</div>"
    )


def make_gallery(name: str) -> list[tuple[Any, str]]:
    """The images farthest from the float ones: float on the left, quantized on the right."""
    report, images = kept.load_report(name), kept.load_worst(name)
    gallery = []
    for worst in kept.worst(report)[:GALLERY]:
        keys = (FLOAT_NAME, worst.number), (worst.recipe, worst.number)
        if all(key in images for key in keys):
            pair = bench_report.side_by_side(*(images[key] for key in keys))
            gallery.append((pair, bench_report.caption(worst)))
    return gallery


def write_downloads(name: str) -> dict[str, str]:
    """The table as CSV and the whole benchmark as a page, in a temporary folder."""
    report, folder = kept.load_report(name), folders.download_folder()
    lines = [str(inversion) for inversion in rank_inversions.find_inversions(report)[:FINDINGS]]
    page = bench_report.page(
        name, report, kept.worst(report), kept.load_worst(name), lines, FLOAT_NAME
    )
    (folder / f"{name}.csv").write_text(kept.as_csv(report), "utf-8")
    (folder / f"{name}.html").write_text(page, "utf-8")
    return {"csv": str(folder / f"{name}.csv"), "page": str(folder / f"{name}.html")}


def change_view(
    name: str | None, beside: list[str] | None, domain: str | None, measure: str | None
) -> dict[str, Any]:
    """Another domain or measure of what is shown."""
    return (
        show_view(joined_benchmarks.join_benchmarks([name, *(beside or [])]), domain, measure)
        if name
        else {}
    )
