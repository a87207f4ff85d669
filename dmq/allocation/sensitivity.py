"""What the denoiser's answer loses when one layer's weight is made into something smaller: measured, or estimated.

    measured   run the model with the other weight                                  a call for each layer and choice
    fisher     gradients g of v . eps, v ~ N(0, I): E (g . dW)^2 = |J dW|^2          a pass back for all of them
    local      the layer's own output, its inputs being those of the float model    a call for all of them

Each way gives values [..., T, S]: at the T steps that are looked at, S samples (pictures, or probes of gradients),
each a squared error over the power of what it is an error of. Their mean is the cost, `summary` says how sure it is.

The model is never written into: weights are exchanged by pointer, and put back.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..capture.replay import pictures_in, repeat, rows_of
from ..errors import DmqError
from ..models.borrow import borrow
from ..numerics.threads import one_thread
from ..quantizers.weights import quantize_weight
from ..recipe import Weights
from ..results import SensitivityTable, Trajectory


LEAST = 1e-30  # power of an answer that is zero


# --- what is looked at -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """Rows of a recorded call that are looked at."""

    call: int
    step: int  # position among the steps that are looked at
    rows: np.ndarray
    picture: np.ndarray  # of each row; both halves of guidance have the same


@dataclass(frozen=True)
class Watched:
    """A model with all its weights in float, on the calls that are looked at: T steps of P pictures."""

    model: nn.Module
    trajectory: Trajectory
    looks: tuple[Look, ...]
    timesteps: tuple[float, ...]  # T, in sampling order
    answers: tuple[Tensor, ...]  # of each look
    power: np.ndarray  # [T, P] float64: squared length of the answers


def steps_between(steps: int, count: int) -> list[int]:
    """At most `count` of `steps` positions, in the middle of as many equal parts.

    >>> steps_between(50, 4), steps_between(3, 8)
    ([6, 18, 31, 43], [0, 1, 2])
    """
    count = min(count, steps)
    return [(2 * k + 1) * steps // (2 * count) for k in range(count)]


def check_finite(model: nn.Module) -> None:
    """Raise DmqError that names the first parameter of `model` that is not finite."""
    for name, p in model.named_parameters():
        if not p.isfinite().all():
            raise DmqError(f"{name}: not all of it are finite numbers, so no cost can be told; save the model again.")


def watch(model: nn.Module, trajectory: Trajectory, steps: int, pictures: int) -> Watched:
    """`model` on `steps` steps of the trajectory, evenly spread, and its first `pictures` pictures.

    Raises DmqError if the trajectory has fewer pictures, or if the model's numbers are not all finite.
    """
    check_finite(model)
    chosen, looks = steps_between(len(trajectory.timesteps), steps), []
    for at, i in enumerate(chosen):
        taken = 0
        for n in np.flatnonzero(trajectory.step == i).tolist():
            here = pictures_in(trajectory, n)
            rows = rows_of(trajectory, n, range(min(here, max(0, pictures - taken))))
            if len(rows):
                looks.append(Look(n, at, rows, rows % here + taken))
            taken += here
        if taken < pictures:
            raise DmqError(f"only {taken} pictures were recorded, {pictures} are to be looked at; record more.")
    twin, power = borrow(model), np.zeros((len(chosen), pictures))
    with one_thread(), torch.no_grad():
        answers = tuple(repeat(twin, trajectory, look.call, look.rows) for look in looks)
    for look, answer in zip(looks, answers, strict=True):
        np.add.at(power, (look.step, look.picture), _squares(answer))
    timesteps = tuple(trajectory.timesteps[i] for i in chosen)
    return Watched(twin, trajectory, tuple(looks), timesteps, answers, power)


def new_weight(weight: Tensor, spec: Weights, split: int = 0, codes: Any = None) -> Tensor:
    """What a layer computes with in place of `weight`: made by `spec`, or what learned `codes` stand for."""
    with one_thread(), torch.no_grad():
        made = quantize_weight(weight, spec, split) if codes is None else codes
        return made.dequantize().to(weight)


def weight_error(weight: Tensor, made: Tensor) -> float:
    """Squared error of a weight over its squared length.

    >>> weight_error(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0]))
    0.04
    """
    return ((made - weight).double().square().sum() / weight.double().square().sum().clamp_min(LEAST)).item()


# --- measured --------------------------------------------------------------------------------------------------------


@contextmanager
def exchanged(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the layers named in `weights` have those for the duration of a block."""
    layers = {name: model.get_submodule(name) for name in weights}
    before = {name: layer.weight for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.weight = nn.Parameter(weights[name], requires_grad=False)
        yield
    finally:
        for name, layer in layers.items():
            layer.weight = before[name]


def noise_change(watched: Watched, weights: Mapping[str, Tensor]) -> np.ndarray:
    """How far these weights move the answers: squared distance over power, [T, P] float64; inf if not finite.

    The power is the mean over the pictures of a step, so that no faint picture outweighs the others.
    """
    wrong = np.zeros_like(watched.power)
    with one_thread(), torch.no_grad(), exchanged(watched.model, weights):
        for look, answer in zip(watched.looks, watched.answers, strict=True):
            change = _squares(repeat(watched.model, watched.trajectory, look.call, look.rows) - answer)
            np.add.at(wrong, (look.step, look.picture), np.where(np.isfinite(change), change, np.inf))
    return wrong / np.maximum(watched.power.mean(1, keepdims=True), LEAST)


def _squares(x: Tensor) -> np.ndarray:
    """Squared length of every row."""
    return x.detach().double().square().flatten(1).sum(1).cpu().numpy()


# --- estimated -------------------------------------------------------------------------------------------------------


def probe_changes(watched: Watched, deltas: Mapping[str, Tensor], probes: int, seed: int) -> np.ndarray:
    """What `noise_change` is to first order, estimated from gradients for all layers and choices: [L, C, T, probes].

    `deltas` are by layer the changes of its weight, one behind the other: [C, *weight]. With J the derivative of the
    answers of a step with respect to a weight, v ~ N(0, I) and g = J^T v, (g . dW)^2 has the mean |J dW|^2: so each
    value is an unbiased estimate of the change to first order, and follows chi^2 with one degree of freedom about it.
    The values of a probe share v, so costs that are compared err together. What the spread of the probes does not
    show is the difference between pictures and what goes beyond first order.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = [watched.model.get_submodule(name) for name in deltas]
    flat = [delta.flatten(1) for delta in deltas.values()]
    dots = np.zeros((len(flat), len(flat[0]), len(watched.timesteps), probes))
    with one_thread(), _differentiable(layers) as weights:
        for look in watched.looks:
            answer = repeat(watched.model, watched.trajectory, look.call, look.rows)
            for k in range(probes):
                v = torch.randn(answer.shape, generator=generator).to(answer)
                if not answer.requires_grad:
                    continue  # none of these layers has a say in it
                along, more = (v * answer).sum(), k + 1 < probes
                slopes = torch.autograd.grad(along, weights, retain_graph=more, allow_unused=True)
                for n, slope in enumerate(slopes):
                    if slope is not None:
                        dots[n, :, look.step, k] += (flat[n] @ slope.flatten()).double().cpu().numpy()
    return dots**2 / np.maximum(watched.power.sum(1), LEAST)[:, None]


@contextmanager
def _differentiable(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    weights = [layer.weight for layer in layers]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        with torch.enable_grad():
            yield weights
    finally:
        for weight in weights:
            weight.requires_grad_(False)


# --- the layer alone -------------------------------------------------------------------------------------------------


def local_changes(watched: Watched, deltas: Mapping[str, Tensor]) -> np.ndarray:
    """How far each layer's own output moves, its inputs as they are: squared distance over power, [L, C, T, P].

    `deltas` are by layer the changes of its weight, one behind the other: [C, *weight]. Never called layers get 0.
    """
    choices = len(next(iter(deltas.values())))
    wrong = np.zeros((len(deltas), choices, *watched.power.shape))
    power = np.zeros((len(deltas), *watched.power.shape))
    look: Look = watched.looks[0]

    def see(n: int, delta: Tensor, layer: nn.Module, args: tuple, output: Tensor) -> None:
        at = look.step, look.picture
        np.add.at(power[n], at, _by_row(output, len(look.rows)))
        for c in range(choices):
            moved = _output(layer, args[0], delta[c])
            np.add.at(wrong[n, c], at, _by_row(moved, len(look.rows)))

    hooks = [
        watched.model.get_submodule(name).register_forward_hook(partial(see, n, delta))
        for n, (name, delta) in enumerate(deltas.items())
    ]
    try:
        with one_thread(), torch.no_grad():
            for look in watched.looks:  # the hooks read it
                repeat(watched.model, watched.trajectory, look.call, look.rows)
    finally:
        for hook in hooks:
            hook.remove()
    return wrong / np.maximum(power.mean(-1), LEAST)[:, None, :, None]


def _output(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight) if isinstance(layer, nn.Linear) else layer._conv_forward(x, weight, None)


def _by_row(x: Tensor, rows: int) -> np.ndarray:
    """Squared length for each row of a call; shared by all where the layer was called without a row for each."""
    if len(x) % rows:
        return np.full(rows, x.double().square().sum().item() / rows)
    return _squares(x.reshape(rows, -1))


# --- what it comes to ------------------------------------------------------------------------------------------------


def summary(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cost [...], its standard error over the samples (nan of a single one) and cost per step [..., T].

    `values` are [..., T, S]; the cost is their mean.

    >>> cost, spread, per_step = summary(np.array([[1.0, 3.0], [1.0, 7.0]]))
    >>> float(cost), float(spread), per_step.tolist()
    (3.0, 2.0, [2.0, 4.0])
    """
    per_step, samples = values.mean(-1), values.shape[-1]
    each = values.mean(-2)
    with np.errstate(invalid="ignore"):  # of layers that make the answer infinite
        spread = each.std(-1, ddof=1) / np.sqrt(samples) if samples > 1 else np.full(each.shape[:-1], np.nan)
    return per_step.mean(-1), spread, per_step


class Agreement(NamedTuple):
    """How alike two tables rank their cells: 1 in the same order, -1 in the opposite one; nan if one is constant."""

    spearman: float
    kendall: float
    cells: int  # pairs of layer and choice that both know


def agreement(a: SensitivityTable, b: SensitivityTable) -> Agreement:
    """Rank correlations of the costs that both tables know, over their common layers and choices.

    Raises DmqError if there are fewer than two.
    """
    from scipy.stats import kendalltau, spearmanr

    layers = [name for name in a.row if name in b.row]
    choices = [choice for choice in a.choices if choice in b.choices]
    x, y = (
        table.cost[np.ix_([table.row[name] for name in layers], [table.choices.index(one) for one in choices])].ravel()
        for table in (a, b)
    )
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if len(x) < 2:
        raise DmqError(f"{a.title!r} and {b.title!r} have {len(x)} layers and choices in common; nothing to compare.")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return Agreement(float("nan"), float("nan"), len(x))
    return Agreement(float(spearmanr(x, y).statistic), float(kendalltau(x, y).statistic), len(x))
