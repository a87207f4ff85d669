from itertools import pairwise

import pytest
import torch

from dmq.numerics.affine import dequantize, grid, quantize
from dmq.numerics.rounding import BETA, beta_at, hard_codes, indecision, share_up, soft_codes, start


def weights(bits: int = 4):
    """A weight, its grid by rows (the narrowest of which clips), its floor, and v at its start."""
    w = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    reach = torch.linspace(0.6, 1.0, 6)[:, None]
    scale, zero = grid(
        w.amin(1, keepdim=True) * reach, w.amax(1, keepdim=True) * reach, bits, symmetric=False
    )
    return w, scale, zero, *start(w, scale)


def test_the_start_reproduces_the_weight():
    w, scale, zero, floor, v = weights()
    part = w / scale
    assert torch.allclose(share_up(v), part - part.floor(), atol=1e-6)
    soft = dequantize(soft_codes(floor, zero, 4, share_up(v)), scale, zero)
    low, high = -zero * scale, (15 - zero) * scale
    assert torch.allclose(soft, w.clamp(low, high), atol=1e-6 * float(w.abs().max()) * 4)


def test_hardening_the_start_is_rounding_to_nearest():
    """Except for weights right in the middle, of which there are none here."""
    w, scale, zero, floor, v = weights()
    assert torch.equal(hard_codes(floor, zero, 4, v), quantize(w, scale, zero, 4))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_hard_codes_are_whole_and_in_range_next_to_the_weight(bits):
    w, scale, zero, floor, _ = weights(bits)
    v = torch.randn(w.shape, generator=torch.Generator().manual_seed(1)) * 5
    codes = hard_codes(floor, zero, bits, v)
    assert torch.equal(codes, codes.round()) and codes.min() >= 0 and codes.max() <= 2**bits - 1
    inside = (codes > 0) & (codes < 2**bits - 1)
    assert ((w / scale + zero - codes).abs()[inside] < 1 + 1e-5).all()
    assert (codes - quantize(w, scale, zero, bits)).abs().max() == 1


def test_a_decided_v_is_the_same_soft_and_hard():
    w, _, zero, floor, _ = weights()
    v = torch.where(
        torch.rand(w.shape, generator=torch.Generator().manual_seed(1)) > 0.5, 9.0, -9.0
    )
    assert torch.equal(soft_codes(floor, zero, 4, share_up(v)), hard_codes(floor, zero, 4, v))
    assert indecision(share_up(v), 2.0) == 0


def test_gradients_reach_every_undecided_v():
    w, scale, zero, floor, v = weights(8)
    v.requires_grad_(True)
    soft_codes(floor, zero, 8, share_up(v)).sum().backward()
    inside = (quantize(w, scale, zero, 8) > 0) & (quantize(w, scale, zero, 8) < 255)
    assert (v.grad[inside] > 0).all()


def test_the_regulariser_counts_what_is_undecided_and_hardens_over_time():
    assert indecision(torch.full((7,), 0.5), 2.0) == 7
    v = torch.tensor([1.0])
    costs = [float(indecision(share_up(v), beta)) for beta in (20.0, 8.0, 2.0)]
    assert costs[0] > costs[1] > costs[2]
    at = [beta_at(k / 100) for k in range(101)]
    assert at[:20] == [None] * 20 and (at[20], at[100]) == BETA
    assert all(a > b for a, b in pairwise(at[20:]))


@pytest.mark.parametrize("beta", [20.0, 6.5, 2.0])
def test_gradients_by_hand_equal_those_of_autograd(beta):
    v = torch.linspace(-6, 6, 49, dtype=torch.float64, requires_grad=True)
    up = (torch.sigmoid(v) * 1.2 - 0.1).clamp(0, 1)
    value = (1 - (2 * up - 1).abs() ** beta).sum() + (up**3).sum()
    (plain,) = torch.autograd.grad(value, v)
    ours = share_up(v)
    total = indecision(ours, beta) + (ours**3).sum()
    (gradient,) = torch.autograd.grad(total, v)
    assert torch.allclose(total, value, rtol=1e-9) and torch.allclose(
        gradient, plain, rtol=1e-7, atol=1e-12
    )
