"""What layers may be made into, all of it held at once: what a pass of gradients is asked about."""

import contextlib
import dataclasses
from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DmqError
from ..models.libraries import load
from ..progress import Progress, progress_timer
from ..recipe import Recipe, Sensitivity, WeightFormat, Weights
from ..results import Layer
from ..store.artifact import store
from .model_info import get_info_for
from .of_recipe import ask_capture, ask_variants
from .questions import LayerCodeSet


if TYPE_CHECKING:
    from ..allocation.changes import Changes
    from ..quantizers.codes import WeightCodes

Made = tuple["Changes", np.ndarray]  # the changes, and the local errors [L, C] of the weights
_held: dict[tuple, Made] = {}  # the last one, which may be as large as memory allows


def state_of(subject: Recipe) -> tuple:
    """What else decides what is computed for `subject`: the weights under its model's name, and
    its capture.
    """
    return load(subject.model).info.fingerprint, store.stamp(ask_capture(subject))


def format_of(subject: Recipe, choice: WeightFormat) -> Weights:
    """How weights are made into `choice`; grids are laid as the recipe says."""
    return dataclasses.replace(subject.weights, bits=choice.bits, format=choice.format)


def splits_of(subject: Recipe) -> dict[str, int]:
    """By layer whose input channels are quantized in two parts: how many are in the first."""
    return (get_info_for(subject).splits or {}) if subject.split_shortcuts else {}


def sweeps_of(
    subject: Recipe, ask: Sensitivity, layers: Sequence[Layer], workers: int = 1
) -> list[tuple[str, ...]]:
    """The layers in as few runs as memory holds codes of; `workers` share what is free."""
    from ..allocation.changes import code_bytes, find_room, home_of, sweeps

    bits = [choice.bits for choice in ask.choices]
    device = next(load(subject.model).denoiser.parameters()).device
    home = home_of(code_bytes(sum(layer.num_weights for layer in layers), bits) * workers, device)
    return sweeps(layers, bits, find_room(home) // workers)


def load_changes(part: Any) -> Generator[Progress, None, Made]:
    """What the layers of a part of a table (`cost_part.Part`) may be made into: made, and kept
    for the next part.

    A part of other layers lets go of it first. Raises DmqError that names a layer whose weight is
    not finite."""
    key = part.subject, part.layers, part.choices, state_of(part.subject)
    if key not in _held:
        forget_changes()
        _held[key] = yield from _make_changes(part)
    return _held[key]


def learn_variants(
    subject: Recipe, choices: Sequence[WeightFormat], layers: Iterable[str]
) -> "Generator[Progress, None, dict[tuple[str, WeightFormat], WeightCodes]]":
    """By layer and choice the codes of those that are learned from inputs, learned where they are
    not there.

    Inputs are in float, as they are where the sensitivity of a layer is measured."""
    asked = ask_variants(subject, choices, layers)
    if not asked:
        return {}
    learned = yield from store.get(LayerCodeSet(questions=tuple(asked.values())))
    return {key: learned[question].codes for key, question in asked.items()}


def forget_changes() -> None:
    """Let go of what `load_changes` keeps."""
    _held.clear()


def _make_changes(part: Any) -> Generator[Progress, None, Made]:
    from ..allocation.changes import Changes, code_bytes, home_of, measure_room
    from ..allocation.sensitivity import new_codes, weight_error
    from ..numerics.threads import few_threads

    model, splits = load(part.subject.model).denoiser, splits_of(part.subject)
    known = yield from learn_variants(part.subject, part.choices, part.layers)
    weights = {name: model.get_parameter(f"{name}.weight").detach() for name in part.layers}
    device = next(iter(weights.values())).device
    size = code_bytes(
        sum(weight.numel() for weight in weights.values()), [choice.bits for choice in part.choices]
    )
    home = home_of(size * part.workers, device)
    local = np.empty((len(weights), len(part.choices)))
    codes: dict[str, list] = {}
    at = progress_timer("Make weights into choices")
    for n, (name, weight) in enumerate(weights.items()):
        codes[name] = []
        for c, choice in enumerate(part.choices):
            made = known.get((name, choice))
            with _name_errors(name), few_threads([weight]):
                made = made or new_codes(
                    weight, format_of(part.subject, choice), splits.get(name, 0)
                )
                local[n, c] = weight_error(weight, made.to(device).dequantize().to(weight))
            codes[name].append(made.to(home))
        yield at(n + 1, len(weights))
    return Changes(model, codes, measure_room(device) // part.workers), local


@contextlib.contextmanager
def _name_errors(name: str) -> Any:
    try:
        yield
    except DmqError as error:
        raise DmqError(f"{name}: {error}") from None
