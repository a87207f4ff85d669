"""Benchmarks as figures: quality against bytes and against seconds, with intervals and the noise
floor.
"""

import html
import math
from collections.abc import Callable

import plotly.graph_objects as go

from ..results import BENCH_MEASURES, FLOOR_NAME, BenchReport, BenchRow
from .bench_table import interval, value
from .style import GREY, PALETTE, YELLOW, layout


SYMBOLS = {
    "circle": "●",
    "square": "■",
    "diamond": "◆",
    "triangle-up": "▲",
    "cross": "✚",
    "x": "✖",
    "star": "★",
}
WIDE = 30  # the largest figure over the smallest from which an axis is logarithmic


def against_bytes(report: BenchReport, measure: str, domain: str) -> go.Figure:
    """`measure` of every recipe over what its denoiser stores."""
    return _scatter(
        report, measure, domain, lambda row: report.bytes[row.recipe] / 1e6, "MB stored"
    )


def against_seconds(report: BenchReport, measure: str, domain: str) -> go.Figure:
    """`measure` of every recipe over the seconds of sampling an image."""
    return _scatter(
        report,
        measure,
        domain,
        lambda row: row.seconds / max(1, row.samples + row.failed),
        "seconds an image",
    )


def key(report: BenchReport) -> str:
    """Which mark is which recipe, as HTML: one legend for all figures, which a narrow page
    breaks into lines.
    """
    marks = {name: _mark(report, name) for name in report.recipes if name != FLOOR_NAME}
    shown = (
        f'<span><b style="color:{colour}">{SYMBOLS[symbol]}</b> {html.escape(name)}</span>'
        for name, (colour, symbol) in marks.items()
    )
    return f'<div class="dmq-key">{"".join(shown)}</div>'


KEY_STYLE = """
.dmq-key { display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: 13px; }
.dmq-key span { white-space: nowrap; }
.dmq-key b { display: inline-block; width: 1.1em; text-align: center; }
"""


def _mark(report: BenchReport, name: str) -> tuple[str, str]:
    """Colour and symbol, the same in every figure; both differ between neighbours, which may lie
    upon each other.
    """
    if name not in report.coverage:
        return GREY, "circle"
    k = [*report.coverage].index(name)
    colours = [
        colour for colour in PALETTE if colour not in (GREY, YELLOW)
    ]  # of float; hard to see on white
    return colours[k % len(colours)], [*SYMBOLS][
        k % len(SYMBOLS)
    ]  # six and seven: 42 different ones


def _scatter(
    report: BenchReport, measure: str, domain: str, across: Callable[[BenchRow], float], title: str
) -> go.Figure:
    told, figure = BENCH_MEASURES[measure], go.Figure()
    rows = [
        row
        for row in report.rows
        if row.domain == domain and measure in row.figures and row.recipe != FLOOR_NAME
    ]
    ends = [end for row in rows for end in (row.figures[measure].value, row.figures[measure].high)]
    top = (
        max([end for end in ends if math.isfinite(end)], default=0.0) + 5
    )  # where equal images are drawn
    for row in rows:
        one = row.figures[measure]
        height = min(one.value, top)
        up, down = (
            max(0.0, part) if math.isfinite(part) else 0.0
            for part in (one.high - height, height - one.low)
        )
        colour, symbol = _mark(report, row.recipe)
        beside = f"{value(one.value, told)} {interval(one, told)}, n = {row.samples}"
        broken = f"<br>{row.failed} images not finite" if row.failed else ""
        figure.add_scatter(
            x=[across(row)],
            y=[height],
            name=row.recipe,
            mode="markers",
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [up],
                "arrayminus": [down],
                "thickness": 1.2,
            },
            marker={"color": colour, "size": 10, "symbol": symbol, "opacity": 0.85},
            hovertemplate=f"{beside}<br>%{{x:.3g}} "
            f"{title}{broken}<extra>{html.escape(row.recipe)}</extra>",
        )
    floor = report.floor(domain, measure)
    floor = math.nan if measure.startswith("real") else floor
    lows = [end for row in rows for end in (row.figures[measure].value, row.figures[measure].low)]
    bottom = min([end for end in (*lows, floor) if math.isfinite(end)], default=0.0)
    wide = not told.higher and bottom > 0 and top - 5 > WIDE * bottom
    if math.isfinite(floor):
        _floor_line(figure, floor, wide)
    way = "more is better" if told.higher else "less is better"
    label = f"{told.label}{', ' + told.unit if told.unit else ''} ({way})"
    made = layout(figure, height=380, x=title, y=label, showlegend=False, uirevision=measure)
    made.update_yaxes(type="log" if wide else "linear", dtick="D2" if wide else None)
    return made.update_layout(margin_t=20)


def _floor_line(figure: go.Figure, floor: float, wide: bool) -> None:
    figure.add_hline(floor, line={"color": GREY, "width": 1.5, "dash": "dash"})
    figure.add_annotation(
        text="noise floor: float, other seeds",
        font={"size": 10},
        showarrow=False,
        xref="paper",
        x=1,
        xanchor="right",
        y=math.log10(floor) if wide else floor,
        yanchor="top",
    )
