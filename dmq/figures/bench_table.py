"""The table of a benchmark as plain text, Markdown and HTML: never a figure without its context."""

import html
import math

from ..describe import describe_coverage, describe_engine, fallbacks, format_speed, on_kernels
from ..recipe import SIMULATED
from ..results import (
    BENCH_MEASURES,
    FLOOR_NAME,
    BenchReport,
    BenchRow,
    Coverage,
    Figure,
    Measure,
)


def measures(report: BenchReport) -> list[Measure]:
    """What was measured, in the order of the columns."""
    return [
        m for name, m in BENCH_MEASURES.items() if any(name in row.figures for row in report.rows)
    ]


def value(number: float, measure: Measure) -> str:
    """A figure in the digits that it deserves, at most five where there are digits behind the
    point.

    >>> value(float("inf"), BENCH_MEASURES["psnr"]), value(2 / 3, BENCH_MEASURES["ssim"])
    ('equal', '0.6667')
    >>> value(-146.6436, BENCH_MEASURES["kid"])
    '-146.64'
    """
    if math.isnan(number):
        return "–"
    if math.isinf(number):
        return "equal"
    before = len(str(int(abs(number))))
    return f"{number:.{max(0, min(measure.digits, 5 - before))}f}"


def interval(figure: Figure, measure: Measure) -> str:
    """Such as "[1.2, 1.4]"; "" where one prompt tells nothing of the spread."""
    if math.isnan(figure.low) or math.isnan(figure.high):
        return ""
    return f"[{value(figure.low, measure)}, {value(figure.high, measure)}]"


def context(report: BenchReport) -> str:
    """What all figures of the table hold for, in one line."""
    asked, seeds = report.benchmark, report.benchmark.seeds
    named = (
        ", ".join(map(str, seeds))
        if len(seeds) <= 4
        else f"{seeds[0]} to {seeds[-1]} ({len(seeds)})"
    )
    others = asked.floor_seeds
    floor = ", ".join(map(str, others)) if len(others) <= 4 else f"{others[0]} to {others[-1]}"
    domains = ", ".join(
        f"{d.name} ({len(d.prompts)} prompt{'s' * (len(d.prompts) > 1)})" for d in asked.domains
    )
    seen = (
        f"features and matches by {report.features}"
        if report.features
        else "no measure needs features"
    )
    real = (
        f"real images: {report.reference}" if report.reference else "no real images to compare with"
    )
    return (
        f"{report.model}; "
        f"{report.sampler.partition(', {')[0]}; seeds {named}, noise floor with seeds {floor}; "
        f"{domains}; {seen}; {real}; intervals: 95 %, over prompts; seconds on {report.machine}."
    )


def head(report: BenchReport) -> list[str]:
    """The names of the columns."""
    titles = [
        f"{m.label}{f' ({m.unit})' if m.unit else ''} {'↑' if m.higher else '↓'}"
        for m in measures(report)
    ]
    return ["Recipe", "Images", *titles, "MB", "s an image", "speed"]


def cells(report: BenchReport, row: BenchRow) -> list[tuple[str, str]]:
    """The columns of a row: what is in it, and the interval or remark that belongs to it."""
    broken = f"{row.failed} not finite" if row.failed else ""
    found = []
    for measure in measures(report):
        figure = row.figures.get(measure.name)
        found.append(
            (value(figure.value, measure), interval(figure, measure)) if figure else ("–", "")
        )
    size = report.bytes.get(row.recipe)
    seconds = _seconds(row)
    return [
        (row.recipe, ""),
        (str(row.samples), broken),
        *found,
        (f"{size / 1e6:.2f}" if size else "–", ""),
        (f"{seconds:.2f}", ""),
        (_speed(report, row), ""),
    ]


def _seconds(row: BenchRow) -> float:
    """Of sampling one image."""
    return row.seconds / max(1, row.samples + row.failed)


def _speed(report: BenchReport, row: BenchRow) -> str:
    """Against the float model in the same domain."""
    floats = next(
        (one for one in rows_of(report, row.domain) if one.recipe not in report.coverage), row
    )
    return format_speed(_seconds(row), _seconds(floats))


def rows_of(report: BenchReport, domain: str) -> list[BenchRow]:
    """The rows of one domain: float, its noise floor, then the recipes."""
    return [row for row in report.rows if row.domain == domain]


def text(report: BenchReport) -> str:
    """Columns under each other, a block for each domain, then the context."""
    lines = []
    for domain in report.benchmark.domains:
        table = [head(report)]
        table += [
            [" ".join(filter(None, cell)) for cell in cells(report, row)]
            for row in rows_of(report, domain.name)
        ]
        widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
        lines += ["", f"{domain.name}:"]
        lines += [
            "  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]
    lines += ["", context(report), f"The noise floor is the row {FLOOR_NAME!r}."]
    lines += [f"{who}: {describe_coverage(one)}" for who, one in report.coverage.items()]
    lines += [f"note: {line}" for line in report.warnings]
    return "\n".join(lines[1:])


def markdown(report: BenchReport) -> str:
    """The table for a README, one for each domain, with its context below."""
    lines = []
    for domain in report.benchmark.domains:
        title = head(report)
        title[0] = f"{report.model}, {domain.name}"
        lines += [f"| {' | '.join(title)} | float stays |", "|---" * (len(title) + 1) + "|"]
        for row in rows_of(report, domain.name):
            own = [" ".join(filter(None, cell)) for cell in cells(report, row)]
            own.append(_stays(report.coverage.get(row.recipe)))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in own) + " |")
        lines.append("")
    return "\n".join([*lines, context(report)])


def as_html(report: BenchReport, domain: str) -> str:
    """One domain as a table; a figure no better than the noise floor is marked."""
    made = ['<div class="dmq-bench"><table><thead><tr>']
    helps = [
        "",
        "that the figures are of",
        *(m.help for m in measures(report)),
        "everything that the denoiser stores",
        "of sampling, measured",
        "how many times as fast as the float model",
    ]
    made += [
        f'<th title="{html.escape(help)}">{html.escape(name)}</th>'
        for name, help in zip(head(report), helps, strict=True)
    ]
    made.append("<th>what is quantized</th></tr></thead><tbody>")
    for row in rows_of(report, domain):
        kind = "float" if row.recipe not in report.coverage else ""
        made.append(f'<tr class="{kind}">')
        marks = ["", "", *(_beyond(report, row, m) for m in measures(report)), "", "", ""]
        for k, ((shown, beside), mark) in enumerate(zip(cells(report, row), marks, strict=True)):
            tag = "th" if k == 0 else "td"
            small = f"<small>{html.escape(beside)}</small>" if beside else ""
            made.append(f'<{tag} class="{mark}">{html.escape(shown)}{small}</{tag}>')
        other = Coverage(quantized="noise floor" if row.recipe == FLOOR_NAME else "nothing")
        made.append(f"<td>{_ran(report.coverage.get(row.recipe, other))}</td></tr>")
    note = (
        "Faint: no better than the float model with other seeds, the noise floor. "
        "Small: 95 % intervals over prompts."
    )
    return "".join([*made, f"</tbody></table><p>{note}</p></div>"])


def _stays(coverage: Coverage | None) -> str:
    """What stays in float and, unless it is simulated, what computed the rest."""
    if coverage is None:
        return "everything"
    ran = f"; {describe_engine(coverage)}" if coverage.engine != SIMULATED else ""
    return coverage.in_float + ran


def _ran(ran: Coverage) -> str:
    """What is quantized, and in lines of their own what computed it unless it is simulated, and
    what fell back.
    """
    on = html.escape(", ".join(on_kernels(ran.kernels)))
    kernels = [f"<b>{html.escape(ran.engine)}</b>: {on}"] if ran.kernels else []
    slow = [f'<span class="fell">⚠ {html.escape(part)}</span>' for part in fallbacks(ran.fell_back)]
    return "<br>".join([html.escape(ran.quantized), *kernels, *slow])


def _beyond(report: BenchReport, row: BenchRow, measure: Measure) -> str:
    """Marks a figure of a recipe that is no better than the noise floor; real images have no
    such floor.
    """
    figure, floor = row.figures.get(measure.name), report.floor(row.domain, measure.name)
    if (
        figure is None
        or row.recipe not in report.coverage
        or measure.name.startswith("real")
        or math.isnan(floor)
    ):
        return ""
    worse = figure.value <= floor if measure.higher else figure.value >= floor
    return "faint" if worse and measure.name != "clip" else ""


STYLE = """
.dmq-bench { overflow-x: auto; max-width: 100%; }
.dmq-bench table, .dmq-bench tr { border: 0; }
.dmq-bench table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
.dmq-bench th, .dmq-bench td { padding: 5px 9px; text-align: right; vertical-align: top; white-space: nowrap;
  border: 0; border-bottom: 1px solid rgba(128,128,128,.3); background: none; }
.dmq-bench thead th { font-weight: 600; white-space: normal; min-width: 62px; vertical-align: bottom; }
.dmq-bench tbody th, .dmq-bench thead th:first-child { text-align: left; font-weight: 600; }
.dmq-bench td:last-child, .dmq-bench thead th:last-child { text-align: left; white-space: normal; min-width: 560px;
  font-size: 12px; }
.dmq-bench th:first-child { position: sticky; left: 0; background: var(--background-fill-primary, #fff); }
.dmq-bench small { display: block; opacity: .7; font-size: 11px; }
.dmq-bench tr.float { background: rgba(128,128,128,.12); }
.dmq-bench tr.float th:first-child { background-image: linear-gradient(rgba(128,128,128,.12) 0 100%); }
.dmq-bench .faint { opacity: .55; }
.dmq-bench .fell { font-weight: 600; }
.dmq-bench p { font-size: 12px; opacity: .75; margin: 6px 0 0; }
"""
