"""Pictures that a bench measures quantized models on: drawn with the float model, then with each
quantized one.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from bench.timing.results import Row, interval
from dmq import stages
from dmq.capture.activations import calibration_pictures
from dmq.metrics.pixel import psnr
from dmq.progress import progress_timer
from dmq.recipe import Recipe
from dmq.stages.reference import matcher_of
from dmq.stages.walks import Walk, latent_errors, walk


UNSEEN = 100_000  # first seed of the pictures that are measured
EQUAL = 99.0  # dB that a picture equal to the float one counts as


class Drawn:
    """The float model's walk over the pictures that everything is measured on."""

    def __init__(self, recipe: Recipe, seeds: int, pictures: int) -> None:
        self.loaded, self.sampling, self.seeds, self.pictures = (
            stages.load(recipe.model),
            recipe.sampling,
            seeds,
            pictures,
        )
        calibration = replace(recipe.calibration, samples=seeds * pictures, seed=UNSEEN)
        self.jobs = calibration_pictures(self.loaded, calibration)
        self.matcher = matcher_of(recipe.model)
        self.floats = self.walk(self.loaded.denoiser)
        self.match = self._match(self.floats)

    def walk(self, model: Any, jobs: list[tuple[str, int]] | None = None) -> Walk:
        return stages.finish(
            walk(self.loaded, model, jobs or self.jobs, self.sampling, progress_timer(""))
        )

    def _match(self, drawn: Walk) -> np.ndarray:
        prompts = [prompt for prompt, _ in self.jobs]
        nothing = np.full(len(prompts), np.nan)
        return self.matcher.match(drawn.pictures, prompts) if self.matcher else nothing

    def measure(self, recipe: Recipe) -> Row:
        """Figures of each picture with the quantized model of `recipe`."""
        plan = stages.plan(recipe)
        figures = {
            "bytes": plan.bytes,
            "bits": plan.mean_activation_bits,
            "relaxed": list(plan.relaxed),
        }
        return self.judge(self.walk(stages.quantize(recipe))) | figures

    def judge(self, drawn: Walk) -> Row:
        """Figures of each picture of a walk."""
        near = [
            min(psnr(a, b), EQUAL)
            for a, b in zip(drawn.pictures, self.floats.pictures, strict=True)
        ]
        made = latent_errors(drawn.latents[-1], self.floats.latents[-1])
        match = [None if np.isnan(x) else float(x) for x in self._match(drawn)]
        return {"error": made.tolist(), "psnr": near, "match": match}

    def of_seeds(self, values: list[float]) -> np.ndarray:
        return np.array(values, float).reshape(self.seeds, self.pictures)


def half(values: np.ndarray, form: str = ".1e") -> str:
    """Half of the 95 % interval of the mean of `values`, one a seed, as it is printed."""
    width = interval(values)
    return "-" if width is None or not np.isfinite(width) else format(width, form)
