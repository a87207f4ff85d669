"""What the denoiser's answer loses when one layer's weight is made into something smaller:
measured, or estimated.

    measured   run the model with the other weight                                  a call for each layer and choice
    fisher     gradients g of v . eps, v ~ N(0, I): E (g . dW)^2 = |J dW|^2          a pass back for all of them,
                                                                                     each gradient gone once it is used
    local      the layer's own output, its inputs being those of the float model    a call for all of them

Each way gives values [..., T, S]: at the T steps that are looked at, S samples (images, or probes
of gradients), each a squared error over the power of what it is an error of. Their mean is the
cost, `summary` says how sure it is.

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

from ..capture.replay import images_in, repeat, rows_of
from ..errors import DmqError
from ..models.borrow import borrow
from ..models.recompute import forget_and_recompute, measure_answered, pieces, too_large
from ..numerics.devices import double
from ..numerics.threads import few_threads
from ..quantizers.codes import WeightCodes
from ..quantizers.weights import quantize_weight
from ..recipe import Weights
from ..results import SensitivityTable, Trajectory


MIN_POWER = 1e-30  # power of an answer that is zero


# --- what is looked at ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """Rows of a recorded call that are looked at."""

    call: int
    step: int  # position among the steps that are looked at
    rows: np.ndarray
    image: np.ndarray  # of each row; both halves of guidance have the same


@dataclass(frozen=True)
class Watched:
    """A model with all its weights in float, on the calls that are looked at: T steps of P
    images.
    """

    model: nn.Module
    trajectory: Trajectory
    looks: tuple[Look, ...]
    timesteps: tuple[float, ...]  # T, in sampling order
    answers: tuple[Tensor, ...]  # of each look
    power: np.ndarray  # [T, P] float64: squared length of the answers
    forgotten: tuple[
        str, ...
    ] = ()  # modules that are computed again for gradients, for want of memory


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
            raise DmqError(
                f"{name}: not all of it are finite numbers, so no cost can be told; save the model "
                "again."
            )


def watch(
    model: nn.Module, trajectory: Trajectory, steps: int, images: int, blocks: Sequence[str] = ()
) -> Watched:
    """`model` on `steps` steps of the trajectory, evenly spread, and its first `images` images.

    Gradients through its `blocks` are taken piece by piece if memory is short. Raises DmqError if
    the trajectory has fewer images, or if the model's numbers are not all finite."""
    check_finite(model)
    chosen, looks = steps_between(len(trajectory.timesteps), steps), []
    for at, i in enumerate(chosen):
        taken = 0
        for n in np.flatnonzero(trajectory.step == i).tolist():
            here = images_in(trajectory, n)
            rows = rows_of(trajectory, n, range(min(here, max(0, images - taken))))
            if len(rows):
                looks.append(Look(n, at, rows, rows % here + taken))
            taken += here
        if taken < images:
            raise DmqError(
                f"only {taken} images were recorded, {images} are to be looked at; record more."
            )
    quantized_model, power = borrow(model), np.zeros((len(chosen), images))
    answers, most = [], 0
    with few_threads(quantized_model.parameters()), torch.no_grad():
        for look in looks:
            with measure_answered(quantized_model) as count:
                answers.append(repeat(quantized_model, trajectory, look.call, look.rows))
            most = max(most, count.bytes)
    for look, answer in zip(looks, answers, strict=True):
        np.add.at(power[look.step], look.image, _squares(answer))
    timesteps = tuple(trajectory.timesteps[i] for i in chosen)
    forgotten = (
        pieces(quantized_model, blocks) if looks and too_large(most, answers[0].device) else ()
    )
    return Watched(
        quantized_model, trajectory, tuple(looks), timesteps, tuple(answers), power, forgotten
    )


def new_weight(
    weight: Tensor, spec: Weights, split: int = 0, codes: WeightCodes | None = None
) -> Tensor:
    """What a layer computes with in place of `weight`: made by `spec`, or what learned `codes`
    stand for.
    """
    with few_threads([weight]), torch.no_grad():
        return (codes or new_codes(weight, spec, split)).dequantize().to(weight)


def new_codes(weight: Tensor, spec: Weights, split: int = 0) -> WeightCodes:
    """`quantize_weight`, by the threads that its size is worth."""
    with few_threads([weight]), torch.no_grad():
        return quantize_weight(weight, spec, split)


def weight_error(weight: Tensor, made: Tensor) -> float:
    """Squared error of a weight over its squared length.

    >>> weight_error(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0]))
    0.04
    """
    return (
        double(made - weight).square().sum() / double(weight).square().sum().clamp_min(MIN_POWER)
    ).item()


# --- measured -------------------------------------------------------------------------------------


@contextmanager
def exchange_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
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
    """How far these weights move the answers: squared distance over power, [T, P] float64; inf if
    not finite.

    The power is the mean over the images of a step, so that no faint image outweighs the
    others."""
    wrong = np.zeros_like(watched.power)
    with (
        few_threads(watched.model.parameters()),
        torch.no_grad(),
        exchange_weights(watched.model, weights),
    ):
        for look, answer in zip(watched.looks, watched.answers, strict=True):
            change = _squares(
                repeat(watched.model, watched.trajectory, look.call, look.rows) - answer
            )
            np.add.at(wrong[look.step], look.image, np.where(np.isfinite(change), change, np.inf))
    return wrong / np.maximum(watched.power.mean(1, keepdims=True), MIN_POWER)


def _squares(x: Tensor) -> np.ndarray:
    """Squared length of every row."""
    return double(x.detach()).square().flatten(1).sum(1).cpu().numpy()


# --- estimated ------------------------------------------------------------------------------------


def probe_changes(
    watched: Watched,
    deltas: Mapping[str, Tensor],
    probes: int,
    seed: int,
    steps: Sequence[int] | None = None,
) -> np.ndarray:
    """What `noise_change` is to first order, estimated from gradients for all layers and choices:
    [L, C, T, probes].

    `deltas` are by layer the changes of its weight, one behind the other: [C, *weight]. With J the
    derivative of the answers of a step with respect to a weight, v ~ N(0, I) and g = J^T v, (g .
    dW)^2 has the mean |J dW|^2: so each value is an unbiased estimate of the change to first order,
    and follows chi^2 with one degree of freedom about it. The values of a probe share v, so costs
    that are compared err together. What the spread of the probes does not show is the difference
    between images and what goes beyond first order.

    T are the positions `steps` of those that are looked at, or all; a step has the same values by
    itself. There is one pass back for each call and probe, whatever the size of the model. Not
    finite: inf."""
    steps = range(len(watched.timesteps)) if steps is None else steps
    generator = torch.Generator().manual_seed(seed)
    with (
        few_threads(watched.model.parameters()),
        torch.enable_grad(),
        _Dotted(watched.model, deltas) as dotted,
    ):
        dots = np.zeros((*dotted.shape, len(steps), probes))
        for look, like in zip(watched.looks, watched.answers, strict=True):
            directions = [
                torch.randn(like.shape, generator=generator) for _ in range(probes)
            ]  # those of a step not
            if look.step not in steps:  # asked for too, so that the others are what they always are
                continue
            at = steps.index(look.step)
            with forget_and_recompute(watched.model, watched.forgotten):
                answer = repeat(watched.model, watched.trajectory, look.call, look.rows)
                for k, v in enumerate(directions if answer.requires_grad else ()):
                    (v.to(answer) * answer).sum().backward(retain_graph=k + 1 < probes)
                    dots[:, :, at, k] += dotted.taken()
    with np.errstate(invalid="ignore", over="ignore"):
        values = dots**2 / np.maximum(watched.power.sum(1)[list(steps)], MIN_POWER)[:, None]
    return np.where(np.isfinite(values), values, np.inf)


class _Dotted:
    """While entered, the gradient of a layer's weight is multiplied with its changes as soon as it
    is there, and gone.

    So no more than one gradient is held at a time, and the changes of one layer.
    """

    def __init__(self, model: nn.Module, deltas: Mapping[str, Tensor]) -> None:
        self.deltas, self.names = deltas, tuple(deltas)
        self.rows: dict[nn.Parameter, list[int]] = {}  # a weight may be that of several layers
        for n, name in enumerate(self.names):
            self.rows.setdefault(model.get_parameter(f"{name}.weight"), []).append(n)
        self.shape = len(self.names), len(deltas[self.names[0]])
        self.found: dict[int, Tensor] = {}

    def __enter__(self) -> "_Dotted":
        self.hooks = []
        for weight in self.rows:
            weight.requires_grad_(True)
            self.hooks.append(weight.register_post_accumulate_grad_hook(self._take))
        return self

    def __exit__(self, *_: Any) -> None:
        for hook in self.hooks:
            hook.remove()
        for weight in self.rows:
            weight.grad = None
            weight.requires_grad_(False)

    def _take(self, weight: Any) -> None:
        slope, weight.grad = weight.grad.flatten().float(), None
        for n in self.rows[weight]:
            self.found[n] = self.deltas[self.names[n]].flatten(1).to(slope.device) @ slope

    def taken(self) -> np.ndarray:
        """The products [L, C] since the last time; 0 for layers that had no say in the answer."""
        made = np.zeros(self.shape)
        if self.found:
            made[list(self.found)] = torch.stack(list(self.found.values())).cpu().numpy()
        self.found = {}
        return made


# --- the layer alone ------------------------------------------------------------------------------


def local_changes(
    watched: Watched, deltas: Mapping[str, Tensor], steps: Sequence[int] | None = None
) -> np.ndarray:
    """How far each layer's own output moves, its inputs as they are: squared distance over power,
    [L, C, T, P].

    `deltas` are by layer the changes of its weight, one behind the other: [C, *weight]. Never
    called layers get 0. T are the positions `steps` of those that are looked at, or all."""
    steps = range(len(watched.timesteps)) if steps is None else steps
    choices = len(deltas[next(iter(deltas))])
    shape = len(steps), watched.power.shape[1]
    wrong, power = np.zeros((len(deltas), choices, *shape)), np.zeros((len(deltas), *shape))
    look: Look = watched.looks[0]

    def see(n: int, name: str, layer: nn.Module, args: tuple, output: Tensor) -> None:
        at = steps.index(look.step)
        np.add.at(power[n, at], look.image, _by_row(output, len(look.rows)))
        for c, delta in enumerate(deltas[name]):
            moved = _output(layer, args[0], delta.to(args[0]))
            np.add.at(wrong[n, c, at], look.image, _by_row(moved, len(look.rows)))

    hooks = [
        watched.model.get_submodule(name).register_forward_hook(partial(see, n, name))
        for n, name in enumerate(deltas)
    ]
    try:
        with few_threads(watched.model.parameters()), torch.no_grad():
            for look in watched.looks:  # the hooks read it
                if look.step in steps:
                    repeat(watched.model, watched.trajectory, look.call, look.rows)
    finally:
        for hook in hooks:
            hook.remove()
    return wrong / np.maximum(power.mean(-1), MIN_POWER)[:, None, :, None]


def _output(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    return (
        F.linear(x, weight)
        if isinstance(layer, nn.Linear)
        else layer._conv_forward(x, weight, None)
    )


def _by_row(x: Tensor, rows: int) -> np.ndarray:
    """Squared length for each row of a call; shared by all where the layer was called without a
    row for each.
    """
    if len(x) % rows:
        return np.full(rows, double(x).square().sum().item() / rows)
    return _squares(x.reshape(rows, -1))


# --- what it comes to -----------------------------------------------------------------------------


def summary(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cost [...], its standard error over the samples (nan of a single one) and cost per step [...,
    T].

    `values` are [..., T, S]; the cost is their mean.

    >>> cost, spread, per_step = summary(np.array([[1.0, 3.0], [1.0, 7.0]]))
    >>> float(cost), float(spread), per_step.tolist()
    (3.0, 2.0, [2.0, 4.0])
    """
    per_step, samples = values.mean(-1), values.shape[-1]
    each = values.mean(-2)
    with np.errstate(invalid="ignore"):  # of layers that make the answer infinite
        spread = (
            each.std(-1, ddof=1) / np.sqrt(samples)
            if samples > 1
            else np.full(each.shape[:-1], np.nan)
        )
    return per_step.mean(-1), spread, per_step


class Agreement(NamedTuple):
    """How alike two tables rank their cells: 1 in the same order, -1 in the opposite one; nan if
    one is constant.
    """

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
        table.cost[
            np.ix_(
                [table.row[name] for name in layers], [table.choices.index(one) for one in choices]
            )
        ].ravel()
        for table in (a, b)
    )
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if len(x) < 2:
        raise DmqError(
            f"{a.title!r} and {b.title!r} have {len(x)} layers and choices in common; nothing to "
            "compare."
        )
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return Agreement(float("nan"), float("nan"), len(x))
    return Agreement(float(spearmanr(x, y).statistic), float(kendalltau(x, y).statistic), len(x))
