"""One weight learned from the inputs of its layer: the way of each format that does so, and what
was found.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..capture.moments import Moments, output_error
from ..errors import DmqError
from ..numerics.threads import few_threads
from ..quantizers.codes import LowRankWeight, QuantizedWeight, WeightCodes, code_arrays, codes_from
from ..quantizers.weights import low_rank_codes, quantize_weight
from ..recipe import Activations, Gptq, LowRank, Weights
from ..results import ActivationStats
from .gptq import compensate_codes
from .smoothing import choose_smoothing, measure_smoothed_error


PLAIN_FIELDS = ("before", "after", "note", "exponent")  # what a file keeps as plain data


@dataclass(frozen=True, kw_only=True)
class LearnedWeight:
    """Codes that were learned from inputs, and what they do to the layer's output.

    Errors are squared, over the squared output of the float weight without bias, both mean over the
    tokens seen."""

    codes: WeightCodes
    before: float  # with nearest codes on the same grid, or without smoothing
    after: float
    note: str = ""
    exponent: float | None = None  # of the smoothing that was chosen; none: inputs stay as they are


def channel_inputs(stats: ActivationStats, layer: str) -> Tensor:
    """The greatest magnitude of each input channel of `layer` over all steps, float32 [C]; empty
    if never called.
    """
    s = stats.index.get((layer, "input"))
    if s is None:
        return torch.zeros(0)
    return torch.from_numpy(
        np.maximum(-stats.channel_min[s], stats.channel_max[s]).max(0).astype(np.float32)
    )


def learn_weight(
    weight: Tensor,
    spec: Weights,
    split: int,
    moments: Moments | None,
    maxima: Tensor,
    inputs: Activations | None,
) -> LearnedWeight:
    """The codes of one `weight`, learned in the way of `spec.format`.

    `maxima` [C] are the greatest magnitudes of its input channels, and `inputs` says how these are
    rounded. Without `moments`, of a layer that was not called, each weight takes its nearest code.
    Raises DmqError for a weight that is not finite."""
    with few_threads([weight, *(moments.parts if moments else ())]), torch.no_grad():
        if moments is None:
            nearest = quantize_weight(weight, spec, split)
            return LearnedWeight(
                codes=nearest, before=0.0, after=0.0, note="not called: nearest codes."
            )
        return _learn(spec.format, weight.detach(), spec, split, moments, maxima, inputs)


@singledispatch
def _learn(form: Any, *_: Any) -> LearnedWeight:
    raise TypeError(f"a weight of the format {type(form).__name__} is not learned from inputs")


@_learn.register
def _gptq(
    form: Gptq,
    weight: Tensor,
    spec: Weights,
    split: int,
    moments: Moments,
    maxima: Tensor,
    inputs: None,
) -> LearnedWeight:
    nearest = quantize_weight(weight, spec, split)
    assert isinstance(nearest, QuantizedWeight)
    rows, (scale, zero) = weight.float().flatten(1), nearest.spread()
    found, used = compensate_codes(
        rows, scale, zero, spec.bits, moments.parts, damping=form.damping, order=form.order
    )
    codes = replace(nearest, codes=found.to(nearest.codes.dtype))
    errors = (
        output_error(rows - each.dequantize().flatten(1), moments) for each in (nearest, codes)
    )
    before, after = _relative(rows, moments, *errors)
    note = (
        f"damping raised to {used:g}: its inputs span too few directions for less."
        if used > form.damping
        else ""
    )
    return LearnedWeight(codes=codes, before=before, after=after, note=note)


@_learn.register
def _learn_smoothed(
    form: LowRank,
    weight: Tensor,
    spec: Weights,
    split: int,
    moments: Moments,
    maxima: Tensor,
    inputs: Activations,
) -> LearnedWeight:
    if split:
        raise ValueError(
            "the two sides of a split weight have low ranks of their own, which are not smoothed"
        )
    whole = len(moments.parts) == len(moments.parts[0]) == 1
    moment = moments.parts[0][0] if whole else None
    quick = replace(
        spec, format=replace(form, rounds=1)
    )  # the order of the exponents hardly depends on the rounds
    rounded = inputs.bits, inputs.symmetric

    def make(factors: Tensor | None) -> LowRankWeight:
        return low_rank_codes(weight, quick, factors)

    factors, exponent = choose_smoothing(weight, make, maxima, moments, *rounded)
    plain, codes = (low_rank_codes(weight, spec, each, moment) for each in (None, factors))
    before = measure_smoothed_error(weight, plain, None, moments, *rounded)
    after = measure_smoothed_error(weight, codes, factors, moments, *rounded)
    if after >= before:
        codes, after, exponent = plain, before, None
    before, after = _relative(weight.float().flatten(1), moments, before, after)
    return LearnedWeight(codes=codes, before=before, after=after, exponent=exponent)


def _relative(rows: Tensor, moments: Moments, *errors: float) -> tuple[float, ...]:
    power = max(output_error(rows, moments), float(np.finfo(np.float32).tiny))
    return tuple(error / power for error in errors)


# --- files ----------------------------------------------------------------------------------------


def to_arrays(learned: LearnedWeight) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`learned` as numpy arrays and plain data, for a file."""
    arrays, plain = code_arrays({"weight": learned.codes})
    return arrays, {"layers": plain} | {name: getattr(learned, name) for name in PLAIN_FIELDS}


def from_arrays(arrays: Mapping[str, np.ndarray], plain: Mapping[str, Any]) -> LearnedWeight:
    """The inverse of `to_arrays`. DmqError for what another version of dmq kept."""
    if missing := [name for name in (*PLAIN_FIELDS, "layers") if name not in plain]:
        raise DmqError(
            f"the kept codes do not tell {missing[0]}: another version learned them. Learn them "
            "again."
        )
    own = {name: plain[name] for name in PLAIN_FIELDS}
    return LearnedWeight(codes=codes_from(arrays, plain["layers"])["weight"], **own)
