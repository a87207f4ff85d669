"""A benchmark as one HTML file that can be mailed: everything is inside, nothing is fetched."""

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from PIL import Image
from plotly.offline import get_plotlyjs

from ..results import BENCH_MEASURES, BenchImage, BenchReport
from . import bench_table, benchmark


SIDE = 160  # pixels of a thumbnail
MARK = "<!-- plotly ends here -->"
MAX_PAIRS = 48  # pairs of images
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 24px auto; padding: 0 20px; max-width: 1300px; color: #1f2430; }
h1 { margin-bottom: 0; } .context { color: #5b6270; } .pair { display: inline-block; margin: 0 14px 14px 0;
  vertical-align: top; width: 216px; font-size: 12px; } .pair img { width: 104px; image-rendering: pixelated; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); gap: 16px; }
.figures > div { min-width: 0; }
.dmq-key { margin-top: 20px; }
.finding { border-left: 4px solid #E69F00; padding: 4px 12px; }
@media print { .figures { break-inside: avoid; } }
"""


def page(
    name: str,
    report: BenchReport,
    worst: Sequence[BenchImage],
    images: Mapping[tuple[str, int], np.ndarray],
    findings: Sequence[str],
    float_name: str,
) -> str:
    """The whole file.

    `images` are those of `worst` and their float partners, by model and number.
    """
    title = f"{html.escape(name)} · dmq benchmark"
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{STYLE}{bench_table.STYLE}{benchmark.KEY_STYLE}</style>",
        f"<script>{get_plotlyjs()}</script>{MARK}</head><body>",
        f"<h1>{html.escape(name)}</h1><p "
        f"class=context>{html.escape(bench_table.context(report))}</p>",
        *(f"<p class=finding>{html.escape(line)}</p>" for line in findings),
        *(f"<p class=context>Note: {html.escape(line)}</p>" for line in report.warnings),
    ]
    drawn = 0
    for domain in report.benchmark.domains:
        parts += [
            f"<h2>{html.escape(domain.name)}</h2>",
            bench_table.as_html(report, domain.name),
            benchmark.key(report),
            "<div class=figures>",
        ]
        for measure in _plot(report):
            for figure in (benchmark.against_bytes, benchmark.against_seconds):
                parts.append(_figure(figure(report, measure, domain.name), f"figure-{drawn}"))
                drawn += 1
        parts.append("</div>")
    parts.append("<h2>The worst images</h2><p>Float on the left, quantized on the right.</p>")
    parts += [_pair(one, images, float_name) for one in worst[:MAX_PAIRS]]
    return "".join([*parts, "</body></html>"])


def _plot(report: BenchReport) -> list[str]:
    """One paired measure and one of sets: all of them would be a long page."""
    known = [measure.name for measure in bench_table.measures(report)]
    chosen = [
        next((m for m in kind if m in known), None)
        for kind in (("psnr", "ssim", "latent", "distance"), ("fid", "kid", "cmmd", "clip"))
    ]
    return [name for name in chosen if name]


def _figure(figure: go.Figure, name: str) -> str:
    drawn = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        config={"displaylogo": False, "responsive": True},
    )
    return f"<div>{drawn}</div>"


def side_by_side(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Two images [H, W, 3] of one size as one, with a white line between them."""
    return np.concatenate([a, np.full((len(a), max(1, a.shape[1] // 16), 3), 255, np.uint8), b], 1)


def _pair(one: BenchImage, images: Mapping[tuple[str, int], np.ndarray], float_name: str) -> str:
    shown = "".join(
        f'<img alt="{who}" src="{_uri(images[key])}"> '
        for who in (float_name, one.recipe)
        if (key := (who, one.number)) in images
    ).replace(f'alt="{one.recipe}"', f'alt="{html.escape(one.recipe)}"')
    return f"<div class=pair>{shown}<br>{html.escape(caption(one))}</div>"


def caption(one: BenchImage) -> str:
    """What stands under a pair: which it is and its figures."""
    shown = [name for name in ("psnr", "ssim", "clip") if name in one.values]
    scores = ", ".join(
        f"{BENCH_MEASURES[name].label} {bench_table.value(one.values[name], BENCH_MEASURES[name])}"
        for name in shown
    )
    return (
        f"{one.recipe} · {one.prompt} · seed {one.seed} · {scores if one.finite else 'not finite'}"
    )


def _uri(image: np.ndarray) -> str:
    small = Image.fromarray(image)
    small.thumbnail((SIDE, SIDE))
    packed = io.BytesIO()
    small.save(packed, "PNG")
    return "data:image/png;base64," + base64.b64encode(packed.getvalue()).decode()
