"""Activations over the steps: every site at once, and one site in detail."""

from collections.abc import Callable, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from ..results import ActivationStats
from .distribution import shares, span
from .style import (
    BLUE,
    GREY,
    RED,
    STEP,
    label,
    layout,
    plain,
    rgba,
    row_axis,
    rows_height,
)


BINS = 160  # in any one image of a histogram
VALUE = "activation x"

STATISTICS = {
    "max |x|": "The largest magnitude seen.",
    "min": "The smallest value seen.",
    "max": "The largest value seen.",
    "mean": "The mean of all values.",
    "std": "The standard deviation of all values.",
    "kurtosis": "How heavy the tails are: 0 for a normal distribution, large where outliers rule.",
    "99.9 % quantile": "One value in a thousand is larger.",
    "range drift": "The width of the range over its median across the steps: 1 at every step means "
    "no drift.",
    "channel imbalance": "The largest channel's reach over the median channel's: large where few "
    "channels rule.",
}


def statistic(stats: ActivationStats, name: str) -> np.ndarray:
    """The named statistic of every site and step [S, T]; names are those of STATISTICS
    (KeyError).
    """
    return _rows(stats, name, range(len(stats.sites)))


def _rows(stats: ActivationStats, name: str, rows: Sequence[int]) -> np.ndarray:
    rows = list(rows)
    low, high = stats.minimum[rows].astype(float), stats.maximum[rows].astype(float)
    choices: dict[str, Callable[[], np.ndarray]] = {
        "max |x|": lambda: np.maximum(np.abs(low), np.abs(high)),
        "min": lambda: low,
        "max": lambda: high,
        "mean": lambda: stats.mean[rows],
        "std": lambda: stats.std[rows],
        "kurtosis": lambda: stats.kurtosis[rows],
        "99.9 % quantile": lambda: np.stack([stats.quantile(s, 0.999) for s in rows]),
        "range drift": lambda: (
            (high - low) / np.maximum(np.median(high - low, axis=1, keepdims=True), 1e-30)
        ),
        "channel imbalance": lambda: np.stack([_imbalance(stats, s) for s in rows]),
    }
    return choices[name]()


def _reach(stats: ActivationStats, s: int) -> np.ndarray:
    """max |x| of every step and channel of site s."""
    return np.maximum(np.abs(stats.channel_min[s]), np.abs(stats.channel_max[s])).astype(float)


def _imbalance(stats: ActivationStats, s: int) -> np.ndarray:
    reach = _reach(stats, s)
    return reach.max(1) / np.maximum(np.median(reach, axis=1), 1e-30)


def heatmap(
    stats: ActivationStats, rows: list[int], name: str, selected: tuple[int, int] | None = None
) -> go.Figure:
    """A statistic of the sites `rows` (one line each, first on top) at every step; `selected` is
    (site, step).

    The index of a click is [line, step], its customdata the site. Values that span decades get a
    logarithmic colour scale, signed ones a scale with two ends; labels are in plain units."""
    values = _rows(stats, name, rows)
    shown, colours = _coloured(values)
    height = rows_height(len(rows))
    timesteps = [f"{t:g}" for t in stats.timesteps]
    figure = go.Figure(
        go.Heatmap(
            z=shown.astype(np.float32),
            x=np.arange(stats.steps),
            y=[stats.sites[s].label for s in rows],
            customdata=np.repeat(np.array(rows, np.int32)[:, None], stats.steps, 1),
            text=[
                [f"t = {t}<br>{name} = {v:.4g}" for t, v in zip(timesteps, line, strict=True)]
                for line in values
            ],
            hovertemplate="%{y}<br>step %{x}, %{text}<extra></extra>",
            hoverongaps=False,
            xgap=0.3,
            ygap=0.3 if len(rows) < 60 else 0,
            **colours,
        )
    )
    # Full names for hovering live on an axis without labels; short ones label an axis of their own.
    marked = [(rows.index(selected[0]), selected[1])] if selected and selected[0] in rows else []
    figure.add_scatter(
        x=[i for _, i in marked],
        y=[row for row, _ in marked],
        yaxis="y2",
        mode="markers",
        hoverinfo="skip",
        marker={"symbol": "square-open", "size": 14, "color": RED, "line": {"width": 3}},
        showlegend=False,
    )
    for row, _ in marked:
        figure.add_hrect(
            row - 0.5, row + 0.5, yref="y2", line={"color": RED, "width": 1.5}, layer="above"
        )
    layout(figure, height=height, x=STEP, title={"text": name, "font": {"size": 14}})
    return figure.update_layout(
        yaxis={
            "showticklabels": False,
            "fixedrange": True,
            "range": [len(rows) - 0.5, -0.5],
            "showgrid": False,
        },
        yaxis2={
            "overlaying": "y",
            "side": "left",
            **row_axis([label(stats.sites[s]) for s in rows], height),
        },
        xaxis={"range": [-0.5, stats.steps - 0.5], "showgrid": False, "zeroline": False},
    )


def _coloured(values: np.ndarray) -> tuple[np.ndarray, dict[str, object]]:
    """What to colour, and the colour scale with labels in plain units."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return values, {"colorscale": "Viridis"}
    low, high = float(finite.min()), float(finite.max())
    bar = {"thickness": 12, "outlinewidth": 0, "len": 1}
    if low > 0 and high / low > 30:
        shown = np.log10(values)
        ends = np.log10([low, high])
        ticks = np.unique(np.concatenate([np.arange(np.ceil(ends[0]), ends[1] + 1e-9), ends]))
        ticks = ticks[[k for k, t in enumerate(ticks) if t in ends or np.abs(ends - t).min() > 0.3]]
        return shown, {
            "colorscale": "Viridis",
            "colorbar": bar | {"tickvals": ticks, "ticktext": [plain(10**t) for t in ticks]},
        }
    if low < 0:
        unit = max(float(np.median(np.abs(finite))), 1e-9)
        shown = np.arcsinh(values / unit)
        most = max(abs(low), abs(high))
        marks = np.unique(
            [
                low,
                *(m for m in (-unit * 3, 0, unit * 3) if low < m < high and abs(m) < most / 2),
                high,
            ]
        )
        return shown, {
            "colorscale": "RdBu_r" if high > 0 else "Viridis_r",
            "zmid": 0 if high > 0 else None,
            "colorbar": bar
            | {"tickvals": np.arcsinh(marks / unit), "ticktext": [plain(m) for m in marks]},
        }
    return values, {"colorscale": "Viridis", "colorbar": bar}


def ridgeline(stats: ActivationStats, s: int) -> go.Figure:
    """The distribution of site s at up to 12 steps, one ridge each, the noisiest on top; each as
    tall as the other.
    """
    low, high = span(stats, s)
    edges = np.linspace(low, high, BINS + 1)
    centres = ((edges[:-1] + edges[1:]) / 2).astype(np.float32)
    density = shares(stats, s, edges)
    steps = np.unique(np.linspace(0, stats.steps - 1, min(12, stats.steps)).round().astype(int))
    colours = sample_colorscale("Viridis", list(np.linspace(0.05, 0.9, len(steps))))
    figure = go.Figure()
    for k, (i, colour) in enumerate(zip(steps, colours, strict=True)):
        base = float(len(steps) - 1 - k)
        ridge = 1.7 * np.sqrt(density[i] / max(density[i].max(), 1e-30))
        figure.add_scatter(
            x=centres,
            y=np.full(BINS, base, np.float32),
            mode="lines",
            line={"width": 0},
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=centres,
            y=(base + ridge).astype(np.float32),
            mode="lines",
            fill="tonexty",
            line={"color": colour, "width": 1.2},
            fillcolor=colour.replace("rgb", "rgba").replace(")", ", 0.45)"),
            customdata=density[i].astype(np.float32),
            name=f"step {i}",
            hovertemplate=f"step {i}, t = {stats.timesteps[i]:g}<br>x = %{{x:.3g}}<br>"
            "%{customdata:.2%} of the values<extra></extra>",
        )
    layout(figure, height=420, x=VALUE, y=STEP, showlegend=False)
    every = max(1, len(steps) // 12)
    return figure.update_yaxes(
        tickvals=[len(steps) - 1 - k for k in range(0, len(steps), every)],
        ticktext=[str(i) for i in steps[::every]],
    )


def fan(stats: ActivationStats, s: int) -> go.Figure:
    """How the percentiles of site s move over the steps, with the smallest and the largest
    value.
    """
    steps = np.arange(stats.steps)
    figure = go.Figure()

    def line(y: np.ndarray, name: str, legend: bool, **style: object) -> None:
        figure.add_scatter(
            x=steps,
            y=y.astype(np.float32),
            name=name,
            showlegend=legend,
            mode="lines",
            hovertemplate="%{y:.4g}<extra>" + name + "</extra>",
            **style,
        )

    for tail, alpha in ((0.001, 0.15), (0.01, 0.22), (0.25, 0.35)):
        name = f"{100 * tail:g} – {100 - 100 * tail:g} %"
        fill = {"fill": "tonexty", "fillcolor": rgba(BLUE, alpha)}
        line(stats.quantile(s, tail), f"{100 * tail:g} %", False, line={"width": 0, "color": BLUE})
        line(stats.quantile(s, 1 - tail), name, True, line={"width": 0, "color": BLUE}, **fill)
    line(stats.quantile(s, 0.5), "median", True, line={"color": BLUE, "width": 2})
    line(stats.maximum[s], "min, max", True, line={"color": RED, "width": 1.2, "dash": "dot"})
    line(stats.minimum[s], "min", False, line={"color": RED, "width": 1.2, "dash": "dot"})
    return layout(figure, height=420, x=STEP, y=VALUE, hovermode="x")


def channels(stats: ActivationStats, s: int, i: int) -> go.Figure:
    """Smallest to largest value of every channel of site s at step i; outliers reach 4 times the
    median channel.
    """
    low, high = (
        stats.channel_min[s][i].astype(np.float32),
        stats.channel_max[s][i].astype(np.float32),
    )
    reach = _reach(stats, s)[i]
    median = float(np.median(reach))
    outlier = reach > 4 * median
    figure = go.Figure()
    for name, colour, chosen in (("channels", BLUE, ~outlier), ("outliers", RED, outlier)):
        at = np.flatnonzero(chosen)
        figure.add_bar(
            x=at,
            y=(high - low)[at],
            base=low[at],
            name=f"{name} ({len(at)})",
            marker={"color": colour, "line_width": 0},
            customdata=np.stack([low[at], high[at]], 1),
            hovertemplate="channel %{x}<br>%{customdata[0]:.4g} to "
            "%{customdata[1]:.4g}<extra></extra>",
        )
    for y in (-median, median):
        figure.add_hline(y, line={"color": GREY, "width": 1, "dash": "dot"})
    return layout(
        figure, x="channel", y=VALUE, bargap=0 if len(low) > 64 else 0.15, barmode="overlay"
    )


def over_time(stats: ActivationStats, s: int) -> go.Figure:
    """The histogram of site s as a film over the steps, before the mean of all steps; play
    button and slider.
    """
    low, high = span(stats, s)
    edges = np.linspace(low, high, BINS + 1)
    x = ((edges[:-1] + edges[1:]) / 2).astype(np.float32)
    density = shares(stats, s, edges)
    figure = go.Figure(
        [
            go.Scatter(
                x=x,
                y=density.mean(0).astype(np.float32),
                name="mean of all steps",
                mode="lines",
                line={"color": GREY, "width": 1.2},
                hoverinfo="skip",
            ),
            go.Scatter(
                x=x,
                y=density[0].astype(np.float32),
                name="this step",
                mode="lines",
                fill="tozeroy",
                line={"color": BLUE, "width": 1.5, "shape": "hvh"},
                fillcolor=rgba(BLUE, 0.35),
                hovertemplate="x = %{x:.3g}<br>%{y:.2%} of the values<extra></extra>",
            ),
        ],
        frames=[
            go.Frame(name=str(i), data=[go.Scatter(y=row.astype(np.float32))], traces=[1])
            for i, row in enumerate(density)
        ],
    )
    layout(figure, height=420, x=VALUE, y="share of values per bin")
    figure.update_yaxes(range=[0, float(np.quantile(density.max(1), 0.9)) * 1.15])
    now = {
        "mode": "immediate",
        "frame": {"duration": 0, "redraw": False},
        "transition": {"duration": 0},
    }
    play = now | {"fromcurrent": True, "frame": {"duration": 90, "redraw": False}}
    return figure.update_layout(
        margin={"b": 110},
        updatemenus=[
            {
                "type": "buttons",
                "direction": "left",
                "x": 0,
                "y": -0.2,
                "xanchor": "left",
                "yanchor": "top",
                "showactive": False,
                "pad": {"t": 12},
                "buttons": [
                    {"label": "▶ Play", "method": "animate", "args": [None, play]},
                    {"label": "❚❚ Pause", "method": "animate", "args": [[None], now]},
                ],
            }
        ],
        sliders=[
            {
                "x": 0.28,
                "len": 0.72,
                "y": -0.2,
                "yanchor": "top",
                "pad": {"t": 4},
                "currentvalue": {"prefix": "step "},
                "steps": [
                    {"label": str(i), "method": "animate", "args": [[str(i)], now]}
                    for i in range(stats.steps)
                ],
            }
        ],
    )
