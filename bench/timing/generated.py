"""Images that a bench measures quantized models on: generated with the float model, then with each
quantized one.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from bench.timing.results import Row, interval
from dmq.capture.activations import calibration_images
from dmq.metrics.pixel import psnr
from dmq.metrics.references import load_scorer
from dmq.models import libraries
from dmq.models.trajectories import SampledTrajectory, measure_latent_errors, sample_trajectory
from dmq.progress import progress_timer, run_to_end
from dmq.recipe import Recipe
from dmq.workflow.answers import get_plan, get_simulated


UNSEEN = 100_000  # first seed of the images that are measured
EQUAL = 99.0  # dB that an image equal to the float one counts as


class GeneratedBatch:
    """The float model's walk over the images that everything is measured on."""

    def __init__(self, recipe: Recipe, seeds: int, images: int) -> None:
        self.loaded, self.sampling, self.seeds, self.images = (
            libraries.load(recipe.model),
            recipe.sampling,
            seeds,
            images,
        )
        calibration = replace(recipe.calibration, samples=seeds * images, seed=UNSEEN)
        self.jobs = calibration_images(self.loaded, calibration)
        self.scorer = load_scorer(recipe.model)
        self.floats = self.walk(self.loaded.denoiser)
        self.match = self._match(self.floats)

    def walk(self, model: Any, jobs: list[tuple[str, int]] | None = None) -> SampledTrajectory:
        return run_to_end(
            sample_trajectory(
                self.loaded, model, jobs or self.jobs, self.sampling, progress_timer("")
            )
        )

    def _match(self, generated: SampledTrajectory) -> np.ndarray:
        prompts = [prompt for prompt, _ in self.jobs]
        nothing = np.full(len(prompts), np.nan)
        return self.scorer.match(generated.images, prompts) if self.scorer else nothing

    def measure(self, recipe: Recipe) -> Row:
        """Figures of each image with the quantized model of `recipe`."""
        plan = get_plan(recipe)
        figures = {
            "bytes": plan.bytes,
            "bits": plan.mean_activation_bits,
            "relaxed": list(plan.relaxed),
        }
        return self.judge(self.walk(get_simulated(recipe))) | figures

    def judge(self, generated: SampledTrajectory) -> Row:
        """Figures of each image of a walk."""
        near = [
            min(psnr(a, b), EQUAL)
            for a, b in zip(generated.images, self.floats.images, strict=True)
        ]
        made = measure_latent_errors(generated.latents[-1], self.floats.latents[-1])
        match = [None if np.isnan(x) else float(x) for x in self._match(generated)]
        return {"error": made.tolist(), "psnr": near, "match": match}

    def of_seeds(self, values: list[float]) -> np.ndarray:
        return np.array(values, float).reshape(self.seeds, self.images)


def half(values: np.ndarray, form: str = ".1e") -> str:
    """Half of the 95 % interval of the mean of `values`, one a seed, as it is printed."""
    width = interval(values)
    return "-" if width is None or not np.isfinite(width) else format(width, form)
