"""One site at one step under a grid: which values are rounded, which are clipped."""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..results import ActivationStats
from .activations import BINS, VALUE
from .distribution import bin_errors, grid_of, shares
from .style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    layout,
)


def grid(
    stats: ActivationStats, s: int, i: int, low: float, high: float, bits: int, symmetric: bool
) -> go.Figure:
    """The histogram of site s at step i with the grid of low..high over it, and below it the error
    of every bin.

    Rounding (within the grid) and clipping (beyond it) are told apart; the legend holds their
    totals, which are shares of the power of that step like the bars."""
    scale, zero = grid_of(low, high, bits, symmetric)
    bounds = -zero * scale, (2**bits - 1 - zero) * scale
    edges = _cut(stats, s, i, bounds)
    share = shares(stats, s, edges, slice(i, i + 1))[0]
    fine = _cut(stats, s, i, bounds, stats.edges(s))
    place = np.clip(np.searchsorted(edges, (fine[:-1] + fine[1:]) / 2) - 1, 0, len(edges) - 2)
    power = max(float(stats.power[s, i]), 1e-30)
    mass = shares(stats, s, fine, slice(i, i + 1))[0] / power
    mass = mass / max(share.sum(), 1e-30)
    rounding, clipping = (
        np.bincount(place, mass * part, len(edges) - 1)
        for part in bin_errors(fine, scale, zero, bits)
    )
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.6, 0.4]
    )
    bars = {
        "x": ((edges[:-1] + edges[1:]) / 2).astype(np.float32),
        "width": np.diff(edges).astype(np.float32),
    }
    errors = (f"rounding {100 * rounding.sum():.3g} %", f"clipping {100 * clipping.sum():.3g} %")
    parts = (
        (1, "values", GREY, share),
        (2, errors[0], BLUE, rounding),
        (2, errors[1], RED, clipping),
    )
    whole = "values", "power"
    for row, name, colour, values in parts:
        figure.add_bar(
            **bars,
            y=values.astype(np.float32),
            name=name,
            marker={"color": colour, "line_width": 0},
            row=row,
            col=1,
            hovertemplate=f"x = %{{x:.4g}}<br>%{{y:.3g}} of the "
            f"{whole[row - 1]}<extra>{name}</extra>",
        )
    _draw_levels(figure, scale, zero, bits, edges)
    layout(figure, height=460, barmode="stack", bargap=0)
    figure.update_xaxes(title_text=VALUE, row=2, col=1)
    figure.update_yaxes(
        title_text="share of values", type="log", exponentformat="power", dtick=1, row=1, col=1
    )
    return figure.update_yaxes(title_text="share of power", rangemode="tozero", row=2, col=1)


def _cut(
    stats: ActivationStats,
    s: int,
    i: int,
    bounds: tuple[float, float],
    edges: np.ndarray | None = None,
) -> np.ndarray:
    """Bin edges within what was seen at step i, cut at the ends of the grid: `edges`, or BINS
    equal ones.
    """
    low, high = float(stats.minimum[s, i]), float(stats.maximum[s, i])
    if not high > low:
        low, high = low - float(stats.edges(s)[1] - stats.edges(s)[0]), high + 1e-6
    cuts = [low, *(b for b in bounds if low < b < high), high]
    inner = (
        np.linspace(low, high, BINS - 2) if edges is None else edges[(edges > low) & (edges < high)]
    )
    return np.unique(np.concatenate([inner, cuts]))


def _draw_levels(
    figure: go.Figure, scale: float, zero: float, bits: int, edges: np.ndarray
) -> None:
    """The values of the grid as thin lines while they can be told apart, and its two ends."""
    levels = scale * (np.arange(2**bits) - zero)
    seen = levels[(levels >= edges[0] - scale) & (levels <= edges[-1] + scale)]
    if len(seen) <= 70:
        lines = np.full((len(seen), 3), np.nan, np.float32)
        lines[:, :2] = seen[:, None]
        figure.add_scatter(
            x=lines.ravel(),
            y=np.tile([0, 1, np.nan], len(seen)).astype(np.float32),
            mode="lines",
            xaxis="x",
            yaxis="y3",
            line={"color": GREEN, "width": 1},
            name=f"{2**bits} grid values",
            hoverinfo="skip",
        )
        figure.update_layout(
            yaxis3={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}
        )
    for end in (levels[0], levels[-1]):
        figure.add_vline(end, line={"color": ORANGE, "width": 2, "dash": "dash"})
