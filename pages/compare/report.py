"""A finished comparison in words and tables."""

import html
from statistics import fmean
from typing import Any

from dmq.describe import describe_engine, format_speed
from dmq.progress import FLOAT_NAME
from dmq.results import Coverage, Report
from dmq.store import runs
from dmq.store.prompts import UNPROMPTED


def write_caption(model_name: str, prompt: str, seed: int) -> str:
    """What stands under an image."""
    return (
        f"{model_name} · {prompt} · seed {seed}"
        if prompt != UNPROMPTED
        else f"{model_name} · seed {seed}"
    )


def list_jobs(name: str) -> list[tuple[str, int]]:
    """Prompt and seed of each image of a run, in order."""
    comparison = runs.load_comparison(name)
    return [(prompt, seed) for prompt in comparison.prompts for seed in comparison.seeds]


def list_rows(report: Report) -> list[list[Any]]:
    """One row for each image, the best first."""
    best = sorted(report.scores, key=lambda score: -score.psnr)
    return [[s.recipe, s.prompt, s.seed, round(s.psnr, 2), round(s.ssim, 4)] for s in best]


def summarize(report: Report) -> str:
    """One row for each recipe: means, size, measured time, what computed it, what fell back,
    what was quantized.
    """
    head = (
        "| | PSNR | SSIM | MB | seconds | speed | computed | what is quantized |\n"
        + 8 * "|---"
        + "|\n"
    )
    rows = []
    for model_name, size in report.bytes.items():
        scores = [score for score in report.scores if score.recipe == model_name]
        psnr = f"{fmean([s.psnr for s in scores]):.2f} dB" if scores else "–"
        ssim = f"{fmean([s.ssim for s in scores]):.4f}" if scores else "–"
        seconds = report.seconds.get(model_name, 0)
        fast = format_speed(seconds, report.seconds.get(FLOAT_NAME, 0))
        ran = report.coverage.get(model_name, Coverage(quantized="nothing", engine="float"))
        cells = [
            model_name,
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
    note = f"\n\nSeconds are measured, of sampling all images; speed is against the float model.{ran_on}"
    note += f" Noise floor, float images with another seed: {floor['psnr']:.2f} dB, SSIM {floor['ssim']:.3f}."
    if report.samples < 10:
        note += f" {report.samples} image{'s' if report.samples > 1 else ''}: an impression, no measurement."
    return (
        head
        + "\n".join(rows)
        + note
        + "".join(f"\n\n{html.escape(warning)}" for warning in report.warnings)
    )
