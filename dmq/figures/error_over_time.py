"""Errors along the steps, ranges on two trajectories, what windows of steps are worth, and the
probe.
"""

from collections.abc import Iterable
from itertools import cycle

import numpy as np
import plotly.graph_objects as go

from ..results import OverTime, ProbeImage, Site, WindowEffects
from .groups import STYLES
from .style import (
    BLUE,
    DIVERGING,
    GREY,
    ORANGE,
    PALETTE,
    RED,
    STEP,
    label,
    layout,
    rgba,
    right_axis,
    row_axis,
    rows_height,
)


MIN_ERROR = 1e-12  # errors below are rounding of the arithmetic, and have no logarithm
WORTH = {
    "fidelity": ("error less, dB per step", BLUE),
    "text": ("match more, per step", ORANGE),
}


# --- errors along the steps -----------------------------------------------------------------------


def curves(lines: dict[str, np.ndarray], y: str) -> go.Figure:
    """Errors at every step by recipe, [T] or [T, P]: the mean over the images, in a band from
    least to most.
    """
    figure = go.Figure()
    for (name, values), style in zip(lines.items(), cycle(STYLES), strict=False):
        values = np.maximum(values.astype(np.float64), MIN_ERROR)
        if values.ndim == 2 and values.shape[1] > 1:
            for edge, fill in ((values.min(1), None), (values.max(1), "tonexty")):
                figure.add_scatter(
                    x=np.arange(len(values)),
                    y=edge.astype(np.float32),
                    mode="lines",
                    line={"width": 0},
                    fill=fill,
                    fillcolor=rgba(style["color"], 0.13),
                    legendgroup=name,
                    showlegend=False,
                    hoverinfo="skip",
                )
        mean = values if values.ndim == 1 else values.mean(1)
        figure.add_scatter(
            x=np.arange(len(mean)),
            y=mean.astype(np.float32),
            name=name,
            legendgroup=name,
            mode="lines",
            line=style,
            hovertemplate="%{y:.2e}<extra>" + name + "</extra>",
        )
    layout(figure, x=STEP, y=y, hovermode="x")
    return figure.update_yaxes(**logarithmic(lines.values()))


def logarithmic(shown: Iterable[np.ndarray]) -> dict[str, object]:
    """A logarithmic axis with as many labels between the powers of ten as there is room for."""
    values = np.concatenate([np.ravel(part) for part in shown])
    values = np.maximum(values[np.isfinite(values)], MIN_ERROR)
    span = values.max() / values.min() if len(values) else 1.0
    return {
        "type": "log",
        "exponentformat": "power",
        "dtick": "D1" if span < 10 else "D2" if span < 100 else 1,
    }


def accumulated(found: OverTime) -> go.Figure:
    """Error of the latents after each step, on each recipe's own trajectory."""
    return curves(found.accumulated, "error of the latents")


def predicted_x0(found: OverTime) -> go.Figure | None:
    """Error of the finished sample that each answer stands for; None if the sampler does not
    tell it.
    """
    return (
        curves(found.predicted_x0, "error of the predicted image") if found.predicted_x0 else None
    )


def isolated(found: OverTime) -> go.Figure:
    """Error of the noise prediction at each step of the float trajectory: nothing has built up
    there.
    """
    return curves(found.isolated, "error of the answer")


def weigh(found: OverTime) -> go.Figure | None:
    """Isolated errors times c_i^2, which is how they enter the latents, and |c_i|; None if the
    sampler is unknown.
    """
    if not np.isfinite(found.coefficients).any():
        return None
    square = np.square(found.coefficients)
    figure = curves(
        {name: square * values for name, values in found.isolated.items()},
        "cᵢ² × error of the answer",
    )
    figure.add_scatter(
        x=np.arange(len(square)),
        y=np.abs(found.coefficients).astype(np.float32),
        name="|cᵢ|",
        yaxis="y2",
        mode="lines",
        line={"color": GREY, "width": 2, "dash": "dot"},
        hovertemplate="|cᵢ| = %{y:.3g}<extra></extra>",
    )
    right = right_axis("|cᵢ|") | logarithmic([np.abs(found.coefficients)])
    right.pop("tickmode")
    return figure.update_layout(yaxis2=right, margin={"l": 60, "r": 60, "t": 44, "b": 50})


# --- ranges on two trajectories -------------------------------------------------------------------


def ranges(
    floats: tuple[np.ndarray, np.ndarray], walked: tuple[np.ndarray, np.ndarray]
) -> go.Figure:
    """The range of one input at every step, low and high [T]: of the float trajectory, and of
    the quantized one.
    """
    figure = go.Figure()
    shown = {
        "float trajectory": (floats, GREY, "dash"),
        "quantized trajectory": (walked, BLUE, "solid"),
    }
    for name, (ends, colour, dash) in shown.items():
        for side, values, fill in (("low", ends[0], None), ("high", ends[1], "tonexty")):
            figure.add_scatter(
                x=np.arange(len(values)),
                y=values.astype(np.float32),
                name=name,
                legendgroup=name,
                fill=fill,
                mode="lines",
                line={"color": colour, "width": 2, "dash": dash},
                fillcolor=rgba(colour, 0.18),
                showlegend=side == "high",
                hovertemplate=f"{side} %{{y:.4g}}<extra>{name}</extra>",
            )
    return layout(figure, x=STEP, y="range of the input", hovermode="x")


def range_change(
    sites: tuple[Site, ...], change: np.ndarray, at: tuple[int, int] | None = None
) -> go.Figure:
    """How much wider each range is on the quantized trajectory, [S, T] as a part of the float
    one; `at` is framed.
    """
    most = float(np.nanquantile(np.abs(change), 0.995)) if change.size else 0.0
    height = rows_height(len(sites))
    names = [site.label for site in sites]
    bar = {
        "title": {"text": "wider"},
        "thickness": 12,
        "tickformat": "+.1%" if most < 0.1 else "+.0%",
    }
    figure = go.Figure(
        go.Heatmap(
            z=change.astype(np.float32),
            x=np.arange(change.shape[1]),
            y=np.arange(len(sites)),
            zmin=-max(most, 1e-9),
            zmax=max(most, 1e-9),
            colorscale=DIVERGING,
            colorbar=bar,
            text=[[name] * change.shape[1] for name in names],
            hovertemplate="%{text}<br>step %{x}: %{z:+.2%}<extra></extra>",
        )
    )
    if at is not None:
        s, i = at
        frame = {"color": RED, "width": 2}
        figure.add_shape(type="rect", x0=i - 0.5, x1=i + 0.5, y0=s - 0.5, y1=s + 0.5, line=frame)
    layout(figure, height=height, x=STEP)
    figure.update_xaxes(showgrid=False, zeroline=False)
    return figure.update_yaxes(**row_axis([label(site) for site in sites], height))


# --- what windows of steps are worth --------------------------------------------------------------


def window_gains(
    effects: WindowEffects, judge: str, relaxed: tuple[int, ...] = ()
) -> go.Figure | None:
    """What each step of a window brings whose activations are in float: mean and standard error
    over the images.

    `relaxed` steps are shaded. Windows that are not measured yet are left out; None if nothing
    judged the matches."""
    title, colour = WORTH[judge]
    lengths, won = effects.lengths, effects.gain_per_image(judge)
    if not np.isfinite(won).any():
        return None
    each = won / lengths[:, None]
    spread = (
        each.std(1, ddof=1) / np.sqrt(each.shape[1]) if each.shape[1] > 1 else np.zeros(len(each))
    )
    names = [f"{start} to {end - 1}" for start, end in effects.windows]
    figure = go.Figure()
    for first, last in runs_of(relaxed):
        figure.add_vrect(
            first - 0.5,
            last + 0.5,
            fillcolor=rgba(GREY, 0.25),
            line={"color": GREY, "width": 1, "dash": "dot"},
            layer="below",
        )
    figure.add_bar(
        x=np.array(effects.starts) + (lengths - 1) / 2,
        y=each.mean(1).astype(np.float32),
        width=0.94 * lengths,
        marker={"color": rgba(colour, 0.75)},
        text=names,
        textposition="none",
        error_y={
            "type": "data",
            "array": spread.astype(np.float32),
            "thickness": 1.5,
            "color": GREY,
        },
        hovertemplate="steps %{text}: %{y:.3g}<extra></extra>",
        showlegend=False,
    )
    layout(figure, height=300, x=STEP, y=title)
    return figure.update_xaxes(range=[-0.5, len(effects.timesteps) - 0.5])


def runs_of(steps: tuple[int, ...]) -> list[tuple[int, int]]:
    """First and last of each run of neighbouring steps.

    >>> runs_of((0, 1, 2, 7))
    [(0, 2), (7, 7)]
    """
    ends = [k for k in range(len(steps)) if k + 1 == len(steps) or steps[k + 1] != steps[k] + 1]
    return [
        (steps[start], steps[end])
        for start, end in zip([0, *(k + 1 for k in ends)], ends, strict=False)
    ]


def steps_text(steps: tuple[int, ...]) -> str:
    """Steps as people write them.

    >>> steps_text((0, 1, 2, 7))
    '0-2, 7'
    """
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs_of(steps))


# --- the probe ------------------------------------------------------------------------------------


def show_probe(images: tuple[ProbeImage, ...], what: str) -> go.Figure | None:
    """Latent "error", or the "match" that is lost, for each window, a line for each gain; None
    if nothing judged.
    """
    lost = [one.error if what == "error" else one.match_float - one.match for one in images]
    if not np.isfinite(lost).any():
        return None
    figure = go.Figure()
    for gain, colour in zip(
        dict.fromkeys(one.gain for one in images), cycle(PALETTE), strict=False
    ):
        own = [(one, value) for one, value in zip(images, lost, strict=True) if one.gain == gain]
        figure.add_bar(
            x=[f"{one.start} to {one.end - 1}" for one, _ in own],
            y=np.array([value for _, value in own], np.float32),
            name=f"× {gain:g}",
            marker={"color": colour},
            hovertemplate="steps %{x}: %{y:.3g}<extra>× " + f"{gain:g}</extra>",
        )
    layout(
        figure,
        height=300,
        x="window of steps",
        y="latent error" if what == "error" else "match lost",
    )
    figure.update_xaxes(type="category")
    if what == "error" and min(lost) > 0:
        figure.update_yaxes(**logarithmic([np.array(lost)]))
    return figure
