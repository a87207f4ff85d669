"""Scores of every choice of every layer, learned from random mixes of choices (Qua²SeDiMo), and how
far to trust them.

A mix is a label: how good the model is with it, its activations in float. Weights are made into all
choices once; a mix only exchanges them by pointer. All mixes generate the same images from the same
noises."""

import dataclasses
import threading
from collections.abc import Generator, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import engine
from ..errors import DmqError
from ..metrics.references import extract_features, load_feature_extractor, load_real_features
from ..models.generation import generate_batch
from ..models.libraries import import_libraries, load
from ..progress import Progress, progress_timer, relay, run_to_end
from ..recipe import FLOAT, Benchmark, Predictor, Recipe, WeightFormat, Weights, format_name
from ..results import Layer, PredictorResult, SensitivityTable
from ..store import learned as kept
from ..store.learned import find_tables, load_table
from .known import info
from .predictor_kept import folder_of, key_of, subject_of
from .weights_kept import needs_inputs
from .weights_learned import weight_variants


if TYPE_CHECKING:
    from torch import Tensor

    from ..allocation.sensitivity import Watched
    from ..quantizers.weights import WeightCodes

LABELS = {
    "features": "minus the logarithm of the distance of image features from the float model's",
    "noise": "minus the logarithm of the error of the noise prediction",
    "latent": "minus the logarithm of the error of the finished sample",
    "fid_float": "minus the Fréchet distance to the float model's images",
    "fid_reference": "minus the Fréchet distance to real images",
}
SETS = ("fid_float", "fid_reference")
TOGETHER = 8  # images at a time
LEAST, MOST = 1e-12, 1e12  # distances whose logarithm is taken: no mix is infinitely good or bad


@dataclasses.dataclass(frozen=True)
class Task:
    """A mix to be judged, described so that any process can do it."""

    subject: Recipe
    spec: Predictor  # as `_asked` has it
    number: int
    mix: tuple[int, ...]
    again: bool = False  # with other noises

    @property
    def name(self) -> str:
        return f"{self.number:05d}{'-again' if self.again else ''}"


def predict(
    recipe: Recipe, spec: Predictor, *, again: bool = False, scheduler: str = "", workers: int = 1
) -> Generator[Progress, None, PredictorResult]:
    """Judge random mixes of choices, learn what makes them good, and keep what was found.

    Does nothing if that is there already, unless `again`, which learns anew from the labels that
    are there. Labels are kept one by one: closed or interrupted, it goes on where it was.
    `scheduler` and `workers` are those of `engine.run`. Raises DmqError for questions that make no
    sense, before anything is generated."""
    folder = folder_of(recipe, spec)
    if folder.is_dir() and not again:
        return kept.load_predictor(folder)
    yield Progress("Load the model", 0, 1)
    import_libraries()
    from ..allocation.labels import sample_mixes
    from ..allocation.predictor import Known, learn
    from ..models.graphs import denoiser_graph

    _check(recipe, spec)
    loaded, subject = load(recipe.model), subject_of(recipe, spec)
    layers = _layers(recipe.model)
    graph = denoiser_graph(loaded.denoiser, loaded.adapter, tuple(layer.name for layer in layers))
    mixes = sample_mixes(spec.choices, len(layers), spec.configurations, spec.seed)
    labels, noisy = yield from _judged(subject, spec, mixes, scheduler, workers)
    sizes, errors = _tables(subject, spec.choices)
    known = Known(
        model=recipe.model,
        fingerprint=loaded.info.fingerprint,
        graph=graph,
        layers=layers,
        choices=spec.choices,
        bytes=sizes,
        local=errors,
        label=LABELS[spec.label],
        mixes=mixes,
        labels=labels,
        again=noisy,
    )
    work = learn(known, spec, _costs(recipe.model, spec.choices))
    at = progress_timer("Learn from the mixes")
    result = yield from relay(work, at)
    kept.save_predictor(folder_of(recipe, spec, own=True), result)
    return result


# --- what it depends on ---------------------------------------------------------------------------


def _asked(spec: Predictor) -> Predictor:
    """`spec` with defaults for all that labels do not depend on."""
    return Predictor(
        **{name: getattr(spec, name) for name in ("choices", "label", "images", "steps", "seed")}
    )


def _check(recipe: Recipe, spec: Predictor) -> None:
    from ..metrics.sets import check_count

    if spec.label in SETS:
        check_count("fid", spec.images)
    if spec.label == "fid_reference" and _real(recipe.model) is None:
        raise DmqError(
            f"there are no real images to compare {recipe.model} with; set label to 'fid_float'."
        )


@lru_cache(maxsize=4)
def _layers(model: str) -> tuple[Layer, ...]:
    """The layers that are called; others make no difference."""
    return tuple(layer for layer in load(model).info.layers if layer.macs)


def _costs(model: str, choices: tuple[WeightFormat, ...]) -> SensitivityTable | None:
    """A table of single layers' costs that knows all the choices, a measured one if there is."""
    found = [load_table(folder) for folder in find_tables(fingerprint=info(model).fingerprint)]
    found = [table for table in found if set(choices) <= set(table.choices)]
    kinds = ("measured", "estimated", "local")
    found = [table for kind in kinds for table in found if table.kind == kind]
    return found[0] if found else None


def _judged(
    subject: Recipe, spec: Predictor, mixes: np.ndarray, scheduler: str, workers: int
) -> Generator[Progress, None, tuple[np.ndarray, np.ndarray]]:
    """The labels of all mixes, and those of the first ones with other noises."""
    asked = _asked(spec)
    folder = kept.predictor_folder("labels", *key_of(subject, asked), own=True)
    tasks = [Task(subject, asked, n, tuple(mix)) for n, mix in enumerate(mixes.tolist())]
    tasks += [dataclasses.replace(task, again=True) for task in tasks[: spec.repeats]]
    missing = [task for task in tasks if kept.load_label(folder, task.name) is None]
    at = progress_timer("Judge random mixes", len(tasks) - len(missing))
    work = engine.run(
        judge,
        missing,
        kept=lambda task, label: kept.save_label(folder, task.name, label),
        scheduler=scheduler,
        workers=workers,
    )
    try:
        for done, _, _ in work:
            yield at(len(tasks) - len(missing) + done, len(tasks))
    finally:
        work.close()
    labels = np.array([kept.load_label(folder, task.name) for task in tasks])
    return labels[: len(mixes)], labels[len(mixes) :]


# --- one label: what a worker does ----------------------------------------------------------------

_one_at_a_time = threading.Lock()  # the floats of a subject are generated once


def judge(task: Task) -> float:
    """The label of one mix, the higher the better. Runs anywhere: it loads the model by name."""
    import_libraries()
    from ..allocation.sensitivity import exchanged, noise_change
    from ..models.borrow import borrow

    with _one_at_a_time:
        loaded = load(task.subject.model)
        made = _mixed(task)
        state = loaded.info.fingerprint
        if task.spec.label == "noise":
            watched = _watched(task.subject, task.spec, task.again, state)
            return _minus_log(float(np.mean(noise_change(watched, made))))
        model = borrow(loaded.denoiser)
        with exchanged(model, made):
            images, latents = _generated(task.subject, task.spec, task.again, model)
        return _label(task, images, latents, state)


def _label(task: Task, images: list[np.ndarray], latents: np.ndarray, state: str) -> float:
    from ..metrics.paired import feature_distance, relative_error
    from ..metrics.sets import Features, fid

    floats, float_latents = _floats(task.subject, task.spec, task.again, state)
    if task.spec.label == "latent":
        with np.errstate(invalid="ignore", over="ignore"):
            return _minus_log(float(np.mean(relative_error(latents, float_latents))))
    own = extract_features(load_feature_extractor(Benchmark.features), images)
    if task.spec.label == "features":
        return _minus_log(float(np.mean(feature_distance(own, floats))))
    others = floats if task.spec.label == "fid_float" else _real(task.subject.model)
    return -float(fid(Features(own), Features(others)))


def _minus_log(distance: float) -> float:
    return -float(np.log(np.clip(np.nan_to_num(distance, nan=MOST, posinf=MOST), LEAST, MOST)))


def _real(model: str) -> np.ndarray | None:
    found = load_real_features(Benchmark(), model, load_feature_extractor(Benchmark.features))
    return found[0] if found else None


def _jobs(subject: Recipe, spec: Predictor, again: bool) -> list[tuple[str, int]]:
    """Prompt and seed of each image; the same prompts with other seeds if `again`."""
    from ..capture.activations import calibration_images

    own = dataclasses.replace(subject.calibration, samples=spec.images)
    jobs = calibration_images(load(subject.model), own)
    return [(prompt, seed + again * spec.images) for prompt, seed in jobs]


def _generated(
    subject: Recipe, spec: Predictor, again: bool, model: Any
) -> tuple[list[np.ndarray], np.ndarray]:
    loaded, jobs = load(subject.model), _jobs(subject, spec, again)
    batches = [
        run_to_end(generate_batch(loaded, model, jobs[n : n + TOGETHER], subject.sampling))
        for n in range(0, len(jobs), TOGETHER)
    ]
    return [image for one in batches for image in one.images], np.concatenate(
        [one.latents for one in batches]
    )


@lru_cache(maxsize=2)
def _floats(
    subject: Recipe, spec: Predictor, again: bool, _state: str
) -> tuple[np.ndarray, np.ndarray]:
    """Features and finished samples of the float model's images."""
    images, latents = _generated(subject, spec, again, load(subject.model).denoiser)
    return extract_features(
        load_feature_extractor(Benchmark.features), images
    ) if spec.label != "latent" else np.zeros(0), latents


@lru_cache(maxsize=2)
def _watched(subject: Recipe, spec: Predictor, again: bool, _state: str) -> "Watched":
    from ..allocation.sensitivity import watch
    from ..capture.trajectories import record_trajectory

    loaded = load(subject.model)
    prompts, seeds = zip(*_jobs(subject, spec, again), strict=True)
    trajectory, _ = record_trajectory(
        loaded, prompts=prompts, seeds=seeds, sampling=subject.sampling
    )
    return watch(loaded.denoiser, trajectory, spec.steps, spec.images)


# --- weights as all choices -----------------------------------------------------------------------


def _mixed(task: Task) -> "dict[str, Tensor]":
    """The weights of a mix by layer, those in float left out."""
    model = load(task.subject.model).denoiser
    made = _variants(task.subject, task.spec.choices, load(task.subject.model).info.fingerprint)
    chosen = zip(_layers(task.subject.model), task.mix, strict=True)
    return {
        layer.name: made[layer.name][c].dequantize().to(model.get_submodule(layer.name).weight)
        for layer, c in chosen
        if made[layer.name][c] is not None
    }


@lru_cache(maxsize=1)
def _variants(
    subject: Recipe, choices: tuple[WeightFormat, ...], _state: str
) -> "dict[str, list[WeightCodes | None]]":
    """By layer its weight as each of the choices, None for float; codes, which take less than
    what they stand for.
    """
    from ..numerics.threads import one_thread
    from ..quantizers.weights import quantize_weight

    model, names = load(subject.model).denoiser, [layer.name for layer in _layers(subject.model)]
    learned = [choice for choice in choices if needs_inputs(choice.format)]
    codes = run_to_end(weight_variants(subject, learned, names)) if learned else {}

    def made(name: str, choice: WeightFormat) -> "WeightCodes | None":
        if choice.bits == FLOAT:
            return None
        return codes.get((name, format_name(choice))) or quantize_weight(
            model.get_submodule(name).weight, Weights(bits=choice.bits, format=choice.format)
        )

    with one_thread():
        return {name: [made(name, choice) for choice in choices] for name in names}


def _tables(subject: Recipe, choices: tuple[WeightFormat, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Bytes [L, C] of each layer as each choice, and the squared error of the weight over its
    squared length.
    """
    from ..allocation.sensitivity import weight_error

    loaded = load(subject.model)
    made = _variants(subject, choices, loaded.info.fingerprint)

    def rows() -> Iterator[list[tuple[int, float]]]:
        for layer in _layers(subject.model):
            weight = loaded.denoiser.get_submodule(layer.name).weight
            yield [
                (4 * layer.num_weights, 0.0)
                if one is None
                else (one.bytes, weight_error(weight, one.dequantize().to(weight)))
                for one in made[layer.name]
            ]

    figures = np.array(list(rows()))
    return figures[..., 0].astype(np.int64), figures[..., 1]
