"""A finished comparison in words and tables."""

import html
from statistics import fmean
from typing import Any

from dmq.describe import describe_engine, format_speed
from dmq.progress import FLOAT_NAME
from dmq.results import Coverage, Report
from dmq.store import runs
from dmq.store.prompts import UNPROMPTED


def caption(who: str, prompt: str, seed: int) -> str:
    """What stands under an image."""
    return f"{who} · {prompt} · seed {seed}" if prompt != UNPROMPTED else f"{who} · seed {seed}"


def jobs_of(name: str) -> list[tuple[str, int]]:
    """Prompt and seed of each image of a run, in order."""
    comparison = runs.load_comparison(name)
    return [(prompt, seed) for prompt in comparison.prompts for seed in comparison.seeds]


def table(report: Report) -> list[list[Any]]:
    """One row for each image, the best first."""
    best = sorted(report.scores, key=lambda score: -score.psnr)
    return [[s.recipe, s.prompt, s.seed, round(s.psnr, 2), round(s.ssim, 4)] for s in best]


def summary(report: Report) -> str:
    """One row for each recipe: means, size, measured time, what computed it, what fell back,
    what was quantized.
    """
    head = (
        "| | PSNR | SSIM | MB | seconds | speed | computed | what is quantized |\n"
        + 8 * "|---"
        + "|\n"
    )
    rows = []
    for who, size in report.bytes.items():
        own = [score for score in report.scores if score.recipe == who]
        psnr = f"{fmean([s.psnr for s in own]):.2f} dB" if own else "–"
        ssim = f"{fmean([s.ssim for s in own]):.4f}" if own else "–"
        seconds = report.seconds.get(who, 0)
        fast = format_speed(seconds, report.seconds.get(FLOAT_NAME, 0))
        ran = report.coverage.get(who, Coverage(quantized="nothing", engine="float"))
        cells = [
            who,
            psnr,
            ssim,
            f"{size / 1e6:.2f}",
            f"{seconds:.1f}",
            fast,
            describe_engine(ran),
            ran.quantized,
        ]
        rows.append(
            "| " + " | ".join(html.escape(cell).replace("|", "\\|") for cell in cells) + " |"
        )
    floor = report.noise_floor
    ran_on = f" It ran on {report.place}." if report.place else ""
    said = f"\n\nSeconds are measured, of sampling all images; speed is against the float model.{ran_on}"
    said += f" Noise floor, float images with another seed: {floor['psnr']:.2f} dB, SSIM {floor['ssim']:.3f}."
    if report.samples < 10:
        said += f" {report.samples} image{'s' if report.samples > 1 else ''}: an impression, no measurement."
    return (
        head
        + "\n".join(rows)
        + said
        + "".join(f"\n\n{html.escape(warning)}" for warning in report.warnings)
    )
