"""Grids that are searched or moved: UAQ's ranges, HQQ's zero points, powers of two, and a matrix
in two parts.
"""

import pytest
import torch

from dmq.errors import DmqError
from dmq.numerics.affine import fake_quantize, grid
from dmq.numerics.hqq import half_quadratic, shifted_codes
from dmq.numerics.low_rank import compute_factors, separate
from dmq.numerics.power_of_two import apply_shifts, power_of_two_scale, shift_codes
from dmq.numerics.ranges import power_search, round_grid
from dmq.numerics.tables import round_scale, round_table


def draws(rows=12, n=64, shift=0.0):
    return torch.randn(rows, n, generator=torch.Generator().manual_seed(0)) ** 3 + shift


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shift", [0.0, 5.0], ids=["around zero", "above zero"])
def test_a_searched_range_is_the_best_of_all_that_are_tried(bits, shift):
    rows = draws(shift=shift)
    low, high = rows.aminmax(dim=1)
    errors = []
    for part in range(10):
        scale, zero = grid(low * (1 - part / 10), high * (1 - part / 10), bits, symmetric=False)
        made = fake_quantize(rows, scale[:, None], zero[:, None], bits)
        errors.append((made - rows).abs().pow(2.4).mean(1))
    scale, zero = power_search(rows, bits)
    found = (fake_quantize(rows, scale[:, None], zero[:, None], bits) - rows).abs().pow(2.4).mean(1)
    assert torch.equal(found, torch.stack(errors).amin(0))
    assert (found <= errors[0]).all() and (bits > 3 or (found < errors[0]).any())


def test_scales_in_half_precision_are_those_that_codes_are_made_with():
    rows = draws()
    scale, zero = power_search(rows, 4, table=16)
    assert torch.equal(scale, scale.half().float()) and torch.equal(zero, zero.round())
    assert (zero >= 0).all() and (zero <= 15).all()
    plain = round_grid(*rows.aminmax(dim=1), 4, 16)
    errors = [
        (fake_quantize(rows, s[:, None], z[:, None], 4) - rows).abs().pow(2.4).mean(1)
        for s, z in ((scale, zero), plain)
    ]
    assert (errors[0] <= errors[1]).all()


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("shift", [0.0, 5.0, 1e6], ids=["around zero", "above zero", "far"])
def test_moved_zero_points_are_never_worse_than_the_plain_grid(bits, shift):
    """In mean |x - x_hat| of each row, against a grid that has 0.0 and one that need not have it
    (neighbours, 3).
    """
    rows = draws(shift=shift)
    scale, zero = (x[:, None] for x in half_quadratic(rows, bits, 20))
    found = ((shifted_codes(rows, scale, zero, bits) - zero) * scale - rows).abs().mean(1)
    low, high = (end[:, None] for end in rows.aminmax(dim=1))
    with_zero = fake_quantize(rows, *grid(low, high, bits, symmetric=False), bits)
    step = (high - low) / (2**bits - 1)
    without = ((rows - low) / step).round() * step + low
    assert (found <= (with_zero - rows).abs().mean(1) * (1 + 1e-5)).all()
    assert shift == 1e6 or (found <= (without - rows).abs().mean(1) * (1 + 1e-4)).all()
    assert shift or (found < (without - rows).abs().mean(1)).any()


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 10])
def test_codes_of_powers_of_two_are_those_of_the_nearest_value(bits):
    rows = torch.cat([draws(2, 50), torch.zeros(2, 3)], 1)
    scale = torch.tensor([[1.0], [0.3]])
    levels = torch.arange(2 ** (bits - 1) - 1)
    positive = scale * 2.0**-levels
    values = torch.cat([-positive, torch.zeros(2, 1), positive], 1)
    wanted = (rows[:, :, None] - values[:, None, :]).abs().amin(2)
    codes = shift_codes(rows, scale, bits)
    assert torch.allclose((apply_shifts(codes, scale, bits) - rows).abs(), wanted)
    assert codes.min() == 0 and codes.max() <= 2**bits - 1 and not (codes == 2 ** (bits - 1)).any()


def test_the_scale_of_powers_of_two_is_better_than_the_largest_value():
    rows = draws()

    def error(scale):
        return (apply_shifts(shift_codes(rows, scale, 4), scale, 4) - rows).square().sum(1)

    most = rows.abs().amax(1, keepdim=True)
    found = power_of_two_scale(rows, 4)[:, None]
    assert (error(found) <= error(most)).all() and error(found).sum() < 0.9 * error(most).sum()
    best = torch.stack([error(most * 2 ** (-n / 200)) for n in range(-100, 401)]).amin(0)
    assert error(found).sum() <= 1.02 * best.sum()


@pytest.mark.parametrize("shape", [(20, 30), (600, 560)], ids=["exact", "randomised"])
def test_factors_are_nearly_the_best_ones(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrix += 3 * matrix[:, :1] @ matrix[:1]
    values = torch.linalg.svdvals(matrix)
    for rank in (0, 1, 8):
        left, right = compute_factors(matrix, rank)
        assert left.shape == (shape[0], rank) and right.shape == (rank, shape[1])
        assert (matrix - left @ right).norm() <= 1.01 * values[rank:].norm() + 1e-4


def test_factors_do_not_depend_on_the_state_of_the_random_numbers_nor_change_it():
    matrix = torch.randn(600, 560, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = compute_factors(matrix, 4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert all(torch.equal(a, b) for a, b in zip(first, compute_factors(matrix, 4), strict=True))


def test_of_all_rounds_the_one_with_the_least_error_is_taken():
    matrix = draws(16, 24)

    def rounded(x):
        return (x * 2).round() / 2

    def error(x):
        return x.square().sum()

    def of(rounds):
        left, right = separate(matrix, 4, rounds, rounded, error)
        product = left.float() @ right.float()
        return float(error(matrix - product - rounded(matrix - product)))

    errors = [of(rounds) for rounds in range(1, 10)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]


def test_factors_of_full_rank_leave_nothing():
    matrix = draws(6, 9)
    left, right = separate(matrix, 6, 1, torch.zeros_like, lambda wrong: wrong.square().sum())
    assert (left.float() @ right.float() - matrix).abs().max() < 2e-3 * matrix.abs().max()


def test_tables_hold_what_is_used():
    assert torch.equal(round_table(torch.tensor([0.1, 2.0]), 32), torch.tensor([0.1, 2.0]))
    assert torch.equal(
        round_scale(torch.tensor([0.0, 1e-9, 0.5]), 16), torch.tensor([2.0**-24, 2.0**-24, 0.5])
    )
    with pytest.raises(
        DmqError, match="1e\\+05 is above 65504, too large for tables of 16 bits; set table to 32"
    ):
        round_table(torch.tensor([1.0, -1e5]), 16)
