"""Partitions of the time axis and what they cost."""

from itertools import cycle
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..recipe import FLOAT
from ..results import GroupErrors, Groups
from .style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALETTE,
    PURPLE,
    RED,
    STEP,
    label,
    layout,
    row_axis,
    rows_height,
)


SHARE = "error, % of power"
STYLES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "width": 3, "dash": "solid"},
    {"color": ORANGE, "width": 2, "dash": "dash"},
    {"color": GREEN, "width": 2, "dash": "dot"},
    {"color": PURPLE, "width": 2, "dash": "dashdot"},
    {"color": RED, "width": 2, "dash": "longdash"},
)
SYMBOLS = ("circle", "diamond-open", "line-ns-open", "square-open", "x")


def error_per_step(lines: dict[str, GroupErrors], boundaries: tuple[int, ...] = ()) -> go.Figure:
    """Error at every step, the mean over the quantized sites, a line for each partition; the
    first one stands out.
    """
    figure = go.Figure()
    for (name, errors), style in reversed(list(zip(lines.items(), cycle(STYLES), strict=False))):
        percent = 100 * errors.per_step()
        figure.add_scatter(
            x=np.arange(len(percent)),
            y=percent.astype(np.float32),
            name=name,
            mode="lines",
            line=style,
            hovertemplate="%{y:.3g} %<extra>" + name + "</extra>",
        )
    for boundary in boundaries:
        figure.add_vline(
            boundary - 0.5, line={"color": GREY, "width": 1, "dash": "dot"}, layer="below"
        )
    layout(figure, x=STEP, y=SHARE, hovermode="x", legend={"traceorder": "reversed"})
    return _logarithmic(figure, "y", [errors.per_step() for errors in lines.values()])


def error_per_site(lines: dict[str, GroupErrors]) -> go.Figure:
    """Error of every quantized site, the mean over the steps; the largest under the first partition
    on top.

    The customdata of a point is the site.
    """
    first = next(iter(lines.values()))
    sites = np.flatnonzero((first.bits < FLOAT).any(1))
    order = sites[np.argsort(-first.per_site()[sites], kind="stable")]
    figure = go.Figure()
    styles = list(zip(lines.items(), cycle(STYLES), cycle(SYMBOLS), strict=False))
    for (name, errors), style, symbol in reversed(styles):
        percent = 100 * errors.per_site()[order]
        text = [first.groups.sites[s].label for s in order]
        figure.add_scatter(
            x=percent.astype(np.float32),
            y=np.arange(len(order)),
            name=name,
            mode="markers",
            text=text,
            customdata=order.astype(np.int32),
            marker={"color": style["color"], "symbol": symbol, "size": 7, "line": {"width": 2}},
            hovertemplate="%{text}<br>%{x:.3g} %<extra>" + name + "</extra>",
        )
    height = rows_height(len(order))
    layout(figure, height=height, x=SHARE, legend={"traceorder": "reversed"})
    figure.update_yaxes(**row_axis([label(first.groups.sites[s]) for s in order], height))
    return _logarithmic(figure, "x", [errors.per_site()[order] for errors in lines.values()])


def error_against_count(
    counts: tuple[int, ...],
    curves: dict[str, list[float]],
    current: tuple[int, float] | None = None,
) -> go.Figure:
    """Total error against the number of groups, a line for each way to place them; `current` is
    (groups, error).
    """
    figure = go.Figure()
    styles = cycle(((ORANGE, "dash"), (GREEN, "solid")))
    for (name, totals), (colour, dash) in zip(curves.items(), styles, strict=False):
        figure.add_scatter(
            x=list(counts),
            y=100 * np.array(totals, np.float32),
            name=name,
            mode="lines+markers",
            line={"color": colour, "width": 2, "dash": dash},
            hovertemplate="%{x} groups: %{y:.3g} %<extra>" + name + "</extra>",
        )
    if current:
        figure.add_scatter(
            x=[current[0]],
            y=np.array([100 * current[1]], np.float32),
            name="current",
            mode="markers",
            marker={"color": BLUE, "size": 13, "symbol": "star"},
            hovertemplate="%{x} groups: %{y:.3g} %<extra>current</extra>",
        )
    layout(figure, x="groups G", y=SHARE)
    shown = [*curves.values(), [current[1]]] if current else list(curves.values())
    return _logarithmic(figure, "y", [np.array(values) for values in shown])


def slot_map(groups: Groups) -> go.Figure:
    """Which slot every site uses at every step; a single line where one partition serves all."""
    common = bool((groups.slot == groups.slot[:1]).all())
    slot = groups.slot[:1] if common else groups.slot
    names = ["all layers"] if common else [site.label for site in groups.sites]
    shorts = names if common else [label(site) for site in groups.sites]
    height = 150 if common else rows_height(len(names))
    last = len(PALETTE) - 1
    colours = [
        [(k + end) / (last + 1), colour] for k, colour in enumerate(PALETTE) for end in (0, 1)
    ]
    figure = go.Figure(
        go.Heatmap(
            z=(slot % (last + 1)).astype(np.uint8),
            x=np.arange(slot.shape[1]),
            y=np.arange(len(names)),
            zmin=-0.5,
            zmax=last + 0.5,
            colorscale=colours,
            showscale=False,
            xgap=0.5,
            text=[
                [f"{name}<br>slot {k}" for k in line]
                for name, line in zip(names, slot, strict=True)
            ],
            hovertemplate="step %{x}<br>%{text}<extra></extra>",
        )
    )
    layout(figure, height=height, x=STEP)
    figure.update_xaxes(showgrid=False, zeroline=False)
    return figure.update_yaxes(**row_axis(shorts, height))


def _logarithmic(figure: go.Figure, axis: str, shown: list[np.ndarray]) -> go.Figure:
    """A logarithmic axis where the values span more than a factor of 4 and none is zero."""
    low, high = (
        min(float(v.min(initial=np.inf)) for v in shown),
        max(float(v.max(initial=0)) for v in shown),
    )
    if 0 < low < np.inf and high / low > 4:
        change = {
            "type": "log",
            "dtick": "D1" if high / low < 100 else 1,
            "exponentformat": "power",
        }
    else:
        change = {"rangemode": "tozero"}
    return figure.update_layout({f"{axis}axis": change})
