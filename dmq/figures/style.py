"""What all figures share: colours that the colour-blind can tell apart, layout without a theme,
short layer names.

Text, grid and background take the colours of the page that shows a figure, so none is set here.
"""

import numpy as np
import plotly.graph_objects as go

from ..results import Site


# Okabe and Ito's palette
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
)
GREY = "#8a8f99"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW, GREY)
STEP = "step i (0 is noise)"
SMOOTH = 25  # iterations that a point of a smoothed loss is the mean of
MOST_POINTS = 1000  # of a line that is sent to a browser
TALLEST = 900  # pixels; what scrolls beyond that is the page's business

SHORTER = {
    "down_blocks": "down",
    "up_blocks": "up",
    "mid_block": "mid",
    "attentions": "attn",
    "resnets": "res",
    "transformer_blocks": "tb",
    "downsamplers": "downsample",
    "upsamplers": "upsample",
    "time_embedding": "time",
}


def short(name: str) -> str:
    """A module path that fits beside an axis: where it is, a dot, what it is.

    >>> short("down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0")
    'down.0.attn.1 · attn1.to_out'
    """
    words = [SHORTER.get(word, word) for word in name.split(".")]
    for k in range(len(words) - 2, -1, -1):  # an only child needs no number
        if words[k] in ("tb", "to_out", "net", "conv_shortcut") and words[k + 1] == "0":
            words[k : k + 2] = [] if words[k] in ("tb", "net") else [words[k]]
    place = max(
        (k + 1 for k, word in enumerate(words[:-1]) if word.isdigit() or word == "mid"), default=0
    )
    return " · ".join(".".join(part) for part in (words[:place], words[place:]) if part)


def label(site: Site) -> str:
    """The short name of a site; inputs of layers go without saying."""
    return short(site.name) + ("" if site.point == "input" else f" {site.point}")


def plain(value: float) -> str:
    """A number in at most three digits, as one would write it."""
    return f"{value:.3g}" if not 0 < abs(value) < 1e-3 else f"{value:.0e}".replace("e-0", "e-")


def layout(
    figure: go.Figure, *, height: int = 340, x: str = "", y: str = "", **more: object
) -> go.Figure:
    """The common layout; `x` and `y` are axis titles with their units."""
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 20, "t": 44, "b": 50},
        hovermode="closest",
        uirevision="keep",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"},
    )
    grey = {"gridcolor": "rgba(128,128,128,0.2)", "zerolinecolor": "rgba(128,128,128,0.4)"}
    figure.update_xaxes(**grey).update_yaxes(**grey)
    if x:
        figure.update_xaxes(title_text=x)
    if y:
        figure.update_yaxes(title_text=y)
    return figure.update_layout(**more)


def right_axis(title: str) -> dict[str, object]:
    """A second y axis on the right, with round numbers of its own instead of the first one's
    lines.
    """
    return {
        "title": {"text": title},
        "overlaying": "y",
        "side": "right",
        "tickmode": "auto",
        "showgrid": False,
    }


def rows_height(rows: int) -> int:
    """Pixels of a figure with one line for each of `rows`."""
    return int(np.clip(130 + 18 * rows, 220, TALLEST))


def row_axis(names: list[str], height: int) -> dict[str, object]:
    """A y axis of rows from the top, with as many names as `height` leaves room for."""
    every = max(1, int(np.ceil(len(names) * 14 / max(height - 130, 1))))
    shown = list(range(0, len(names), every))
    return {
        "tickmode": "array",
        "tickvals": shown,
        "ticktext": [names[k] for k in shown],
        "fixedrange": True,
        "range": [len(names) - 0.5, -0.5],
        "showgrid": False,
        "zeroline": False,
        "tickfont": {"size": 10},
    }


def smooth_curve(values: np.ndarray) -> np.ndarray:
    """The mean of each value and those before it, up to SMOOTH of them; values that are not
    finite are left out.
    """
    finite = np.isfinite(values)
    total = np.concatenate([[0.0], np.where(finite, values, 0).cumsum()])
    count = np.concatenate([[0], finite.cumsum()])
    start = np.maximum(np.arange(1, len(values) + 1) - SMOOTH, 0)
    return (total[1:] - total[start]) / np.maximum(count[1:] - count[start], 1)


def rgba(colour: str, alpha: float) -> str:
    """A colour of the palette, see-through."""
    return f"rgba({','.join(str(int(colour[k : k + 2], 16)) for k in (1, 3, 5))},{alpha})"


# Below, none and above on a light page as on a dark one: what is nothing lets the page shine
# through.
DIVERGING = [[0, BLUE], [0.5, rgba(GREY, 0.12)], [1, ORANGE]]
