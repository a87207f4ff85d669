"""A search for groups of timesteps (ADP-DM), while it runs and after it: what it chooses, how
surely, at what cost.
"""

from itertools import cycle

import numpy as np
import plotly.graph_objects as go

from ..results import SearchResult, SearchSnapshot, Site
from .groups import SHARE, STYLES
from .style import (
    BLUE,
    GREY,
    MOST_POINTS,
    ORANGE,
    PALETTE,
    STEP,
    label,
    layout,
    right_axis,
    row_axis,
    rows_height,
    smooth_curve,
)


def assignment(sites: tuple[Site, ...], importance: np.ndarray) -> go.Figure:
    """The group of largest weight for every site and step, for `importance` [Q, T, G]; fainter
    where it is unsure.
    """
    group = importance.argmax(2)
    weight = np.take_along_axis(importance, group[..., None], 2)[..., 0].astype(np.float32)
    height = rows_height(len(sites))
    colours = len(PALETTE)
    stops = [[(k + end) / colours, colour] for k, colour in enumerate(PALETTE) for end in (0, 1)]
    names = [site.label for site in sites]
    text = [
        [f"{name}<br>group {g}, weight {w:.2f}" for g, w in zip(groups, weights, strict=True)]
        for name, groups, weights in zip(names, group, weight, strict=True)
    ]
    steps = np.arange(group.shape[1])
    figure = go.Figure(
        go.Heatmap(
            z=(group % colours).astype(np.uint8),
            x=steps,
            y=np.arange(len(sites)),
            zmin=-0.5,
            zmax=colours - 0.5,
            colorscale=stops,
            showscale=False,
            text=text,
            hovertemplate="step %{x}<br>%{text}<extra></extra>",
        )
    )
    # A veil over the colours: opaque where all groups weigh the same, clear where one has
    # everything.
    least = 1 / importance.shape[2]
    unsure = np.clip((1 - weight) / max(1 - least, 1e-9), 0, 1)
    figure.add_heatmap(
        z=unsure,
        x=steps,
        y=np.arange(len(sites)),
        zmin=0,
        zmax=1,
        showscale=False,
        hoverinfo="skip",
        colorscale=[[0, "rgba(138,143,153,0)"], [1, "rgba(138,143,153,0.85)"]],
    )
    layout(figure, height=height, x=STEP)
    figure.update_xaxes(showgrid=False, zeroline=False)
    return figure.update_yaxes(**row_axis([label(site) for site in sites], height))


def importance(weights: np.ndarray) -> go.Figure:
    """The weights [T, G] of the groups at every step, stacked to 1."""
    figure = go.Figure()
    for g, colour in zip(range(weights.shape[1]), cycle(PALETTE)):
        figure.add_scatter(
            x=np.arange(len(weights)),
            y=weights[:, g].astype(np.float32),
            name=f"{g}",
            mode="lines",
            stackgroup="one",
            line={"width": 0.5, "color": colour},
            hovertemplate=f"group {g}: %{{y:.2f}}<extra></extra>",
        )
    return layout(
        figure,
        x=STEP,
        y="mean importance",
        hovermode="x",
        yaxis_range=[0, 1],
        legend={"title": {"text": "group"}},
    )


def uncertainty(entropy: np.ndarray, visits: np.ndarray) -> go.Figure:
    """How undecided each step still is, and how often the search used it: arrays [T]."""
    figure = go.Figure()
    steps = np.arange(len(visits))
    figure.add_bar(
        x=steps,
        y=visits.astype(np.int32),
        name="times used",
        marker={"color": ORANGE},
        hovertemplate="used %{y} times<extra></extra>",
    )
    figure.add_scatter(
        x=steps,
        y=entropy.astype(np.float32),
        name="entropy",
        mode="lines",
        line={"color": BLUE, "width": 3},
        yaxis="y2",
        hovertemplate="entropy %{y:.2f}<extra></extra>",
    )
    layout(
        figure,
        x=STEP,
        y="times used",
        hovermode="x",
        bargap=0.1,
        margin={"l": 60, "r": 60, "t": 44, "b": 50},
    )
    return figure.update_layout(yaxis2=right_axis("entropy, 1 is undecided") | {"range": [0, 1.02]})


def loss(errors: np.ndarray, penalties: np.ndarray) -> go.Figure:
    """Both terms of the loss over the iterations [n], smoothed, on one axis: neither should
    drown the other.
    """
    figure = go.Figure()
    for name, values, colour in (
        ("noise error", errors, BLUE),
        ("entropy term", penalties, ORANGE),
    ):
        smooth = smooth_curve(values)
        every = max(1, len(smooth) // MOST_POINTS)
        figure.add_scatter(
            x=np.arange(len(smooth))[::every],
            y=smooth[::every].astype(np.float32),
            name=name,
            mode="lines",
            line={"color": colour, "width": 2},
            hovertemplate="%{y:.3g}<extra>" + name + "</extra>",
        )
    layout(figure, x="iteration", y="share of the output's power", hovermode="x")
    return figure.update_yaxes(type="log", dtick="D2", exponentformat="power")


def noise_errors(result: SearchResult) -> go.Figure:
    """Error of the denoiser's answer at every step: groups mixed, made hard, and as they are
    kept.
    """
    lines = {"as kept": result.refitted, "hard groups": result.hard, "mixed groups": result.soft}
    figure = go.Figure()
    for (name, errors), style in reversed(list(zip(lines.items(), STYLES, strict=False))):
        if np.isfinite(errors).any():
            figure.add_scatter(
                x=np.arange(len(errors)),
                y=100 * errors.astype(np.float32),
                name=name,
                mode="lines",
                line=style,
                hovertemplate="%{y:.3g} %<extra>" + name + "</extra>",
            )
    layout(figure, x=STEP, y=SHARE, hovermode="x", legend={"traceorder": "reversed"})
    return figure.update_yaxes(type="log", exponentformat="power")


def yardsticks(result: SearchResult) -> go.Figure:
    """Mean error of the activations for every way of grouping, as bars; what is learned stands
    out.
    """
    totals = {name: 100 * float(np.mean(errors)) for name, errors in result.local.items()}
    colours = [BLUE if name.startswith("learned") else GREY for name in totals]
    figure = go.Figure(
        go.Bar(
            x=list(totals.values()),
            y=list(totals),
            orientation="h",
            marker={"color": colours},
            text=[f"{value:.3g} %" for value in totals.values()],
            textposition="auto",
            hovertemplate="%{y}: %{x:.3g} %<extra></extra>",
        )
    )
    layout(figure, height=130 + 30 * len(totals), x=SHARE)
    return figure.update_yaxes(autorange="reversed", showgrid=False).update_layout(
        margin={"l": 110}
    )


def entropy_of(importance: np.ndarray) -> np.ndarray:
    """Mean over the sites of the normalised entropy at every step, [Q, T, G] to [T]: 1
    undecided, 0 decided.
    """
    p = importance.astype(np.float64)
    terms = np.where(p > 0, -p * np.log(np.maximum(p, 1e-30)), 0.0).sum(2)
    return (terms / np.log(max(2, p.shape[2]))).mean(0)


def live(snapshot: SearchSnapshot) -> tuple[go.Figure, go.Figure]:
    """What moves while the search runs: the importance of the groups, and how undecided each
    step is.
    """
    return importance(snapshot.importance.mean(0)), uncertainty(snapshot.entropy, snapshot.visits)
