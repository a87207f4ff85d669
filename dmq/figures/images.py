"""How far quantized images are from the float ones."""

import math
from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go

from ..results import ImageScore, Report
from .style import GREY, PALETTE, layout


def psnr(report: Report) -> go.Figure:
    """PSNR of every image, a column for each recipe; the dashed line is float against other
    seeds.

    Images equal to the float ones have no finite PSNR: they are drawn above all others, and
    hovering says so."""
    finite = [score.psnr for score in report.scores if math.isfinite(score.psnr)]
    top = max([*finite, report.noise_floor.get("psnr", 0.0), 40.0]) + 5
    return _boxes(report, "psnr", "PSNR against float, dB", lambda score: min(score.psnr, top))


def ssim(report: Report) -> go.Figure:
    """SSIM of every image, a column for each recipe; the dashed line is float against other
    seeds.
    """
    return _boxes(report, "ssim", "SSIM against float", lambda score: score.ssim)


def _boxes(
    report: Report, key: str, title: str, height: Callable[[ImageScore], float]
) -> go.Figure:
    figure = go.Figure()
    for k, name in enumerate(dict.fromkeys(score.recipe for score in report.scores)):
        own = [score for score in report.scores if score.recipe == name]
        about = [
            f"{score.prompt}, seed {score.seed}"[:80]
            + ("" if math.isfinite(score.psnr) else "<br>equal to float")
            for score in own
        ]
        figure.add_box(
            y=[height(score) for score in own],
            name=name,
            text=about,
            boxpoints="all",
            jitter=0.4,
            pointpos=0,
            showlegend=False,
            boxmean=True,
            marker={"color": PALETTE[k % len(PALETTE)], "size": 6},
            line={"width": 1},
            fillcolor="rgba(0,0,0,0)",
            hovertemplate="%{text}<br>%{y:.4g}<extra>" + name + "</extra>",
        )
    if math.isfinite(floor := report.noise_floor.get(key, math.nan)):
        figure.add_hline(
            floor,
            line={"color": GREY, "width": 1.5, "dash": "dash"},
            annotation={"text": "other seeds", "font": {"size": 10}},
            annotation_position="bottom right",
        )
    return layout(figure, height=360, y=title)


def difference(a: np.ndarray, b: np.ndarray, gain: float = 4.0) -> np.ndarray:
    """The absolute difference as an image: black where equal, `gain` times brighter than it is."""
    return np.clip(np.abs(a.astype(np.float32) - b) * gain, 0, 255).astype(np.uint8)
