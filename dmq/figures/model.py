"""A model's layers, and what a plan makes of them."""

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from ..describe import range_unit
from ..recipe import BITS, FLOAT, Uniform, format_name
from ..results import ModelInfo, Plan, PlannedLayer
from .style import GREY, PALETTE, SHORTER, layout, short


def layers(info: ModelInfo) -> go.Figure:
    """Weights of every block in forward order, stacked by the layers' kind and role."""
    blocks = list(dict.fromkeys(layer.block or "outside blocks" for layer in info.layers))
    kinds = sorted({(layer.kind, layer.role) for layer in info.layers})
    figure = go.Figure()
    for k, (kind, role) in enumerate(kinds):
        own = [layer for layer in info.layers if (layer.kind, layer.role) == (kind, role)]
        parts = [
            [layer for layer in own if (layer.block or "outside blocks") == block]
            for block in blocks
        ]
        figure.add_bar(
            x=[_block(block) for block in blocks],
            y=[sum(layer.num_weights for layer in part) for part in parts],
            name=f"{kind}, {role}",
            marker={
                "color": PALETTE[k % len(PALETTE)],
                "line_width": 0,
                "pattern_shape": "/" if k >= len(PALETTE) else "",
            },
            customdata=[[len(part), sum(layer.macs for layer in part)] for part in parts],
            hovertemplate="%{x}: %{y:,} weights in %{customdata[0]} layers, %{customdata[1]:,} "
            f"MACs<extra>{kind}, {role}</extra>",
        )
    layout(figure, height=380, x="block, in forward order", y="weights", barmode="stack")
    legend = {"orientation": "v", "x": 1.01, "y": 1, "xanchor": "left", "yanchor": "top"}
    return figure.update_layout(legend=legend, margin={"r": 150})


def _block(name: str) -> str:
    return ".".join(SHORTER.get(word, word) for word in name.split("."))


def coverage(plan: Plan) -> go.Figure:
    """Bits of the weight and of the input of every layer in forward order; grey is float.

    Hover says why, or how.
    """
    rows = plan.layers
    weights, inputs = [row.weights.bits for row in rows], [row.activation_bits for row in rows]
    place = {bits: k for k, bits in enumerate(BITS)}
    colours = [*sample_colorscale("Viridis", list(np.linspace(0, 1, len(BITS) - 1))), GREY]
    scale = [[(k + end) / len(BITS), colour] for k, colour in enumerate(colours) for end in (0, 1)]
    used = sorted({*weights, *inputs})
    names = [short(row.layer.name) for row in rows]
    figure = go.Figure(
        go.Heatmap(
            z=[[place[bits] for bits in line] for line in (inputs, weights)],
            y=["inputs", "weights"],
            x=np.arange(len(rows)),
            xgap=0.5,
            ygap=3,
            zmin=-0.5,
            zmax=len(BITS) - 0.5,
            colorscale=scale,
            text=[
                [
                    f"{row.layer.name}<br>{_bits(bits)}{_aside(row, bits, own)}"
                    for row, bits, own in zip(rows, line, how, strict=True)
                ]
                for line, how in ((inputs, _ranges(plan)), (weights, _formats(plan)))
            ],
            hovertemplate="%{text}<extra>%{y}</extra>",
            colorbar={
                "tickvals": [place[bits] for bits in used],
                "ticktext": [_bits(bits) for bits in used],
                "thickness": 12,
                "outlinewidth": 0,
            },
        )
    )
    every = max(1, -(-len(rows) // 24))
    layout(figure, height=300, x="layer, in forward order")
    figure.update_xaxes(
        tickvals=list(range(0, len(rows), every)),
        ticktext=names[::every],
        tickangle=-60,
        showgrid=False,
        tickfont={"size": 9},
        zeroline=False,
    )
    return figure.update_yaxes(showgrid=False)


def _aside(row: PlannedLayer, bits: int, how: str) -> str:
    """Why it is in float, or how it is quantized where that is not the usual way."""
    said = row.reason if bits == FLOAT else how
    return f" ({said})" if said else ""


def _formats(plan: Plan) -> list[str]:
    return [
        "" if isinstance(row.weights.format, Uniform) else format_name(row.weights)
        for row in plan.layers
    ]


def _ranges(plan: Plan) -> list[str]:
    return [
        f"range per {range_unit(row.bank)}" if row.bank and row.bank.per else ""
        for row in plan.layers
    ]


def _bits(bits: int) -> str:
    return "float" if bits == FLOAT else f"{bits} bits"
