"""Pictures that a bench measures quantized models on: drawn with the float model, then with each quantized one."""

from dataclasses import replace
from typing import Any

import numpy as np

from bench.timing.results import Row
from dmq import stages
from dmq.capture.activations import calibration_pictures
from dmq.metrics.pixel import psnr
from dmq.recipe import Recipe
from dmq.stages.progress import clocked
from dmq.stages.progressive import matcher_of
from dmq.stages.walks import Walk, latent_errors, walk


UNSEEN = 100_000  # first seed of the pictures that are measured
EQUAL = 99.0  # dB that a picture equal to the float one counts as


class Drawn:
    """The float model's walk over the pictures that everything is measured on."""

    def __init__(self, recipe: Recipe, seeds: int, pictures: int) -> None:
        self.loaded, self.sampling, self.seeds, self.pictures = (
            stages.load(recipe.model), recipe.sampling, seeds, pictures
        )  # fmt: skip
        calibration = replace(recipe.calibration, samples=seeds * pictures, seed=UNSEEN)
        self.jobs = calibration_pictures(self.loaded, calibration)
        self.matcher = matcher_of(recipe.model)
        self.floats = self.walk(self.loaded.denoiser)
        self.match = self._match(self.floats)

    def walk(self, model: Any) -> Walk:
        return stages.finish(walk(self.loaded, model, self.jobs, self.sampling, clocked("")))

    def _match(self, drawn: Walk) -> np.ndarray:
        prompts = [prompt for prompt, _ in self.jobs]
        nothing = np.full(len(prompts), np.nan)
        return self.matcher.match(drawn.pictures, prompts) if self.matcher else nothing

    def measure(self, recipe: Recipe) -> Row:
        """Figures of each picture with the quantized model of `recipe`."""
        drawn = self.walk(stages.quantize(recipe))
        near = [min(psnr(a, b), EQUAL) for a, b in zip(drawn.pictures, self.floats.pictures, strict=True)]
        made, plan = latent_errors(drawn.latents[-1], self.floats.latents[-1]), stages.plan(recipe)
        match = [None if np.isnan(x) else float(x) for x in self._match(drawn)]
        return {
            "error": made.tolist(), "psnr": near, "match": match,
            "bytes": plan.bytes, "bits": plan.mean_activation_bits, "relaxed": list(plan.relaxed),
        }  # fmt: skip

    def of_seeds(self, values: list[float]) -> np.ndarray:
        return np.array(values, float).reshape(self.seeds, self.pictures)
