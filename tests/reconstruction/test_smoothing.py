"""Smoothing: what it leaves as it was, what it balances, and that what is chosen errs least."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dmq.capture.moments import Moments, _Sum
from dmq.errors import DmqError
from dmq.numerics.affine import fake_quantize, grid
from dmq.quantizers.weights import low_rank_codes, quantize_weight
from dmq.recipe import FLOAT, Activations, Gptq, LowRank, Weights
from dmq.reconstruction import from_inputs, smoothing
from dmq.reconstruction.from_inputs import from_arrays, learn_weight, to_arrays
from dmq.reconstruction.smoothing import (
    channel_maxima,
    choose_smoothing,
    measure_smoothed_error,
    smoothing_factors,
    step_error,
)


LOW = Weights(bits=4, format=LowRank(rank=4, group=16, rounds=2, table=32))


def inputs(columns: int = 24, tokens: int = 400) -> torch.Tensor:
    """Tokens with a few channels that are far greater than the others."""
    random = torch.Generator().manual_seed(0)
    size = torch.ones(columns)
    size[[3, 11]] = torch.tensor([30.0, 12.0])
    return torch.randn(tokens, columns, generator=random) * size


def moments_of(layer: nn.Module, x: torch.Tensor, share: str = "token") -> Moments:
    made = _Sum(layer, "layer", 1, share)
    made.add(x)
    return made.finished()


@pytest.fixture(scope="module")
def layer():
    torch.manual_seed(0)
    return nn.Linear(24, 20, bias=False).requires_grad_(False)


@pytest.mark.parametrize("exponent", [0.0, 0.3, 0.5, 0.95])
def test_smoothing_alone_changes_no_output(layer, exponent):
    x = inputs()
    s = smoothing_factors(x.abs().amax(0), channel_maxima(layer.weight), exponent)
    torch.testing.assert_close(
        (x / s) @ (layer.weight * s).T, layer(x), rtol=1e-5, atol=1e-5 * layer(x).abs().max()
    )


def test_one_half_balances_the_maxima(layer):
    x = inputs()
    s = smoothing_factors(x.abs().amax(0), channel_maxima(layer.weight), 0.5)
    torch.testing.assert_close((x / s).abs().amax(0), (layer.weight * s).abs().amax(0))


def test_silent_channels_have_factors_all_the_same():
    s = smoothing_factors(torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0]), 0.5)
    assert s.isfinite().all() and (s > 0).all()
    weight = torch.zeros(4, 3, 1, 2)
    weight[:, 1, 0, 1] = torch.tensor([1.0, -3.0, 2.0, 0.0])
    assert channel_maxima(weight).tolist() == [0, 3, 0]


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_error_is_that_of_the_layer_with_rounded_inputs(layer, symmetric):
    """Estimated from moments and ranges, against the layer as it will compute."""
    x = inputs(tokens=4000)
    found = moments_of(layer, x)
    found = Moments(found.parts, x, x, found.tokens)  # the ranges of all tokens instead of a few
    s = smoothing_factors(x.abs().amax(0), channel_maxima(layer.weight), 0.6)
    codes = low_rank_codes(layer.weight, LOW, s)
    for bits in (4, 6, FLOAT):
        smooth = x / s
        rounded = smooth
        if bits < FLOAT:
            low, high = (end[:, None] for end in smooth.aminmax(dim=1))
            rounded = fake_quantize(smooth, *grid(low, high, bits, symmetric), bits)
        made = smooth @ codes.low_rank_weight().T + rounded @ codes.rest_weight().T
        wanted = (made - layer(x)).square().sum(1).mean().item()
        assert measure_smoothed_error(
            layer.weight, codes, s, found, bits, symmetric
        ) == pytest.approx(wanted, rel=0.1)


def test_what_is_chosen_errs_least(layer):
    x = inputs()
    found, maxima = moments_of(layer, x), x.abs().amax(0)

    def make(factors):
        return low_rank_codes(layer.weight, LOW, factors)

    factors, exponent = choose_smoothing(layer.weight, make, maxima, found, 4, False)
    error = measure_smoothed_error(layer.weight, make(factors), factors, found, 4, False)
    plain = measure_smoothed_error(layer.weight, make(None), None, found, 4, False)
    others = []
    for other in (0.0, 0.3, 0.5, 0.9):
        s = smoothing_factors(maxima, channel_maxima(layer.weight), other)
        others.append(measure_smoothed_error(layer.weight, make(s), s, found, 4, False))
    assert error <= min(others) * (1 + 1e-3) and error < 0.5 * plain and exponent > 0


def test_even_inputs_and_weights_stay_as_they_are():
    weight, x = torch.eye(8).repeat(2, 1), torch.ones(100, 8)
    found = moments_of(nn.Linear(8, 16), x)
    chosen = choose_smoothing(
        weight, lambda s: low_rank_codes(weight, LOW, s), x.amax(0), found, 4, False
    )
    assert chosen == (None, None)


def test_factors_fit_half_precision():
    assert smoothing._centre(torch.tensor([1e-9, 1.0, 1e9])).half().isfinite().all()
    centred = smoothing._centre(torch.tensor([3e4, 6e4]))
    torch.testing.assert_close(centred[1] / centred[0], torch.tensor(2.0))


def test_a_grouped_convolution_has_the_same_factors_in_each_group():
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 6, 3, groups=2, bias=False).requires_grad_(False)
    x = torch.randn(4, 8, 6, 6) * torch.tensor([9.0, 1, 1, 1, 1, 1, 1, 20])[:, None, None]
    found, maxima = moments_of(conv, x), x.abs().amax((0, 2, 3))
    learned = learn_weight(conv.weight, LOW, 0, found, maxima, Activations(bits=4, dynamic="token"))
    s = learned.codes.smoothing.repeat(2)[:, None, None]
    assert learned.exponent is not None and learned.codes.smoothing.shape == (4,)
    inner = low_rank_codes(conv.weight, LOW, learned.codes.smoothing).rest_weight()
    assert step_error(found, learned.codes.smoothing, 4, False) < step_error(found, None, 4, False)
    made = F.conv2d(x / s, learned.codes.low_rank_weight() + inner, groups=2)
    torch.testing.assert_close(
        F.conv2d(x, learned.codes.dequantize(), groups=2), made, atol=1e-2, rtol=1e-2
    )


@pytest.mark.parametrize("spec", [LOW, Weights(bits=3, format=Gptq())], ids=["low rank", "GPTQ"])
def test_what_was_learned_is_the_same_from_its_file(layer, spec):
    x = inputs()
    rounded = Activations(bits=4, dynamic="token") if spec is LOW else None
    learned = learn_weight(layer.weight, spec, 0, moments_of(layer, x), x.abs().amax(0), rounded)
    again = from_arrays(*to_arrays(learned))
    assert learned.after < learned.before
    assert torch.equal(again.codes.dequantize(), learned.codes.dequantize())
    told = from_inputs.PLAIN_FIELDS
    assert [getattr(again, name) for name in told] == [getattr(learned, name) for name in told]
    arrays, plain = to_arrays(learned)
    with pytest.raises(DmqError, match="do not tell before"):
        from_arrays(arrays, {"layers": plain["layers"]})


def test_a_split_weight_is_compensated_over_both_sides():
    """Each side keeps its own grid, and columns of the second make up for errors of the first."""
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, 3, bias=False).requires_grad_(False)
    conv.weight[:, 4:] *= 5
    x = torch.randn(8, 6, 8, 8) + torch.randn(8, 1, 8, 8)
    spec = Weights(bits=3, format=Gptq())
    found = moments_of(conv, x)
    learned, nearest = (
        learn_weight(conv.weight, spec, 4, found, x, None),
        quantize_weight(conv.weight, spec, 4),
    )
    assert learned.codes.split == 36 and torch.equal(learned.codes.scale, nearest.scale)
    apart = [
        learn_weight(
            part, spec, 0, moments_of(nn.Conv2d(part.shape[1], 8, 3), own), own, None
        ).codes
        for part, own in ((conv.weight[:, :4], x[:, :4]), (conv.weight[:, 4:], x[:, 4:]))
    ]
    assert torch.equal(apart[0].scale, nearest.scale[:, :1])
    wrong = (
        F.conv2d(x, torch.cat([one.dequantize() for one in apart], 1) - conv.weight)
        .square()
        .sum(1)
        .mean()
        .item()
    )
    power = F.conv2d(x, conv.weight).square().sum(1).mean().item()
    assert learned.after < wrong / power < learned.before


def test_a_layer_that_was_not_called_has_its_nearest_codes(layer):
    spec = Weights(bits=3, format=Gptq())
    learned = learn_weight(layer.weight, spec, 0, None, torch.zeros(0), None)
    assert (
        torch.equal(learned.codes.codes, quantize_weight(layer.weight, spec).codes)
        and "not called" in learned.note
    )
    with pytest.raises(TypeError, match="Uniform is not learned from inputs"):
        learn_weight(layer.weight, Weights(), 0, moments_of(layer, inputs()), torch.zeros(0), None)
