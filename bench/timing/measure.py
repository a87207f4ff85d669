"""Figures of a quantized model on images that nothing was learned from, beside the float ones of
the same noise.

What a row costs is a replay and a generate of those images: float calls are recorded once for each
model, the weights' ranges searched once for each model and format, whatever the activations."""

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import nn

from dmq.capture.activations import calibration_images
from dmq.capture.replay import noise_errors
from dmq.capture.trajectories import record_trajectory
from dmq.metrics.pixel import psnr
from dmq.metrics.temporal import cosines, step_features
from dmq.models import libraries
from dmq.models.loading import sample, with_denoiser
from dmq.numerics.threads import one_thread
from dmq.progress import run_to_end
from dmq.quantizers.apply import quantize_model
from dmq.quantizers.temporal import time_embedding_only
from dmq.quantizers.weights import QuantizedWeight, quantize_weight
from dmq.recipe import FLOAT, Calibration, Sampling, Weights
from dmq.results import Plan, TemporalBlock, Trajectory

from .results import Row, interval


UNSEEN = 100_000  # first seed of the images that are measured
EQUAL = 99.0  # dB that an image equal to the float one counts as, so that means stay finite


class Bench:
    """A float model with the images that all of its quantized ones are measured on, `images`
    for each seed.
    """

    def __init__(
        self, model: str, sampling: Sampling, calibration: Calibration, seeds: int, images: int
    ) -> None:
        self.loaded = libraries.load(model)
        self.sampling, self.calibration = sampling, calibration
        self.seeds, self.images = seeds, images
        self._codes: dict[tuple[str, Weights], QuantizedWeight] = {}

    @cached_property
    def jobs(self) -> list[tuple[str, int]]:
        """Prompt and seed of every image."""
        calibration = replace(self.calibration, samples=self.seeds * self.images, seed=UNSEEN)
        return list(calibration_images(self.loaded, calibration))

    @cached_property
    def generated(self) -> tuple[Trajectory, list[np.ndarray]]:
        """The float model's denoiser calls for these images, all in one batch, and the
        images.
        """
        prompts, seeds = zip(*self.jobs, strict=True)
        return record_trajectory(self.loaded, prompts=prompts, seeds=seeds, sampling=self.sampling)

    def model(self, plan: Plan, learned: Mapping[str, QuantizedWeight]) -> nn.Module:
        """The quantized model of `plan`, with the codes of `learned` where it has any and else
        the nearest.
        """
        with one_thread(), torch.no_grad():
            for row in plan.layers:
                if (
                    row.weights.bits < FLOAT
                    and not row.dropped
                    and (row.layer.name, row.weights) not in self._codes
                ):
                    weight = self.loaded.denoiser.get_submodule(row.layer.name).weight
                    self._codes[row.layer.name, row.weights] = quantize_weight(weight, row.weights)
        nearest = {
            row.layer.name: self._codes.get((row.layer.name, row.weights)) for row in plan.layers
        }
        return quantize_model(
            self.loaded.denoiser, plan, self.loaded.adapter, nearest | dict(learned)
        )

    def measure(self, plan: Plan, learned: Mapping[str, QuantizedWeight]) -> Row:
        """Noise errors, images, bytes and temporal features of `plan` with those learned codes.

        "took" is in processor seconds, which other work on the machine does not change.
        """
        self.generated  # noqa: B018  made on the first use, which is no part of what this row costs
        begun, model = time.process_time(), self.model(plan, learned)
        figures = (
            self._noise(model)
            | self._images(model)
            | {"bytes": plan.bytes, "table_bytes": plan.table_bytes}
        )
        if block := timed_block(self.loaded.info.temporal):
            figures |= {"cosine": self.cosine(model, block), "fsc_share": fsc_share(plan, block)}
        return figures | {"took": time.process_time() - begun}

    def _noise(self, model: nn.Module) -> Row:
        """The relative noise-prediction error: mean and geometric mean over the steps, and at
        each of them.
        """
        of_seed = [
            range(seed * self.images, (seed + 1) * self.images) for seed in range(self.seeds)
        ]
        each = np.array(
            [run_to_end(noise_errors(model, self.generated[0], list(some))) for some in of_seed]
        )
        plain, typical = each.mean(1), np.exp(np.log(np.maximum(each, 1e-30)).mean(1))
        return (
            _spread("noise", plain) | _spread("typical", typical) | {"steps": _finite(each.mean(0))}
        )

    def _images(self, model: nn.Module) -> Row:
        """PSNR of the final images to the float ones of the same noise."""
        prompts, seeds = zip(*self.jobs, strict=True)
        pipe = with_denoiser(self.loaded, model)
        made = sample(pipe, self.loaded, prompts=prompts, seeds=seeds, sampling=self.sampling)
        near = [min(psnr(a, b), EQUAL) for a, b in zip(made, self.generated[1], strict=True)]
        return _spread("psnr", np.array(near).reshape(self.seeds, self.images).mean(1))

    def cosine(self, model: nn.Module, block: TemporalBlock) -> float:
        """The smallest cosine over (block, step) between the temporal features of `model` and
        the float ones.
        """
        timesteps = self.generated[0].timesteps
        with one_thread():
            pair = [
                step_features(m, self.loaded.adapter, block, timesteps, {})
                for m in (model, self.loaded.denoiser)
            ]
            return float(
                min(cosines(made, wanted).min() for made, wanted in zip(*pair, strict=True))
            )


def timed_block(block: TemporalBlock | None) -> TemporalBlock | None:
    """`block` if its features can be compared without recorded conditioning, else None."""
    return block if block is not None and block.finite else None


def fsc_share(plan: Plan, block: TemporalBlock) -> float | None:
    """Bytes of the time embedding's ranges per step as a share of the whole plan; None without such
    ranges.

    Where all activations have them, all banks count.
    """
    if plan.temporal is None or plan.temporal.spec.fsc == "none":
        return None
    if plan.temporal.spec.fsc == "all":
        return plan.table_bytes / plan.bytes
    inside = {
        row.bank.site: row.bank.bytes
        for row in plan.layers
        if row.bank and row.layer.name in block.layers
    }
    return sum(inside.values()) / plan.bytes


def alone(plan: Plan) -> Plan:
    """`plan` with everything outside of the time embedding in float, its cache included."""
    return replace(time_embedding_only(plan), temporal=plan.temporal)


def _spread(name: str, each: np.ndarray) -> Row:
    """Mean and interval of a figure over the seeds; None where it is not finite."""
    if not np.isfinite(each).all():
        return {name: None, f"{name}_interval": None}
    return {name: float(each.mean()), f"{name}_interval": interval(each)}


def _finite(values: np.ndarray) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]
