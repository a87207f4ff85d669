"""How good a model is with one random mix of choices: what a worker does.

Weights are made into all choices once; a mix only exchanges them by pointer. All mixes generate the
same images from the same noises, activations in float."""

import dataclasses
import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..metrics.references import extract_features, load_feature_extractor, load_real_features
from ..models.generation import generate_batch
from ..models.libraries import import_libraries, load
from ..progress import run_to_end
from ..recipe import FLOAT, Benchmark, Predictor, Recipe, WeightFormat, Weights
from .cost_changes import learn_variants
from .cost_part import called_layers


if TYPE_CHECKING:
    from torch import Tensor

    from ..allocation.sensitivity import Watched
    from ..quantizers.codes import WeightCodes

IMAGES_AT_ONCE = 8
MIN_DISTANCE, MAX_DISTANCE = 1e-12, 1e12  # of a logarithm: no mix is infinitely good or bad


@dataclasses.dataclass(frozen=True)
class Mix:
    """A mix to be judged, described so that any process can do it."""

    subject: Recipe
    spec: Predictor  # of which only what labels depend on matters
    number: int
    choices: tuple[int, ...]  # of each layer, by position
    again: bool = False  # with other noises

    @property
    def name(self) -> str:
        return f"{self.number:05d}{'-again' if self.again else ''}"


_one_at_a_time = threading.Lock()  # the floats of a subject are generated once


def judge(mix: Mix) -> float:
    """The label of one mix, the higher the better. Runs anywhere: it loads the model by name."""
    import_libraries()
    from ..allocation.sensitivity import exchange_weights, noise_change
    from ..models.borrow import borrow

    with _one_at_a_time:
        loaded = load(mix.subject.model)
        made = _mix_weights(mix)
        state = loaded.info.fingerprint
        if mix.spec.label == "noise":
            watched = _watch(mix.subject, mix.spec, mix.again, state)
            return _minus_log(float(np.mean(noise_change(watched, made))))
        model = borrow(loaded.denoiser)
        with exchange_weights(model, made):
            images, latents = _generate_images(mix.subject, mix.spec, mix.again, model)
        return _label(mix, images, latents, state)


def _label(mix: Mix, images: list[np.ndarray], latents: np.ndarray, state: str) -> float:
    from ..metrics.paired import feature_distance, relative_error
    from ..metrics.sets import Features, fid

    floats, float_latents = _floats(mix.subject, mix.spec, mix.again, state)
    if mix.spec.label == "latent":
        with np.errstate(invalid="ignore", over="ignore"):
            return _minus_log(float(np.mean(relative_error(latents, float_latents))))
    own = extract_features(load_feature_extractor(Benchmark.features), images)
    if mix.spec.label == "features":
        return _minus_log(float(np.mean(feature_distance(own, floats))))
    others = floats if mix.spec.label == "fid_float" else load_real(mix.subject.model)
    assert others is not None  # it was checked before
    return -float(fid(Features(own), Features(others)))


def _minus_log(distance: float) -> float:
    return -float(
        np.log(
            np.clip(
                np.nan_to_num(distance, nan=MAX_DISTANCE, posinf=MAX_DISTANCE),
                MIN_DISTANCE,
                MAX_DISTANCE,
            )
        )
    )


def load_real(model: str) -> np.ndarray | None:
    found = load_real_features(model, load_feature_extractor(Benchmark.features))
    return found[0] if found else None


def _jobs(subject: Recipe, spec: Predictor, again: bool) -> list[tuple[str, int]]:
    """Prompt and seed of each image; the same prompts with other seeds if `again`."""
    from ..capture.activations import calibration_images

    own = dataclasses.replace(subject.calibration, samples=spec.images)
    jobs = calibration_images(load(subject.model), own)
    return [(prompt, seed + again * spec.images) for prompt, seed in jobs]


def _generate_images(
    subject: Recipe, spec: Predictor, again: bool, model: Any
) -> tuple[list[np.ndarray], np.ndarray]:
    loaded, jobs = load(subject.model), _jobs(subject, spec, again)
    batches = [
        run_to_end(generate_batch(loaded, model, jobs[n : n + IMAGES_AT_ONCE], subject.sampling))
        for n in range(0, len(jobs), IMAGES_AT_ONCE)
    ]
    return [image for one in batches for image in one.images], np.concatenate(
        [one.latents for one in batches]
    )


@lru_cache(maxsize=2)
def _floats(
    subject: Recipe, spec: Predictor, again: bool, _state: str
) -> tuple[np.ndarray, np.ndarray]:
    """Features and finished samples of the float model's images."""
    images, latents = _generate_images(subject, spec, again, load(subject.model).denoiser)
    return extract_features(
        load_feature_extractor(Benchmark.features), images
    ) if spec.label != "latent" else np.zeros(0), latents


@lru_cache(maxsize=2)
def _watch(subject: Recipe, spec: Predictor, again: bool, _state: str) -> "Watched":
    from ..allocation.sensitivity import watch
    from ..capture.trajectories import record_trajectory

    loaded = load(subject.model)
    prompts, seeds = zip(*_jobs(subject, spec, again), strict=True)
    trajectory, _ = record_trajectory(
        loaded, prompts=prompts, seeds=seeds, sampling=subject.sampling
    )
    return watch(loaded.denoiser, trajectory, spec.steps, spec.images)


# --- weights as all choices -----------------------------------------------------------------------


def _mix_weights(mix: Mix) -> "dict[str, Tensor]":
    """The weights of a mix by layer, those in float left out."""
    model = load(mix.subject.model).denoiser
    made = _variants(mix.subject, mix.spec.choices, load(mix.subject.model).info.fingerprint)
    weights = {}
    for layer, choice in zip(called_layers(mix.subject.model), mix.choices, strict=True):
        if (codes := made[layer.name][choice]) is not None:
            weight = model.get_parameter(f"{layer.name}.weight")
            weights[layer.name] = codes.dequantize().to(weight)
    return weights


@lru_cache(maxsize=1)
def _variants(
    subject: Recipe, choices: tuple[WeightFormat, ...], _state: str
) -> "dict[str, list[WeightCodes | None]]":
    """By layer its weight as each of the choices, None for float; codes, which take less than
    what they stand for.
    """
    from ..numerics.threads import one_thread
    from ..quantizers.weights import quantize_weight

    model, names = (
        load(subject.model).denoiser,
        [layer.name for layer in called_layers(subject.model)],
    )
    codes = run_to_end(learn_variants(subject, choices, names))

    def make(name: str, choice: WeightFormat) -> "WeightCodes | None":
        if choice.bits == FLOAT:
            return None
        return codes.get((name, choice)) or quantize_weight(
            model.get_parameter(f"{name}.weight"), Weights(bits=choice.bits, format=choice.format)
        )

    with one_thread():
        return {name: [make(name, choice) for choice in choices] for name in names}


def describe_formats(
    subject: Recipe, choices: tuple[WeightFormat, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Bytes [L, C] of each layer as each choice, and the squared error of the weight over its
    squared length.
    """
    from ..allocation.sensitivity import weight_error

    loaded = load(subject.model)
    made = _variants(subject, choices, loaded.info.fingerprint)

    def rows() -> Iterator[list[tuple[int, float]]]:
        for layer in called_layers(subject.model):
            weight = loaded.denoiser.get_parameter(f"{layer.name}.weight")
            yield [
                (4 * layer.num_weights, 0.0)
                if one is None
                else (one.bytes, weight_error(weight, one.dequantize().to(weight)))
                for one in made[layer.name]
            ]

    figures = np.array(list(rows()))
    return figures[..., 0].astype(np.int64), figures[..., 1]
