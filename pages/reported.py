"""A finished comparison in words and tables."""

import html
from statistics import fmean
from typing import Any

from dmq import runs
from dmq.results import Report
from dmq.runs.prompts import UNPROMPTED


def caption(who: str, prompt: str, seed: int) -> str:
    """What stands under a picture."""
    return f"{who} · {prompt} · seed {seed}" if prompt != UNPROMPTED else f"{who} · seed {seed}"


def jobs_of(name: str) -> list[tuple[str, int]]:
    """Prompt and seed of each picture of a run, in order."""
    comparison = runs.load_comparison(name)
    return [(prompt, seed) for prompt in comparison.prompts for seed in comparison.seeds]


def table(report: Report) -> list[list[Any]]:
    """One row for each picture, the best first."""
    best = sorted(report.scores, key=lambda score: -score.psnr)
    return [[s.recipe, s.prompt, s.seed, round(s.psnr, 2), round(s.ssim, 4)] for s in best]


def summary(report: Report) -> str:
    """One row for each recipe: means, size, time and what was quantized."""
    head = "| | PSNR | SSIM | MB | seconds | what is quantized |\n|---|---|---|---|---|---|\n"
    rows = []
    for who, size in report.bytes.items():
        own = [score for score in report.scores if score.recipe == who]
        psnr = f"{fmean([s.psnr for s in own]):.2f} dB" if own else "–"
        ssim = f"{fmean([s.ssim for s in own]):.4f}" if own else "–"
        kept = report.coverage.get(who, "nothing")
        cells = [who, psnr, ssim, f"{size / 1e6:.2f}", f"{report.seconds.get(who, 0):.1f}", kept]
        rows.append("| " + " | ".join(html.escape(cell).replace("|", "\\|") for cell in cells) + " |")
    floor = report.noise_floor
    said = f"\n\nNoise floor, float pictures with another seed: {floor['psnr']:.2f} dB, SSIM {floor['ssim']:.3f}."
    if report.samples < 10:
        said += f" {report.samples} picture{'s' if report.samples > 1 else ''}: an impression, no measurement."
    return head + "\n".join(rows) + said + "".join(f"\n\n{html.escape(warning)}" for warning in report.warnings)
