"""How far quantized pictures are from the float ones."""

import math

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..results import Report
from .look import GREY, PALETTE, layout


def scores(report: Report) -> go.Figure:
    """PSNR and SSIM of every picture, a column for each recipe; the dashed line is float against other seeds.

    Pictures equal to the float ones have no finite PSNR: they are drawn above all others, and hovering says so.
    """
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.12)
    names = list(dict.fromkeys(score.recipe for score in report.scores))
    finite = [score.psnr for score in report.scores if math.isfinite(score.psnr)]
    top = max([*finite, report.noise_floor.get("psnr", 0.0), 40.0]) + 5
    for k, name in enumerate(names):
        own = [score for score in report.scores if score.recipe == name]
        about = [
            f"{score.prompt}, seed {score.seed}"[:80] + ("" if math.isfinite(score.psnr) else "<br>equal to float")
            for score in own
        ]
        for col, values in ((1, [min(score.psnr, top) for score in own]), (2, [score.ssim for score in own])):
            figure.add_trace(
                go.Box(
                    y=values, name=name, text=about, boxpoints="all", jitter=0.4, pointpos=0, showlegend=False,
                    boxmean=True, marker={"color": PALETTE[k % len(PALETTE)], "size": 6}, line={"width": 1},
                    fillcolor="rgba(0,0,0,0)", hovertemplate="%{text}<br>%{y:.4g}<extra>" + name + "</extra>",
                ),
                row=1, col=col,
            )  # fmt: skip
    for col, key in ((1, "psnr"), (2, "ssim")):
        if math.isfinite(report.noise_floor.get(key, math.nan)):
            figure.add_hline(
                report.noise_floor[key], row=1, col=col, line={"color": GREY, "width": 1.5, "dash": "dash"},
                annotation={"text": "other seeds", "font": {"size": 10}}, annotation_position="bottom right",
            )  # fmt: skip
    layout(figure, height=360)
    figure.update_yaxes(title_text="PSNR against float, dB", row=1, col=1)
    return figure.update_yaxes(title_text="SSIM against float", row=1, col=2)
