"""A part of a table of costs: what a worker does."""

import dataclasses
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ..metrics.references import load_scorer
from ..models.generation import generate_batch
from ..models.libraries import import_libraries, load
from ..models.work_plan import get_placement
from ..progress import Progress, run_to_end
from ..recipe import FLOAT, Recipe, Sensitivity, WeightFormat, format_name
from ..results import Layer
from ..store.artifact import store
from .calls import denoiser_calls
from .cost_changes import format_of, learn_variants, load_changes, splits_of, state_of
from .of_recipe import ask_model


if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..allocation.sensitivity import Watched


@dataclass(frozen=True)
class Part:
    """A part of a table: some layers, each made into some choices; by gradients, at one of the
    steps looked at.
    """

    subject: Recipe  # the model with float weights that they are compared with
    ask: Sensitivity
    layers: tuple[str, ...]
    choices: tuple[WeightFormat, ...]
    step: int | None = None  # position among those that are looked at
    workers: int = 1  # that share the memory of a machine

    @property
    def name(self) -> str:
        """That of the folder in which the finished part is kept."""
        several = f"+{len(self.layers) - 1}" if len(self.layers) > 1 else ""
        which = "" if self.step is None else f"--step {self.step}"
        label = f"--{format_name(self.choices[0])}" if len(self.choices) == 1 else ""
        return f"{self.layers[0]}{several}{label}{which}"


def called_layers(model: str) -> tuple[Layer, ...]:
    """The layers of `model` that are called; others make no difference."""
    return tuple(layer for layer in load(model).info.layers if layer.macs)


def uncalled_layers(model: str) -> list[str]:
    """The names of the others."""
    return [layer.name for layer in load(model).info.layers if not layer.macs]


_one_at_a_time = threading.Lock()  # weights are exchanged in a model that all parts share
_watched: dict[tuple, "Watched"] = {}  # the last ones, by what they depend on


def evaluate(part: Part) -> dict[str, np.ndarray]:
    """A part of a table: `values` [layers, choices, T, samples], see `allocation.sensitivity`, and
    `local` errors.

    Runs anywhere: it loads the model by name, and generates or learns what is not in its run folder.
    """
    import_libraries()
    from ..allocation.sensitivity import local_changes, probe_changes, weight_error

    ask, steps = part.ask, [] if part.step is None else [part.step]
    with _one_at_a_time:
        if ask.how != "measure":
            watched, (deltas, local) = (
                run_to_end(watch_calls(part.subject, ask)),
                run_to_end(load_changes(part)),
            )
            values = (
                probe_changes(watched, deltas, ask.probes, ask.seed, steps)
                if ask.how == "fisher"
                else local_changes(watched, deltas, steps)
            )
            return {"values": values, "local": local}
        (name,), (choice,) = part.layers, part.choices
        if ask.mode == "all_but":
            weight = _make_all(part.subject, choice, state_of(part.subject))[name]
        else:
            weight = _make_weights(part.subject, part.layers, part.choices)[name][0]
        float_weight = load(part.subject.model).denoiser.get_parameter(f"{name}.weight").detach()
        error = np.array([[weight_error(float_weight, weight)]])
        return {"values": _change(part, weight)[None, None], "local": error}


def _make_weights(
    subject: Recipe, layers: Sequence[str], choices: Sequence[WeightFormat]
) -> "dict[str, list[Tensor]]":
    """By layer its weight as each of the choices, in the model's precision."""
    from ..allocation.sensitivity import new_weight

    model, splits = load(subject.model).denoiser, splits_of(subject)
    codes = run_to_end(learn_variants(subject, choices, layers))
    return {
        name: [
            new_weight(
                model.get_parameter(f"{name}.weight"),
                format_of(subject, choice),
                splits.get(name, 0),
                codes.get((name, choice)),
            )
            for choice in choices
        ]
        for name in layers
    }


@lru_cache(maxsize=1)  # as large as the model; parts come choice by choice
def _make_all(subject: Recipe, choice: WeightFormat, _state: tuple) -> "dict[str, Tensor]":
    names = [layer.name for layer in called_layers(subject.model)]
    return {name: made for name, (made,) in _make_weights(subject, names, (choice,)).items()}


def _change(part: Part, weight: "Tensor") -> np.ndarray:
    """What the model loses [T, samples] by the one layer of `part`, or wins by its restoration."""
    (name,), (choice,) = part.layers, part.choices
    if part.ask.mode == "only":
        return _loss(part, {name: weight})
    state = state_of(part.subject)
    others = {
        other: made
        for other, made in _make_all(part.subject, choice, state).items()
        if other != name
    }
    with np.errstate(invalid="ignore"):  # inf - inf: that layer alone does not make it finite
        return _measure_all_lost(part.subject, part.ask, choice, state) - _loss(part, others)


@lru_cache(maxsize=1)
def _measure_all_lost(
    subject: Recipe, ask: Sensitivity, choice: WeightFormat, state: tuple
) -> np.ndarray:
    return _loss(Part(subject, ask, (), (choice,)), _make_all(subject, choice, state))


def _loss(part: Part, weights: "dict[str, Tensor]") -> np.ndarray:
    """How much worse the model is with these weights, [T, samples]."""
    from ..allocation.sensitivity import exchange_weights, noise_change
    from ..metrics.paired import relative_error

    if part.ask.measure == "noise":
        return noise_change(run_to_end(watch_calls(part.subject, part.ask)), weights)
    float_latents, float_match = _float_images(part.subject, part.ask, state_of(part.subject))
    model = _comparison(part.subject)
    with exchange_weights(model, weights):
        latents, match = _generate(part.subject, part.ask, model)
    if part.ask.measure == "text":
        return (float_match - match)[None].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        lost = relative_error(latents, float_latents)
    return np.where(np.isfinite(lost), lost, np.inf)[None]


def watch_calls(subject: Recipe, ask: Sensitivity) -> "Generator[Progress, None, Watched]":
    """The model with float weights on the recorded calls that are looked at; made once."""
    from ..allocation.sensitivity import watch

    key = subject, ask.steps, ask.images, state_of(subject), get_placement()
    if key not in _watched:
        trajectory = yield from denoiser_calls(subject, ask.images)
        blocks = load(subject.model).adapter.blocks(load(subject.model).denoiser)
        made = watch(_comparison(subject), trajectory, ask.steps, ask.images, blocks)
        while len(_watched) > 1:
            _watched.pop(next(iter(_watched)))
        _watched[key] = made
    return _watched[key]


def _comparison(subject: Recipe) -> "nn.Module":
    """A borrowed model with the weights in float, in which they may be exchanged."""
    from ..models.borrow import borrow

    plain = subject.activations.bits == FLOAT and subject.activations.attention_bits == FLOAT
    if plain and not subject.overrides:
        return borrow(load(subject.model).denoiser)
    return borrow(run_to_end(store.get(ask_model(subject))))


@lru_cache(maxsize=2)
def _float_images(
    subject: Recipe, ask: Sensitivity, _state: tuple
) -> tuple[np.ndarray, np.ndarray]:
    return _generate(subject, ask, _comparison(subject))


def _generate(
    subject: Recipe, ask: Sensitivity, model: "nn.Module"
) -> tuple[np.ndarray, np.ndarray]:
    """The finished samples [P, ...] and the matches [P] of images with their prompts, nan
    unless asked for.
    """
    from ..capture.activations import calibration_images
    from ..numerics.threads import one_thread

    loaded, own = load(subject.model), subject.calibration
    own = dataclasses.replace(own, samples=ask.images, seed=own.seed + ask.seed)
    jobs = calibration_images(loaded, own)
    generated = run_to_end(generate_batch(loaded, model, jobs, subject.sampling))
    if ask.measure != "text":
        return generated.latents, np.full(len(jobs), np.nan)
    with one_thread():
        return generated.latents, load_scorer(subject.model).match(
            generated.images, [prompt for prompt, _ in jobs]
        )
