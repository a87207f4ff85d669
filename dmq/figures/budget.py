"""A bit budget as figures: which choice every layer got, and what other budgets would bring."""

import numpy as np
import plotly.graph_objects as go

from ..recipe import FLOAT, format_name
from ..results import Allocation, SensitivityTable
from .layers import FORMATS, block_of, format_of, is_wide, logarithmic
from .style import GREY, RED, layout, plain


NAMED = 40  # as many names find room below the strip


def strip(
    table: SensitivityTable, allocation: Allocation, hand: frozenset[str] = frozenset()
) -> go.Figure:
    """The bits of every layer in forward order, coloured by format; a star is a layer of `hand`,
    set by hand.

    The customdata of a bar is the layer's row.
    """
    levels = sorted({choice.bits for choice in (*table.choices, *allocation.choices)})
    figure, labels = go.Figure(), [format_name(choice) for choice in allocation.choices]
    for kind in (name for name in FORMATS if name in {format_of(label) for label in labels}):
        own = [n for n, label in enumerate(labels) if format_of(label) == kind]
        figure.add_bar(
            x=own,
            y=[levels.index(allocation.choices[n].bits) + 1 for n in own],
            name=kind,
            customdata=own,
            marker={"color": FORMATS[kind], "line": {"width": 0}},
            text=[f"{allocation.layers[n]}<br>{labels[n]}" for n in own],
            textposition="none",
            hovertemplate="%{text}<extra></extra>",
        )
    marked = [n for n, name in enumerate(allocation.layers) if name in hand]
    if marked:
        figure.add_scatter(
            x=marked,
            y=[levels.index(allocation.choices[n].bits) + 1.2 for n in marked],
            mode="markers",
            name="set by hand",
            marker={"symbol": "star", "size": 9, "color": RED},
            hoverinfo="skip",
        )
    blocks = [block_of(layer) for layer in table.layers]
    starts = [n for n, block in enumerate(blocks) if n == 0 or block != blocks[n - 1]]
    edge = {
        "type": "line",
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "layer": "below",
        "line": {"color": GREY, "width": 1, "dash": "dot"},
    }
    named = [
        start
        for k, start in enumerate(starts)
        if k == 0 or start - starts[k - 1] > len(blocks) / NAMED
    ]
    edges = [edge | {"x0": start - 0.5, "x1": start - 0.5} for start in starts[1:]]
    layout(
        figure,
        height=280,
        y="bits of the weights",
        bargap=0.08,
        barmode="stack",
        shapes=edges,
        uirevision=f"strip {table.title}",
    )
    figure.update_xaxes(
        tickvals=named,
        ticktext=[blocks[n] for n in named],
        tickangle=-40,
        showgrid=False,
        zeroline=False,
        tickfont={"size": 10},
        range=[-0.6, len(blocks) - 0.4],
    )
    names = ["float" if bits == FLOAT else str(bits) for bits in levels]
    return figure.update_yaxes(
        tickvals=list(range(1, len(levels) + 1)),
        ticktext=names,
        fixedrange=True,
        range=[0, len(levels) + 0.7],
    )


def front(
    table: SensitivityTable, best: list[Allocation], now: Allocation | None = None
) -> go.Figure:
    """The least cost at every budget, the budget of `now`, and every choice used in all layers
    alike.
    """
    figure = go.Figure()
    figure.add_scatter(
        x=[one.average_bits for one in best],
        y=[one.cost for one in best],
        name="best for each budget",
        mode="lines+markers",
        line={"color": GREY, "width": 2},
        marker={"size": 5},
        text=[f"{one.bytes:,} bytes" for one in best],
        hovertemplate="%{x:.2f} bits (%{text}): %{y:.4g}<extra>best</extra>",
    )
    uniform = {label: _uniform(table, c) for c, label in enumerate(table.labels)}
    known = {label: point for label, point in uniform.items() if np.isfinite(point).all()}
    for kind in dict.fromkeys(map(format_of, known)):
        own = [label for label in known if format_of(label) == kind]
        figure.add_scatter(
            x=[known[label][0] for label in own],
            y=[known[label][1] for label in own],
            text=own,
            mode="markers",
            name=f"all layers {kind}",
            marker={"symbol": "x", "size": 8, "color": FORMATS[kind]},
            hovertemplate="%{text} in all layers, %{x:.2f} bits: %{y:.4g}<extra></extra>",
        )
    if now is not None:
        figure.add_scatter(
            x=[now.average_bits],
            y=[now.cost],
            name="now",
            mode="markers",
            marker={
                "symbol": "star",
                "size": 15,
                "color": RED,
                "line": {"width": 1, "color": GREY},
            },
            hovertemplate=f"now: %{{x:.2f}} bits, {plain(now.cost)}<extra></extra>",
        )
    shown = np.array([*(one.cost for one in best), *(cost for _, cost in known.values())])
    layout(
        figure,
        height=380,
        x="bits a weight on average",
        y=f"sum of costs: {table.unit}",
        uirevision=f"front {table.title}",
        margin={"l": 60, "r": 20, "t": 70, "b": 50},
    )
    return figure.update_yaxes(**(logarithmic(shown) if is_wide(shown, 4) else {"type": "linear"}))


def _uniform(table: SensitivityTable, column: int) -> tuple[float, float]:
    """Average bits and cost of one choice in all layers; nan if a layer's cost is not known."""
    return 8 * float(table.bytes[:, column].sum()) / table.num_weights, float(
        table.cost[:, column].sum()
    )
