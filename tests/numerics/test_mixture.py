"""Mixtures of quantizers against autograd through their definition, and against the quantizers
themselves.
"""

import pytest
import torch

from dmq.numerics.affine import fake_quantize, grid, range_quantize
from dmq.numerics.devices import CACHED
from dmq.numerics.mixture import grids, mixture


GROUPS = 3
LOW, HIGH = torch.tensor([-1.0, -0.3, -2.2]), torch.tensor([0.7, 2.0, 0.0])


def values(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weighted(seed=1):
    return values(GROUPS, seed=seed).softmax(0)


@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
def test_one_grid_is_the_static_quantizer_bit_for_bit(bits, symmetric):
    x = values(4, 50)
    for g in range(GROUPS):
        low, high = LOW[g : g + 1], HIGH[g : g + 1]
        scale, zero = grid(low, high, bits, symmetric)
        made = mixture(x, torch.ones(1), grids(low, high, bits, symmetric), bits)
        assert torch.equal(made, fake_quantize(x, scale, zero, bits))


@pytest.mark.parametrize("chosen", range(GROUPS))
def test_one_hot_weights_give_that_quantizer_bit_for_bit(chosen):
    x, made = values(4, 50), grids(LOW, HIGH, 4, False)
    expected = fake_quantize(x, made.scale[chosen], made.zero[chosen], 4)
    assert torch.equal(mixture(x, torch.eye(GROUPS)[chosen], made, 4), expected)


@pytest.mark.parametrize("size", [60, CACHED], ids=["small", "in pieces"])
def test_values_and_gradients_equal_the_definition(size):
    """sum_g weights[g] * range_quantize(x, low_g, high_g), differentiated by autograd."""
    quantizers = grids(LOW, HIGH, 4, False)
    upstream, made = values(size, seed=2), {}
    for how in ("by hand", "definition"):
        x, weights = values(size).double().requires_grad_(), weighted().double().requires_grad_()
        low, high = (end.double().detach().clone().requires_grad_() for end in quantizers[:2])
        if how == "by hand":
            ends = quantizers._replace(low=low, high=high, scale=(high - low).detach() / 15)
            answer = mixture(x, weights, ends, 4)
        else:
            answer = sum(
                w * range_quantize(x, a, b, 4) for w, a, b in zip(weights, low, high, strict=True)
            )
        answer.backward(upstream.double())
        made[how] = [answer.detach(), x.grad, weights.grad, low.grad, high.grad]
    for ours, theirs in zip(*made.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6 * size**0.5)


def test_gradients_equal_the_table():
    """One value in each region of a grid from 0 to 7."""
    quantizers = grids(torch.zeros(1), torch.tensor([7.0]), 3, False)
    for at, (to_x, to_low, to_high) in {
        -1.0: (0, 1, 0),
        2.25: (1, 0.25 / 7, -0.25 / 7),
        9.0: (0, 0, 1),
    }.items():
        x = torch.tensor([at], requires_grad=True)
        low, high = (end.clone().requires_grad_() for end in quantizers[:2])
        mixture(x, torch.ones(1), quantizers._replace(low=low, high=high), 3).backward()
        assert (x.grad.item(), low.grad.item(), high.grad.item()) == pytest.approx(
            (to_x, to_low, to_high)
        )


def test_the_ends_of_a_grid_are_its_values_and_zero_is_one():
    quantizers = grids(LOW, HIGH, 5, False)
    for g in range(GROUPS):
        one = type(quantizers)(*(part[g : g + 1] for part in quantizers))
        x = torch.tensor([quantizers.low[g], 0.0, quantizers.high[g]])
        assert (
            torch.allclose(mixture(x, torch.ones(1), one, 5), x)
            and mixture(x, torch.ones(1), one, 5)[1] == 0
        )


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
def test_gradients_pass_the_rounding_of_the_zero_point(symmetric):
    low, high = LOW.clone().requires_grad_(), HIGH.clone().requires_grad_()
    made = grids(low, high, 4, symmetric)
    (made.low.sum() + 2 * made.high.sum()).backward()
    if symmetric:  # the longer side decides: codes reach 7 scales up and 8 down
        down = (-LOW > HIGH).float()
        assert torch.allclose(low.grad, down * (8 / 7 - 2))
        assert torch.allclose(high.grad, (1 - down) * (2 - 8 / 7))
    else:
        assert low.grad.tolist() == [1, 1, 1] and high.grad.tolist() == [2, 2, 2]


def test_only_x_is_kept_for_the_backward_pass():
    x, kept = values(1000).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda y: kept.append(y.numel()) or y, lambda y: y
    ):
        mixture(x, weighted(), grids(LOW, HIGH, 4, False), 4)
    assert sum(n for n in kept if n >= 1000) == 1000


def test_half_precision_keeps_its_type():
    made = mixture(values(9).half(), weighted(), grids(LOW, HIGH, 8, False), 8)
    assert made.dtype is torch.half and made.isfinite().all()
