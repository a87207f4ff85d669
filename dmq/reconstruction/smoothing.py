"""Smoothing: outliers of the inputs are moved into the weight before it is quantized (SVDQuant).

    X' = X / s,   W' = W * s,   X' W' = X W          s a number for each input channel
    s_j = max|X_j|^a / max|W_j|^(1 - a)              a = 1/2 makes max|X'_j| = max|W'_j|

The exponent a is chosen among evenly spaced ones, and no smoothing, by the squared error of the
layer's output: what the weight's error makes of the inputs, and what rounding the smoothed inputs
as they come does through the rest. Source: neighbours, "SVDQuant" (arXiv:2411.05007: a grid of
exponents, chosen by output error)."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..capture.moments import Moments, output_error
from ..numerics.devices import double
from ..quantizers.codes import LowRankWeight
from ..recipe import FLOAT


SMALLEST = 1e-5  # of a maximum: channels that are nearly silent would have factors without bound
EXPONENTS = 10  # half of the paper's, which halves what takes longest


def smoothing_factors(inputs: Tensor, weights: Tensor, exponent: float) -> Tensor:
    """s_j by the greatest magnitude of each input channel, of the inputs and of the weight. Shapes:
    [C], [C] to [C].

    >>> smoothing_factors(torch.tensor([4.0, 1.0]), torch.tensor([1.0, 4.0]), 0.5).tolist()
    [2.0, 0.5]
    """
    inputs, weights = inputs.float().clamp(min=SMALLEST), weights.float().clamp(min=SMALLEST)
    return inputs**exponent / weights ** (1 - exponent)


def channel_maxima(weight: Tensor) -> Tensor:
    """The greatest magnitude of each input channel of a weight [O, C, ...], float32 [C]."""
    return weight.detach().float().abs().transpose(0, 1).flatten(1).amax(1)


def step_error(moments: Moments, factors: Tensor | None, bits: int, symmetric: bool) -> float:
    """Mean squared rounding error of inputs / factors whose ranges are dynamic: step^2 /
    12.

    `factors` [C] or none; of a convolution in groups, those of one group. 0 where inputs are in
    float."""
    if bits == FLOAT:
        return 0.0
    low, high = moments.low, moments.high
    if factors is not None:
        wide = factors.repeat(low.shape[1] // len(factors))
        low, high = low / wide, high / wide
    low, high = low.amin(1).clamp(max=0), high.amax(1).clamp(min=0)
    steps = 2**bits - 2 if symmetric else 2**bits - 1
    width = 2 * torch.maximum(-low, high) if symmetric else high - low
    return double((width / steps).square()).mean().item() / 12


def measure_smoothed_error(
    weight: Tensor,
    codes: LowRankWeight,
    factors: Tensor | None,
    moments: Moments,
    bits: int,
    symmetric: bool,
) -> float:
    """Squared error of the output of a layer with `codes`, mean over tokens, its inputs divided by
    `factors` [C].

    `bits` are those of its inputs, whose ranges are dynamic; FLOAT: as is. Only the rest
    reads such."""
    wrong = output_error((weight.detach().float() - codes.dequantize()).flatten(1), moments)
    if bits == FLOAT:
        return wrong
    through = double(codes.rest_weight().square()).sum().item()
    return wrong + step_error(moments, factors, bits, symmetric) * through


def choose_smoothing(
    weight: Tensor,
    make: Callable[[Tensor | None], LowRankWeight],
    maxima: Tensor,
    moments: Moments,
    bits: int,
    symmetric: bool,
) -> tuple[Tensor | None, float | None]:
    """The factors [C] with which `make(factors)`, the codes of `weight`, err least, and their
    exponent.

    None twice if inputs are better left as they are. `maxima` are the greatest magnitudes of the
    input channels over all steps; in a convolution in groups, each group has the same factors.
    Otherwise as `measure_smoothed_error`."""
    maxima, own = (
        maxima.reshape(-1, weight.shape[1]).amax(0).to(weight.device),
        channel_maxima(weight),
    )
    chosen: tuple[Tensor | None, float | None] = (None, None)
    best = measure_smoothed_error(weight, make(None), None, moments, bits, symmetric)
    for exponent in (k / EXPONENTS for k in range(EXPONENTS)):
        factors = _centre(smoothing_factors(maxima, own, exponent))
        error = measure_smoothed_error(weight, make(factors), factors, moments, bits, symmetric)
        if error < best:
            best, chosen = error, (factors, exponent)
    return chosen


def _centre(factors: Tensor) -> Tensor:
    """`factors` times a number, which changes nothing, such that half precision holds them."""
    middle = (factors.amin() * factors.amax()).sqrt()
    return (factors / middle).clamp(2.0**-12, 2.0**12)
