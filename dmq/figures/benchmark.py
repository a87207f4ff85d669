"""Benchmarks as figures: quality against bytes and against seconds, with intervals and the noise floor."""

import math
from collections.abc import Callable

import plotly.graph_objects as go

from ..results import BENCH_MEASURES, FLOOR_NAME, BenchReport, BenchRow
from .bench_table import interval, value
from .look import GREY, PALETTE, layout


SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star")


def against_bytes(report: BenchReport, measure: str, domain: str) -> go.Figure:
    """`measure` of every recipe over what its denoiser stores."""
    return _scatter(report, measure, domain, lambda row: report.bytes[row.recipe] / 1e6, "MB stored")


def against_seconds(report: BenchReport, measure: str, domain: str) -> go.Figure:
    """`measure` of every recipe over the seconds of sampling a picture."""
    return _scatter(
        report, measure, domain, lambda row: row.seconds / max(1, row.samples + row.failed), "seconds a picture"
    )


def _scatter(
    report: BenchReport, measure: str, domain: str, across: Callable[[BenchRow], float], title: str
) -> go.Figure:
    told, figure = BENCH_MEASURES[measure], go.Figure()
    rows = [row for row in report.rows if row.domain == domain and measure in row.figures and row.recipe != FLOOR_NAME]
    ends = [end for row in rows for end in (row.figures[measure].value, row.figures[measure].high)]
    top = max([end for end in ends if math.isfinite(end)], default=0.0) + 5  # where equal pictures are drawn
    for k, row in enumerate(rows):
        one = row.figures[measure]
        height = min(one.value, top)
        up, down = (max(0.0, part) if math.isfinite(part) else 0.0 for part in (one.high - height, height - one.low))
        name = row.recipe
        beside = f"{value(one.value, told)} {interval(one, told)}, n = {row.samples}"
        broken = f"<br>{row.failed} pictures not finite" if row.failed else ""
        figure.add_scatter(
            x=[across(row)], y=[height], name=name, mode="markers",
            error_y={"type": "data", "symmetric": False, "array": [up], "arrayminus": [down], "thickness": 1.2},
            marker={"color": GREY if name not in report.coverage else PALETTE[k % len(PALETTE)], "size": 10,
                    "symbol": SYMBOLS[k // len(PALETTE) % len(SYMBOLS)]},
            hovertemplate=f"{beside}<br>%{{x:.3g}} {title}{broken}<extra>{name}</extra>",
        )  # fmt: skip
    floor = report.floor(domain, measure)
    if math.isfinite(floor) and not measure.startswith("real"):
        figure.add_hline(
            floor, line={"color": GREY, "width": 1.5, "dash": "dash"},
            annotation={"text": "noise floor: float, other seeds", "font": {"size": 10}},
            annotation_position="bottom right",
        )  # fmt: skip
    way = "more is better" if told.higher else "less is better"
    label = f"{told.label}{', ' + told.unit if told.unit else ''} ({way})"
    made = layout(figure, height=430, x=title, y=label, showlegend=True)
    # Below the axis: a dozen names above it would leave no room for the figure on a narrow page.
    return made.update_layout(legend={"orientation": "h", "x": 0, "y": -0.22, "yanchor": "top"}, uirevision=measure)
