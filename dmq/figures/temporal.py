"""The time embedding under quantization: which features are bent at which step, which step they are
taken for, what a cache would change."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..results import Projection, TemporalErrors
from .groups import STYLES
from .style import (
    BLUE,
    DIVERGING,
    GREEN,
    GREY,
    MOST_POINTS,
    ORANGE,
    PALETTE,
    RED,
    STEP,
    layout,
    rgba,
    right_axis,
    row_axis,
    rows_height,
    short,
)


STATES = (
    "before",
    "computed",
    "after",
)  # of TemporalErrors: as all other layers, with the recipe, with its cache
MIN_COSINE_ERROR = 1e-9  # cosine errors below are rounding of the arithmetic


def feature_name(projection: Projection) -> str:
    """Where a feature goes: "down.0 · res.1"."""
    return short(projection.name.removesuffix(".time_emb_proj").removesuffix(".linear"))


def cosine_map(errors: TemporalErrors, state: str, at: tuple[int, int] | None = None) -> go.Figure:
    """1 - cosine between each feature and the float one, features by steps, on one colour scale
    for all states.
    """
    shown = {
        name: np.maximum(1 - getattr(errors, f"cosine_{name}").astype(np.float64), MIN_COSINE_ERROR)
        for name in STATES
    }
    low = np.floor(np.log10(min(values.min() for values in shown.values())))
    high = np.ceil(np.log10(max(values.max() for values in shown.values())))
    ticks = np.arange(low, high + 1)
    bar = {
        "title": {"text": "1 − cos"},
        "tickvals": ticks,
        "ticktext": [f"{10**tick:.0e}" for tick in ticks],
    }
    return _map(
        errors,
        np.log10(shown[state]).astype(np.float32),
        at,
        shown[state].astype(np.float32),
        "1 − cos %{customdata:.2e}",
        zmin=low,
        zmax=max(high, low + 1),
        colorscale="Viridis",
        colorbar=bar,
    )


def shift_map(errors: TemporalErrors, state: str, at: tuple[int, int] | None = None) -> go.Figure:
    """Which step each feature resembles most, as steps away from its own: "before" or "after"."""
    shift = getattr(errors, f"shift_{state}")
    most = max(
        1,
        *(
            int(np.abs(getattr(errors, f"shift_{name}")).max(initial=0))
            for name in ("before", "after")
        ),
    )
    bar = {"title": {"text": "steps"}}
    return _map(
        errors,
        shift.astype(np.int16),
        at,
        shift.astype(np.int16),
        "taken for the step %{customdata:+d} away",
        zmin=-most,
        zmax=most,
        colorscale=DIVERGING,
        colorbar=bar,
    )


def selection_map(errors: TemporalErrors, at: tuple[int, int] | None = None) -> go.Figure:
    """Which features come from the cache, and by how much each way errs there."""
    told = np.stack([errors.error_computed, errors.error_cached], -1)
    scale = [
        [0, rgba(ORANGE, 0.8)],
        [0.5, rgba(ORANGE, 0.8)],
        [0.5, rgba(BLUE, 0.9)],
        [1, rgba(BLUE, 0.9)],
    ]
    return _map(
        errors,
        errors.cached.astype(np.uint8),
        at,
        told.astype(np.float32),
        "error computed %{customdata[0]:.2e}, cached %{customdata[1]:.2e}",
        zmin=0,
        zmax=1,
        colorscale=scale,
        colorbar={"tickvals": [0.25, 0.75], "ticktext": ["computed", "cached"]},
    )


def _map(
    errors: TemporalErrors,
    z: np.ndarray,
    at: tuple[int, int] | None,
    told: np.ndarray,
    hover: str,
    **colours: Any,
) -> go.Figure:
    """A heat map of [K, T] values; the cell `at` (feature, step) is framed."""
    names = [feature_name(projection) for projection in errors.block.projections]
    height = rows_height(len(names))
    colours["colorbar"] = {"thickness": 12, **colours["colorbar"]}  # a phone needs the width
    figure = go.Figure(
        go.Heatmap(
            z=z,
            x=np.arange(z.shape[1]),
            y=np.arange(len(names)),
            customdata=told,
            text=[[name] * z.shape[1] for name in names],
            hovertemplate="%{text}<br>step %{x}<br>" + hover + "<extra></extra>",
            **colours,
        )
    )
    if at is not None:
        k, i = at
        figure.add_shape(
            type="rect",
            x0=i - 0.5,
            x1=i + 0.5,
            y0=k - 0.5,
            y1=k + 0.5,
            line={"color": RED, "width": 2},
        )
    layout(figure, height=height, x=STEP)
    figure.update_xaxes(showgrid=False, zeroline=False)
    return figure.update_yaxes(**row_axis(names, height))


def ranges(errors: TemporalErrors) -> go.Figure:
    """Smallest and largest value of each different activation of the time embedding at every step."""
    figure = go.Figure()
    steps = np.arange(errors.low.shape[1])
    for name, low, high, colour in zip(
        errors.inputs, errors.low, errors.high, PALETTE, strict=False
    ):
        label = short(name)
        for side, values, fill in (("low", low, None), ("high", high, "tonexty")):
            figure.add_scatter(
                x=steps,
                y=values.astype(np.float32),
                name=label,
                legendgroup=label,
                showlegend=side == "high",
                mode="lines",
                line={"color": colour, "width": 1.5},
                fill=fill,
                fillcolor=rgba(colour, 0.15),
                hovertemplate=f"{side} %{{y:.3g}}<extra>{label}</extra>",
            )
    return layout(figure, x=STEP, y="range of the input")


def cache_bits(errors: TemporalErrors, chosen: int | None = None) -> go.Figure:
    """Mean error and size of a cache of everything against its bits, beside computing the
    features.
    """
    figure = go.Figure()
    mean = errors.cache_errors.mean((1, 2)).astype(np.float32)
    figure.add_bar(
        x=errors.cache_bits,
        y=errors.cache_sizes / 1000,
        name="size of the cache, kB",
        yaxis="y2",
        marker={"color": rgba(GREY, 0.35)},
        hovertemplate="%{y:.1f} kB<extra>cache</extra>",
    )
    figure.add_scatter(
        x=errors.cache_bits,
        y=mean,
        name="error of the cache",
        mode="lines+markers",
        line={"color": BLUE, "width": 3},
        hovertemplate="%{x} bits: %{y:.2e}<extra>cache</extra>",
    )
    computed = float(errors.error_computed.mean())
    ends = [int(errors.cache_bits[0]), int(errors.cache_bits[-1])]
    figure.add_scatter(
        x=ends,
        y=[computed, computed],
        name="error when computed",
        mode="lines",
        line={"color": ORANGE, "width": 2, "dash": "dash"},
        hovertemplate="%{y:.2e}<extra>computed</extra>",
    )
    size = errors.computed_bytes / 1000
    figure.add_scatter(
        x=ends,
        y=[size, size],
        name="size of the layers, kB",
        mode="lines",
        yaxis="y2",
        line={"color": GREY, "width": 2, "dash": "dot"},
        hovertemplate="%{y:.1f} kB<extra>layers</extra>",
    )
    if chosen is not None:
        figure.add_vline(chosen, line={"color": GREEN, "width": 2}, layer="below")
    layout(
        figure, x="cache bits", y="mean relative error", margin={"l": 70, "r": 60, "t": 60, "b": 50}
    )
    right = right_axis("kB") | {"rangemode": "tozero"}
    return figure.update_layout(yaxis={"type": "log", "exponentformat": "power"}, yaxis2=right)


def vectors(errors: TemporalErrors, k: int, i: int) -> go.Figure:
    """The numbers behind a cell: feature k at step i in float, before, and as the model uses it;
    largest first.
    """
    order = np.argsort(-errors.vectors[k][i], kind="stable")
    lines = {
        "float": errors.vectors,
        "before": errors.vectors_before,
        "recipe": errors.vectors_after,
    }
    figure = go.Figure()
    for (name, values), style in reversed(list(zip(lines.items(), STYLES, strict=False))):
        figure.add_scatter(
            x=np.arange(len(order)),
            y=values[k][i][order].astype(np.float32),
            name=name,
            mode="lines",
            line=style | {"width": 1.5},
            hovertemplate="%{y:.4g}<extra>" + name + "</extra>",
        )
    return layout(
        figure,
        x="channel, largest float value first",
        y="value",
        hovermode="x",
        legend={"traceorder": "reversed"},
    )


def deviation(lines: dict[str, np.ndarray]) -> go.Figure:
    """How far the latents of runs with a quantized time embedding are from the float ones after every
    step, [T] each.
    """
    figure = go.Figure()
    for (name, values), style in zip(lines.items(), STYLES, strict=False):
        figure.add_scatter(
            x=np.arange(len(values)),
            y=np.maximum(values, MIN_COSINE_ERROR).astype(np.float32),
            name=name,
            mode="lines",
            line=style,
            hovertemplate="%{y:.2e}<extra>" + name + "</extra>",
        )
    layout(figure, x=STEP, y="1 − cos to the float latents", hovermode="x")
    return figure.update_yaxes(type="log", exponentformat="power")


def rounding_loss(losses: np.ndarray) -> go.Figure:
    """The squared error of all features over the iterations of the learned rounding."""
    every = max(1, len(losses) // MOST_POINTS)
    positive = losses[losses > 0]
    decades = np.log10(positive.max() / positive.min()) if len(positive) else 0
    figure = go.Figure()
    figure.add_scatter(
        x=np.arange(len(losses))[::every],
        y=losses[::every].astype(np.float32),
        mode="lines",
        line={"color": BLUE, "width": 2},
        hovertemplate="iteration %{x}: %{y:.3g}<extra></extra>",
    )
    layout(figure, x="iteration", y="squared error of all features")
    return figure.update_yaxes(type="log", dtick=1 if decades > 1 else "D2", exponentformat="power")
