"""Activations: where and when they are large, how a layer's distribution moves, and what the
grid does to it.
"""

import json
from collections.abc import Iterator
from typing import Any

import gradio as gr

from dmq.describe import DYNAMIC_NOTE
from dmq.errors import DmqError
from dmq.figures import activations as figures
from dmq.figures import quantization_grid
from dmq.recipe import FLOAT, Recipe
from dmq.results import ActivationStats
from dmq.workflow.answers import get_errors, get_statistics

from ..layout import explain_no_capture, show_body, show_hint
from ..session import read


POINTS = {
    "inputs": ("input",),
    "outputs": ("output",),
    "attention operands": ("q", "k", "v", "probs"),
}
ALL = "all blocks"


def list_rows(stats: ActivationStats, point: str, block: str) -> list[int]:
    """The sites that the heat map shows, one row each."""
    return [
        s
        for s, site in enumerate(stats.sites)
        if site.point in POINTS.get(point, ()) and block in (ALL, site.block)
    ]


def choose_cell(stats: ActivationStats, rows: list[int], picked: str) -> tuple[int, int] | None:
    """Site and step that were clicked, if they are among `rows`; else the row and the step in
    the middle.
    """
    if not rows:
        return None
    name, point, step = json.loads(picked) if picked else ("", "", stats.steps // 2)
    s = stats.index.get((name, point), -1)
    return (s if s in rows else rows[len(rows) // 2], min(step, stats.steps - 1))


def remember(stats: ActivationStats, s: int, step: int) -> str:
    """The text that `chosen` reads."""
    return json.dumps([stats.sites[s].name, stats.sites[s].point, step])


def show(
    text: str, statistic: str, point: str, block: str, picked: str
) -> Iterator[dict[str, Any]]:
    """The tab for the current recipe: first what was captured, then what the grids do to it,
    which takes longer.
    """
    recipe = read(text)
    if hint := explain_no_capture(recipe):
        yield show_hint(hint)
        return
    stats = get_statistics(recipe)
    blocks = [ALL, *dict.fromkeys(site.block for site in stats.sites if site.block)]
    block = block if block in blocks else ALL
    rows = list_rows(stats, point, block)
    at = choose_cell(stats, rows, picked)
    yield show_body() | {
        "block": gr.update(choices=blocks, value=block),
        "heat": figures.heatmap(stats, rows, statistic, at) if at else None,
    }
    yield show_overview(recipe, stats, statistic, point, block, picked)


def show_overview(
    recipe: Recipe, stats: ActivationStats, statistic: str, point: str, block: str, picked: str
) -> dict[str, Any]:
    """The heat map, and the details of the chosen row."""
    rows = list_rows(stats, point, block)
    at = choose_cell(stats, rows, picked)
    if at is None:
        return {"heat": None, "title": f"No {point} in {block}."}
    return {"heat": figures.heatmap(stats, rows, statistic, at), **show_site(recipe, stats, *at)}


def show_site(recipe: Recipe, stats: ActivationStats, s: int, step: int) -> dict[str, Any]:
    """Everything about one site: over time, and at one step."""
    return {
        "ridge": figures.ridgeline(stats, s),
        "fan": figures.fan(stats, s),
        "film": figures.over_time(stats, s),
        **show_step(recipe, stats, s, step),
    }


def show_step(recipe: Recipe, stats: ActivationStats, s: int, step: int) -> dict[str, Any]:
    """What depends on the step: channels, and the grid over the histogram."""
    errors = get_errors(recipe)
    bits, low, high = (
        int(errors.bits[s, step]),
        float(errors.low[s, step]),
        float(errors.high[s, step]),
    )
    grid_text = f"grid of {bits} bits, {low:.3g} to {high:.3g}"
    if recipe.activations.dynamic != "none":
        grid_text += f". {DYNAMIC_NOTE}"
    if bits == FLOAT:
        bits = min(recipe.activations.bits, 8)
        low, high = float(stats.minimum[s, step]), float(stats.maximum[s, step])
        grid_text = f"this recipe leaves it in float; generated is what {bits} bits would do"
    t = stats.timesteps[step]
    return {
        "title": f"### {stats.sites[s].label}\nstep {step} of {stats.steps} (t = {t:g}); {grid_text}",
        "grid": quantization_grid.grid(
            stats, s, step, low, high, bits, recipe.activations.symmetric
        ),
        "channels": figures.channels(stats, s, step),
        "step": gr.update(maximum=stats.steps - 1, value=step),
        "picked": remember(stats, s, step),
    }


def refilter(text: str, statistic: str, point: str, block: str, picked: str) -> dict[str, Any]:
    """The heat map after another statistic, point or block was chosen."""
    recipe = read(text)
    return show_overview(recipe, get_statistics(recipe), statistic, point, block, picked)


def pick(text: str, statistic: str, point: str, block: str, click: gr.SelectData) -> dict[str, Any]:
    """The layer and the step that were clicked in the heat map."""
    recipe = read(text)
    stats = get_statistics(recipe)
    rows = list_rows(stats, point, block)
    row, step = click.index if isinstance(click.index, list | tuple) else (-1, -1)
    if not (0 <= row < len(rows) and 0 <= step < stats.steps):
        raise DmqError("this cell is no longer there; click again.")
    return show_overview(recipe, stats, statistic, point, block, remember(stats, rows[row], step))


def scrub(text: str, point: str, block: str, picked: str, step: float) -> dict[str, Any]:
    """The same site at another step."""
    recipe = read(text)
    stats = get_statistics(recipe)
    at = choose_cell(stats, list_rows(stats, point, block), picked)
    return show_step(recipe, stats, at[0], min(int(step), stats.steps - 1)) if at else {}
