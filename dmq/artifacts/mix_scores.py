"""Scores of every choice of every layer, learned from random mixes of choices (Qua²SeDiMo), and how
far to trust them."""

import dataclasses
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import engine, jsonio
from ..errors import DmqError
from ..models.libraries import import_libraries
from ..models.libraries import load as load_model
from ..progress import Progress, progress_timer, relay
from ..recipe import Predictor, WeightFormat
from ..results import PredictorResult, SensitivityTable
from ..store import folders, learned
from ..store.artifact import compute, places
from .cost_part import called_layers
from .mix_label import Mix, describe_formats, judge, load_real
from .model_info import get_info
from .questions import MixScores


LABELS = {
    "features": "minus the logarithm of the distance of image features from the float model's",
    "noise": "minus the logarithm of the error of the noise prediction",
    "latent": "minus the logarithm of the error of the finished sample",
    "fid_float": "minus the Fréchet distance to the float model's images",
    "fid_reference": "minus the Fréchet distance to real images",
}
SETS = ("fid_float", "fid_reference")


@places.register(MixScores)
def _(question: MixScores) -> Sequence[Path]:
    return folders.answer_places("predictor", *_key(question, question.spec))


def _key(question: MixScores, spec: Predictor) -> tuple[Any, ...]:
    info = get_info(question.subject.model)
    # The model's fingerprint instead of its name; fields with their defaults are left out, so that
    # what is kept is found again when specs have more fields.
    plain = jsonio.key_data(dataclasses.replace(question.subject, model=""))
    return plain, jsonio.key_data(spec), info.fingerprint, info.scheduler


def check_question(question: MixScores) -> None:
    """Raise DmqError for what makes no sense, before anything is generated."""
    import_libraries()
    from ..metrics.sets import check_count

    model, spec = question.subject.model, question.spec
    if spec.label in SETS:
        check_count("fid", spec.images)
    if spec.label == "fid_reference" and load_real(model) is None:
        raise DmqError(
            f"there are no real images to compare {model} with; set label to 'fid_float'."
        )


@compute.register(MixScores)
def _(
    question: MixScores,
    partial: Path,
    codes: Any = None,
    *,
    scheduler: str = "",
    workers: int = 1,
) -> Generator[Progress, None, PredictorResult]:
    """Labels are kept one by one, and serve other questions too.

    `scheduler` and `workers` are those of `engine.run`; they look `codes` up."""
    check_question(question)
    yield Progress("Load the model", 0, 1)
    from ..allocation.labels import sample_mixes
    from ..allocation.predictor import Known, learn
    from ..models.graphs import denoiser_graph

    spec, model = question.spec, question.subject.model
    loaded, layers = load_model(model), called_layers(model)
    graph = denoiser_graph(loaded.denoiser, loaded.adapter, tuple(layer.name for layer in layers))
    mixes = sample_mixes(spec.choices, len(layers), spec.configurations, spec.seed)
    labels, noisy = yield from _judge_all(question, mixes, scheduler, workers)
    sizes, errors = describe_formats(question.subject, spec.choices)
    known = Known(
        model=model,
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
    work = learn(known, spec, _find_costs(model, spec.choices))
    return (yield from relay(work, progress_timer("Learn from the mixes")))


def _drop_unlabelled(spec: Predictor) -> Predictor:
    """`spec` with defaults for all that labels do not depend on."""
    return Predictor(
        **{name: getattr(spec, name) for name in ("choices", "label", "images", "steps", "seed")}
    )


def _find_costs(model: str, choices: tuple[WeightFormat, ...]) -> SensitivityTable | None:
    """A table of single layers' costs that knows all the choices, a measured one if there is."""
    folders = learned.find_tables(fingerprint=get_info(model).fingerprint)
    tables = [learned.load_table(folder) for folder in folders]
    tables = [table for table in tables if set(choices) <= set(table.choices)]
    kinds = ("measured", "estimated", "local")
    return next((table for kind in kinds for table in tables if table.kind == kind), None)


def _judge_all(
    question: MixScores, mixes: np.ndarray, scheduler: str, workers: int
) -> Generator[Progress, None, tuple[np.ndarray, np.ndarray]]:
    """The labels of all mixes, and those of the first ones with other noises."""
    spec = _drop_unlabelled(question.spec)
    folder = folders.answer_folder("labels", *_key(question, spec), own=True)
    tasks = [Mix(question.subject, spec, n, tuple(mix)) for n, mix in enumerate(mixes.tolist())]
    tasks += [dataclasses.replace(mix, again=True) for mix in tasks[: question.spec.repeats]]
    missing = [mix for mix in tasks if learned.load_label(folder, mix.name) is None]
    at = progress_timer("Judge random mixes", len(tasks) - len(missing))
    work = engine.run(
        judge,
        missing,
        kept=lambda mix, label: learned.save_label(folder, mix.name, label),
        scheduler=scheduler,
        workers=workers,
    )
    there = len(tasks) - len(missing)
    yield from relay(work, lambda done, *_: at(there + done, len(tasks)))
    labels = np.array([learned.load_label(folder, mix.name) for mix in tasks])
    return labels[: len(mixes)], labels[len(mixes) :]
