"""GPTQ against the procedure that it is a fast form of, and against nearest rounding."""

import pytest
import torch

from dmq.capture.moments import Moments, output_error
from dmq.numerics.affine import dequantize, grid, quantize
from dmq.reconstruction import gptq
from dmq.reconstruction.gptq import compensate_codes, inverse_factor


def problem(seed: int, outputs: int = 6, columns: int = 24, tokens: int = 96, groups: int = 1):
    """A random weight with its grid for each row, and moments of correlated inputs [groups, n,
    n].
    """
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, tokens, columns, generator=random)
    x = x + 2 * torch.randn(groups, tokens, 1, generator=random)
    weight = torch.randn(outputs, columns, generator=random)
    return (
        weight,
        x.mT @ x / tokens,
        *grid(weight.amin(1, keepdim=True), weight.amax(1, keepdim=True), 3, False),
    )


def error(weight, codes, scale, zero, *moments) -> float:
    return output_error(
        weight - dequantize(codes, scale, zero), Moments(moments, weight, weight, 1)
    )


def literal(weight, scale, zero, bits, h, damping):
    """The best way to make up for each error by what is not rounded yet, one column after
    another (OBQ).
    """
    w, h = (
        weight.double().clone(),
        h.double() + damping * h.double().diagonal().mean() * torch.eye(len(h)),
    )
    codes = torch.empty_like(weight)
    for j in range(weight.shape[1]):
        codes[:, j : j + 1] = quantize(w[:, j : j + 1].float(), scale, zero, bits)
        inverse = torch.linalg.inv(h[j:, j:])
        wrong = (w[:, j] - dequantize(codes[:, j : j + 1], scale, zero)[:, 0]) / inverse[0, 0]
        w[:, j:] -= wrong[:, None] * inverse[0]
    return codes


@pytest.mark.parametrize("block", [1, 5, 128])
def test_it_is_the_literal_procedure_whatever_the_block(block, monkeypatch):
    monkeypatch.setattr(gptq, "BLOCK", block)
    weight, h, scale, zero = problem(0)
    codes, used = compensate_codes(weight, scale, zero, 3, (h,))
    assert torch.equal(codes, literal(weight, scale, zero, 3, h[0], 0.01)) and used == 0.01


@pytest.mark.parametrize("order", [False, True], ids=["from left to right", "by size"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_outputs_are_nearer_than_with_nearest_codes(bits, order):
    ratios = []
    for seed in range(8):
        weight, h, *_ = problem(seed)
        scale, zero = grid(weight.amin(1, keepdim=True), weight.amax(1, keepdim=True), bits, False)
        codes, _ = compensate_codes(weight, scale, zero, bits, (h,), order=order)
        nearest = quantize(weight, scale, zero, bits)
        assert codes.min() >= 0 and codes.max() < 2**bits and torch.equal(codes, codes.round())
        ratios.append(error(weight, codes, scale, zero, h) / error(weight, nearest, scale, zero, h))
    assert sum(ratios) / len(ratios) < 0.7


@pytest.mark.parametrize("order", [False, True], ids=["from left to right", "by size"])
def test_independent_inputs_give_the_nearest_codes(order):
    weight, _, scale, zero = problem(0)
    h = torch.diag(torch.rand(24, generator=torch.Generator().manual_seed(1)) + 0.01)[None]
    codes, _ = compensate_codes(weight, scale, zero, 3, (h,), order=order)
    assert torch.equal(codes, quantize(weight, scale, zero, 3))


def test_columns_by_size_is_the_procedure_on_sorted_columns():
    weight, h, scale, zero = problem(3)
    size = torch.linspace(0.5, 3, 24)[
        torch.randperm(24, generator=torch.Generator().manual_seed(0))
    ]
    h, scale = (
        h * size * size[:, None],
        scale * torch.linspace(0.8, 1.2, 24),
    )  # a scale for each column
    zero = zero.expand_as(scale)
    by = h[0].diagonal().argsort(descending=True)
    codes, _ = compensate_codes(weight, scale, zero, 3, (h,), order=True)
    own, _ = compensate_codes(weight[:, by], scale[:, by], zero[:, by], 3, (h[:, by][:, :, by],))
    assert torch.equal(codes[:, by], own)


def test_groups_of_a_convolution_are_by_themselves():
    weight, h, scale, zero = problem(4, outputs=6, groups=3)
    codes, _ = compensate_codes(weight, scale, zero, 3, (h,))
    for g in range(3):
        own = slice(2 * g, 2 * g + 2)
        alone, _ = compensate_codes(weight[own], scale[own], zero[own], 3, (h[g : g + 1],))
        assert torch.equal(codes[own], alone)


def test_pieces_are_moments_with_nothing_in_common():
    weight, h, scale, zero = problem(5)
    pieces = h[:, :9, :9], h[:, 9:, 9:]
    codes, _ = compensate_codes(weight, scale, zero, 3, pieces, damping=0.0)
    whole, _ = compensate_codes(
        weight, scale, zero, 3, (torch.block_diag(*(p[0] for p in pieces))[None],), damping=0
    )
    assert torch.equal(codes, whole)
    both = torch.block_diag(*(p[0] for p in pieces))[None]
    assert error(weight, codes, scale, zero, *pieces) == pytest.approx(
        error(weight, codes, scale, zero, both)
    )


def test_fewer_tokens_than_columns_are_enough():
    for seed in range(3):
        weight, h, scale, zero = problem(seed, tokens=7)
        assert torch.linalg.matrix_rank(h[0]) < 24
        codes, used = compensate_codes(weight, scale, zero, 3, (h,))
        assert error(weight, codes, scale, zero, h) < error(
            weight, quantize(weight, scale, zero, 3), scale, zero, h
        )
        assert used == 0.01


def test_damping_is_raised_as_far_as_it_must_be():
    h = torch.tensor(
        [[[1.0, 1.05], [1.05, 1.0]]]
    )  # no product of inputs, but for errors of rounding
    factor, used = inverse_factor(h, 0.0)
    assert used == pytest.approx(0.1)
    torch.testing.assert_close(
        factor[0].T @ factor[0], torch.linalg.inv(h[0] + used * torch.eye(2))
    )
    _, told = compensate_codes(
        torch.ones(1, 2), torch.ones(1, 1), torch.zeros(1, 1), 3, (h,), damping=0.0
    )
    assert told == used
    with pytest.raises(ValueError, match="are they finite"):
        inverse_factor(torch.full((1, 2, 2), float("nan")), 0.0)


def test_inputs_that_are_always_zero():
    weight, h, scale, zero = problem(6)
    h[:, [2, 7]] = 0
    h[:, :, [2, 7]] = 0
    codes, used = compensate_codes(weight, scale, zero, 3, (h,), damping=0.0)
    rest = [j for j in range(24) if j not in (2, 7)]
    alone, _ = compensate_codes(
        weight[:, rest], scale, zero, 3, (h[:, rest][:, :, rest],), damping=0.0
    )
    assert used == 0 and torch.equal(codes[:, rest], alone)
    assert not dequantize(codes, scale, zero)[:, [2, 7]].any()
    nothing, _ = compensate_codes(weight, scale, zero, 3, (torch.zeros(1, 24, 24),))
    assert not dequantize(nothing, scale, zero).any()
