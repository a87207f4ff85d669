"""Block reconstruction: what the learned codes did to each block's error, and how the loss fell."""

import numpy as np
import plotly.graph_objects as go

from .style import (
    BLUE,
    GREEN,
    GREY,
    MOST_POINTS,
    ORANGE,
    PALETTE,
    layout,
    row_axis,
    rows_height,
    short,
    smooth_curve,
)


def block_errors(
    before: dict[str, float], after: dict[str, float], stepped: dict[str, float]
) -> go.Figure:
    """Squared error of every block's output over its power, with nearest and with learned codes,
    joined by a line.

    Then with learned step sizes too, for blocks in `stepped`. Blocks are from the top in forward
    order; those of `before` that `after` lacks are not there yet."""
    blocks = list(after)
    ends = [100 * np.array([before[b], after[b], stepped.get(b, np.nan)]) for b in blocks]
    figure = go.Figure()
    for row, errors in enumerate(ends):
        line = {
            "x0": np.nanmin(errors),
            "x1": np.nanmax(errors),
            "line": {"color": GREY, "width": 2},
        }
        figure.add_shape(type="line", y0=row, y1=row, layer="below", **line)
    styles = [("nearest codes", ORANGE, "circle-open"), ("learned codes", BLUE, "circle")]
    styles += [("step sizes as well", GREEN, "diamond")] if stepped else []
    for k, (name, colour, symbol) in enumerate(styles):
        figure.add_scatter(
            x=[errors[k] for errors in ends],
            y=list(range(len(blocks))),
            name=name,
            mode="markers",
            text=blocks,
            marker={"color": colour, "symbol": symbol, "size": 11, "line": {"width": 2}},
            hovertemplate="%{text}<br>%{x:.3g} %<extra>" + name + "</extra>",
        )
    height = rows_height(len(blocks))
    layout(figure, height=height, x="error of the output, % of its power")
    return figure.update_yaxes(**row_axis([short(block) for block in blocks], height)).update_xaxes(
        rangemode="tozero"
    )


def block_losses(losses: dict[str, np.ndarray]) -> go.Figure:
    """The loss of every block over the iterations, smoothed, as a share of its first value:
    blocks differ in scale.
    """
    figure = go.Figure()
    for n, (block, values) in enumerate(losses.items()):
        smooth = smooth_curve(values)
        every = max(1, len(smooth) // MOST_POINTS)
        dash = ("solid", "dash", "dot")[n // len(PALETTE) % 3]
        figure.add_scatter(
            x=np.arange(len(smooth))[::every],
            y=(smooth / max(smooth[0], 1e-30))[::every].astype(np.float32),
            name=short(block),
            mode="lines",
            line={"color": PALETTE[n % len(PALETTE)], "width": 2, "dash": dash},
            hovertemplate="iteration %{x}: %{y:.3g}<extra>" + short(block) + "</extra>",
        )
    return layout(figure, x="iteration", y="loss, share of the first one")
