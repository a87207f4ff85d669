"""A sensitivity table as figures: bars, a tree map of blocks, maps of choices and steps, boxes, two
tables compared.

`label` names one of the table's choices; "" stands for how much the choice matters, the dearest
less the cheapest. The customdata of whatever can be clicked is the layer's row in the table."""

import math
import textwrap
from itertools import cycle

import numpy as np
import plotly.graph_objects as go

from ..results import Layer, SensitivityTable
from .style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALETTE,
    PURPLE,
    RED,
    SKY,
    YELLOW,
    layout,
    plain,
    row_axis,
    rows_height,
    short,
)


MAX_BARS = 30  # bars; layers behind them are in the map
WIDE = 30  # largest over smallest from which a scale is logarithmic
OUTSIDE = "outside blocks"
ROLES = ("first", "last", "time", "attention", "feedforward", "residual", "sampling", "other")
FORMATS = {
    "UAQ": BLUE,
    "KMC": ORANGE,
    "KMA": GREEN,
    "GPTQ": PURPLE,
    "HQQ": SKY,
    "LR": RED,
    "PoT": YELLOW,
    "W": "#8C6BB1",
    "float": GREY,
}


def format_of(label: str) -> str:
    """The format that a choice's short name begins with: "KMC" of "KMC-4"."""
    return label.rpartition("-")[0] or label


def values_of(table: SensitivityTable, label: str) -> np.ndarray:
    """The cost of every layer [L] at the choice `label`, or how much the choice matters if that
    is empty.
    """
    return table.cost[:, table.labels.index(label)] if label else _reach(table.cost)


def _reach(costs: np.ndarray) -> np.ndarray:
    """Largest less smallest known value along axis 1; nan where none is known."""
    known = np.isfinite(costs)
    reach = np.where(known, costs, -np.inf).max(1) - np.where(known, costs, np.inf).min(1)
    return np.where(known.any(1), reach, np.nan)


def break_lines(text: str, width: int = 44) -> str:
    """`text` in lines, for beside an axis: upright titles are cut off where they are longer than
    it.
    """
    return "<br>".join(textwrap.wrap(text, width))


def title_of(table: SensitivityTable, label: str) -> str:
    """What `values_of` is, with its unit."""
    return f"{label or 'dearest − cheapest choice'}: {table.unit}"


def block_of(layer: Layer) -> str:
    """The short name of a layer's block."""
    return short(layer.block) if layer.block else OUTSIDE


# --- one value for each layer ---------------------------------------------------------------------


def bars(table: SensitivityTable, label: str = "") -> go.Figure:
    """The most sensitive layers, the largest on top, coloured by role; whiskers are standard
    errors.
    """
    values = values_of(table, label)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(-values[known], kind="stable")][:MAX_BARS]
    place = {int(row): k for k, row in enumerate(order)}
    figure = go.Figure()
    for role, colour in zip(ROLES, PALETTE, strict=True):
        own = [row for row in place if table.layers[row].role == role]
        if not own:
            continue
        spread = table.spread[own, table.labels.index(label)] if label else np.zeros(len(own))
        whisker = {
            "type": "data",
            "array": np.nan_to_num(spread).astype(np.float32),
            "thickness": 1.2,
            "color": GREY,
        }
        figure.add_bar(
            x=values[own].astype(np.float32),
            y=[place[row] for row in own],
            orientation="h",
            name=role,
            marker={"color": colour},
            error_x=whisker if spread.any() else None,
            customdata=own,
            text=[table.layers[row].name for row in own],
            textposition="none",
            hovertemplate="%{text}<br>%{x:.3g}<extra>" + role + "</extra>",
        )
    height = rows_height(len(order))
    layout(
        figure,
        height=height,
        x=title_of(table, label),
        uirevision=f"bars {table.title} {label}",
        bargap=0.25,
    )
    return figure.update_yaxes(**row_axis([short(table.layers[row].name) for row in order], height))


def tree(table: SensitivityTable, label: str = "", area: str = "weights") -> go.Figure:
    """Blocks and their layers as rectangles: area is "weights" or, at the choice `label`, "bytes";
    colour is the cost.

    A block has the colour of its most sensitive layer.
    """
    values = values_of(table, label)
    sizes = np.array([layer.num_weights for layer in table.layers])
    if area == "bytes" and label:
        sizes = table.bytes[:, table.labels.index(label)]
    blocks = list(dict.fromkeys(block_of(layer) for layer in table.layers))
    rows = {
        block: [n for n, layer in enumerate(table.layers) if block_of(layer) == block]
        for block in blocks
    }
    worst = [
        np.nanmax(values[own]) if np.isfinite(values[own]).any() else np.nan
        for own in rows.values()
    ]
    shown, colours = coloured(np.concatenate([[np.nan], worst, values]))
    figure = go.Figure(
        go.Treemap(
            # A layer may be called as its block is, and each name may stand only once.
            ids=[
                "all blocks",
                *(f"block {block}" for block in blocks),
                *(layer.name for layer in table.layers),
            ],
            labels=[
                "all blocks",
                *blocks,
                *(short(layer.name).rpartition(" · ")[2] for layer in table.layers),
            ],
            parents=[
                "",
                *(["all blocks"] * len(blocks)),
                *(f"block {block_of(layer)}" for layer in table.layers),
            ],
            branchvalues="total",
            values=[
                int(sizes.sum()),
                *(int(sizes[own].sum()) for own in rows.values()),
                *map(int, sizes),
            ],
            customdata=[-1, *([-1] * len(blocks)), *range(len(table.layers))],
            text=[
                "",
                *(f"dearest layer {_describe(v)}" for v in worst),
                *(_describe(v) for v in values),
            ],
            textinfo="label",
            marker={
                "colors": shown.astype(np.float32),
                **colours,
                "line": {"width": 0.5},
                "pad": {"t": 18, "l": 2, "r": 2, "b": 2},
            },
            hovertemplate=f"%{{id}}<br>%{{text}}<br>%{{value:,}} "
            f"{area if label else 'weights'}<extra></extra>",
            tiling={"pad": 1},
        )
    )
    layout(figure, height=480, uirevision=f"tree {table.title} {label} {area}")
    return figure.update_layout(margin={"l": 4, "r": 4, "t": 26, "b": 4})


def boxes(table: SensitivityTable, by: str, label: str = "") -> go.Figure:
    """The spread of costs among layers of one "role", in one "block", or (whatever `label` is)
    at one "choice".
    """
    values = values_of(table, label)
    if by == "choice":
        groups = {
            name: (table.cost[:, c], list(range(len(table.layers))))
            for c, name in enumerate(table.labels)
        }
        title = table.unit
    else:
        of = [layer.role if by == "role" else block_of(layer) for layer in table.layers]
        names = [role for role in ROLES if role in of] if by == "role" else list(dict.fromkeys(of))
        rows = {name: [n for n, one in enumerate(of) if one == name] for name in names}
        groups = {name: (values[own], own) for name, own in rows.items()}
        title = title_of(table, label)
    shown = np.concatenate([part for part, _ in groups.values()])
    wide = is_wide(shown)
    figure = go.Figure()
    for (name, (part, own)), colour in zip(groups.items(), cycle(PALETTE), strict=False):
        count = int(np.isfinite(part).sum())
        figure.add_box(
            y=(above_zero(part, shown) if wide else part).astype(np.float32),
            name=f"{name} ({count})",
            boxpoints="all" if count <= 60 else "outliers",
            jitter=0.4,
            pointpos=0,
            line={"width": 1.5},
            marker={"color": colour, "size": 4},
            showlegend=False,
            customdata=own,
            text=[table.layers[n].name for n in own],
            hovertemplate="%{text}<br>%{y:.3g}<extra></extra>",
        )
    x = {"role": "kind of layer", "block": "block, in forward order", "choice": "choice"}[by]
    layout(
        figure,
        height=420,
        x=f"{x} (layers)",
        y=break_lines(title),
        uirevision=f"box {by} {table.title} {label}",
    )
    return figure.update_yaxes(**(logarithmic(shown) if wide else {"type": "linear"}))


# --- maps -----------------------------------------------------------------------------------------


def choice_map(table: SensitivityTable) -> go.Figure:
    """The cost of every layer at every choice, layers from the top in forward order."""
    return _map(table, table.cost, list(table.labels), "choice", f"choices {table.title}")


def step_map(table: SensitivityTable, label: str = "") -> go.Figure | None:
    """The cost of every layer at each step that was looked at; None if the table does not tell
    steps apart.
    """
    if table.per_step is None:
        return None
    costs = table.per_step[:, table.labels.index(label)] if label else _reach(table.per_step)
    names = [f"{t:g}" for t in table.timesteps]
    return _map(
        table, costs, names, "timestep t, in sampling order", f"steps {table.title} {label}"
    )


def _map(
    table: SensitivityTable, costs: np.ndarray, columns: list[str], x: str, revision: str
) -> go.Figure:
    costs = np.where(np.isfinite(costs), costs, np.nan)
    shown, colours = coloured(costs)
    height = rows_height(len(table.layers))
    figure = go.Figure(
        go.Heatmap(
            z=shown.astype(np.float32),
            x=np.arange(len(columns)),
            y=np.arange(len(table.layers)),
            hoverongaps=False,
            customdata=np.repeat(
                np.arange(len(table.layers), dtype=np.int32)[:, None], len(columns), 1
            ),
            xgap=0.5,
            text=[
                [
                    f"{layer.name}<br>{name}: {_describe(v)}"
                    for name, v in zip(columns, line, strict=True)
                ]
                for layer, line in zip(table.layers, costs, strict=True)
            ],
            hovertemplate="%{text}<extra></extra>",
            **colours,
        )
    )
    layout(figure, height=height, x=x, uirevision=revision)
    figure.update_xaxes(
        tickvals=np.arange(len(columns)), ticktext=columns, showgrid=False, zeroline=False
    )
    return figure.update_yaxes(**row_axis([short(layer.name) for layer in table.layers], height))


# --- two tables -----------------------------------------------------------------------------------


def agreement(
    one: SensitivityTable, other: SensitivityTable, ranks: tuple[float, float]
) -> go.Figure | None:
    """Both tables' costs of the layers and choices that they share; `ranks` are Spearman's rho and
    Kendall's tau.

    None if they share nothing.
    """
    labels = [label for label in one.labels if label in other.labels]
    rows = [(one.row[name], other.row[name]) for name in one.row if name in other.row]
    pairs = {
        label: np.array(
            [
                (one.cost[a, one.labels.index(label)], other.cost[b, other.labels.index(label)], a)
                for a, b in rows
            ]
        )
        for label in labels
    }
    pairs = {label: part[np.isfinite(part).all(1)] for label, part in pairs.items() if len(part)}
    every = np.concatenate([part[:, :2] for part in pairs.values()]) if pairs else np.zeros((0, 2))
    if not len(every):
        return None
    wide = [is_wide(every[:, k]) for k in range(2)]
    figure, named = go.Figure(), set()
    for label, part in pairs.items():
        kind = format_of(label)
        ends = [above_zero(part[:, k], every[:, k]) if wide[k] else part[:, k] for k in range(2)]
        figure.add_scatter(
            x=ends[0].astype(np.float32),
            y=ends[1].astype(np.float32),
            name=kind,
            legendgroup=kind,
            mode="markers",
            showlegend=kind not in named,
            customdata=part[:, 2].astype(np.int32),
            text=[f"{one.layers[int(row)].name}, {label}" for row in part[:, 2]],
            marker={"color": FORMATS.get(kind, GREY), "size": 6, "opacity": 0.75},
            hovertemplate="%{text}<br>%{x:.3g}, %{y:.3g}<extra></extra>",
        )
        named.add(kind)
    said = f"Spearman {ranks[0]:.2f}, Kendall {ranks[1]:.2f}, n = {len(every)}"
    title = {"text": said, "font": {"size": 14}, "y": 0.98}
    layout(
        figure,
        height=460,
        x=f"{one.title}: {one.unit}",
        y=break_lines(f"{other.title}: {other.unit}"),
        title=title,
        uirevision=f"agreement {one.title} {other.title}",
    )
    for k, axis in enumerate(("xaxis", "yaxis")):
        figure.update_layout({axis: logarithmic(every[:, k]) if wide[k] else {"type": "linear"}})
    return figure.update_layout(margin_t=70)


# --- scales ---------------------------------------------------------------------------------------


def is_wide(values: np.ndarray, wide: float = WIDE) -> bool:
    """Do costs span so much that they want a logarithmic scale? Never where one is negative."""
    finite = values[np.isfinite(values)]
    over = finite[finite > 0]
    return bool(len(over)) and not (finite < 0).any() and over.max() > wide * over.min()


def above_zero(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Costs of 0, which have no logarithm, at half the smallest other one."""
    return np.where(values == 0, among[np.isfinite(among) & (among > 0)].min() / 2, values)


def logarithmic(values: np.ndarray) -> dict[str, object]:
    """A logarithmic axis for `values`, with labels in plain units."""
    over = values[np.isfinite(values) & (values > 0)]
    ticks = _ticks(math.log10(over.min()), math.log10(over.max()))
    return {
        "type": "log",
        "tickvals": [10.0**tick for tick in ticks],
        "ticktext": [plain(10.0**t) for t in ticks],
    }


def coloured(values: np.ndarray) -> tuple[np.ndarray, dict[str, object]]:
    """What to colour, and the colour scale with labels in plain units; lighter is dearer."""
    finite = values[np.isfinite(values)]
    bar: dict[str, object] = {"thickness": 12, "outlinewidth": 0, "len": 1}
    if not is_wide(values):
        return values, {"colorscale": "Viridis", "colorbar": bar, "showscale": bool(len(finite))}
    shown = np.log10(above_zero(values, values))
    ticks = _ticks(float(np.nanmin(shown)), float(np.nanmax(shown)))
    bar |= {"tickvals": ticks, "ticktext": [plain(10.0**tick) for tick in ticks]}
    return shown, {"colorscale": "Viridis", "colorbar": bar, "showscale": True}


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two logarithms; where they are few, twice and five times those too."""
    each = (1,) if high - low > 2.5 else (1, 2, 5)
    marks = [
        base + math.log10(k) for base in range(math.floor(low), math.ceil(high) + 1) for k in each
    ]
    return [mark for mark in marks if low - 0.1 <= mark <= high + 0.1]


def _describe(value: float) -> str:
    return plain(value) if math.isfinite(value) else "not known"
