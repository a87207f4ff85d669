import pytest
import torch

from dmq.numerics import affine
from dmq.numerics.histogram import bin_errors


BITS = (2, 3, 4, 5, 6, 7, 8, 10, 16)
EDGES = torch.tensor([-3.0, -1.5, -0.4, -0.1, 0.0, 0.03, 0.7, 0.7, 1.1, 2.9], dtype=torch.float64)


def sampled(edges, low, high, bits, symmetric, samples=8000):
    """The same by quantizing evenly spread values of every bin."""
    scale, zero = affine.grid(torch.tensor([low]), torch.tensor([high]), bits, symmetric)
    scale, zero = scale.double(), zero.double()
    spread = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples
    x = edges[:-1, None] + edges.diff()[:, None] * spread
    codes = ((x / scale).round() + zero).clamp(0, 2**bits - 1)
    error = (x - scale * (codes - zero)) ** 2
    outside = (x < -scale * zero) | (x > scale * (2**bits - 1 - zero))
    return (error * ~outside).mean(1), (error * outside).mean(1)


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    ("low", "high"),
    [(-1.0, 2.0), (-0.3, 0.9), (0.0, 1.0), (-2.0, 0.0), (-5.0, 40.0), (0.0, 0.0)],
    ids=str,
)
def test_bin_errors_equal_quantizing_many_values(low, high, bits, symmetric):
    got = bin_errors(EDGES, torch.tensor(low), torch.tensor(high), bits, symmetric)
    for part, expected in zip(got, sampled(EDGES, low, high, bits, symmetric), strict=True):
        torch.testing.assert_close(part, expected, rtol=4e-3, atol=1e-13 + (high - low) ** 2 * 1e-9)


@pytest.mark.parametrize("bits", BITS)
def test_single_precision_is_enough(bits):
    edges = torch.arange(-300, 512, dtype=torch.float64) * 2.0**-7
    low, high = torch.tensor([-2.3, -0.2]), torch.tensor([3.9, 3.1])
    weight = torch.exp(-edges[:-1].abs() * 4)
    for double, single in zip(
        bin_errors(edges, low, high, bits, False),
        bin_errors(edges.float(), low, high, bits, False),
        strict=True,
    ):
        torch.testing.assert_close(
            (single.double() * weight).sum(1), (double * weight).sum(1), rtol=1e-4, atol=0
        )


def test_each_range_may_have_its_own_bits():
    low, high = torch.tensor([-1.0, -1.0]), torch.tensor([2.0, 3.0])
    both = bin_errors(EDGES, low, high, torch.tensor([3, 8]), False)
    for k, bits in enumerate((3, 8)):
        for part, alone in zip(both, bin_errors(EDGES, low[k], high[k], bits, False), strict=True):
            torch.testing.assert_close(part[k], alone)


def test_error_never_exceeds_the_value_because_zero_is_on_the_grid():
    rounding, clipping = bin_errors(EDGES, torch.tensor(-0.3), torch.tensor(0.9), 2, False)
    a, b = EDGES[:-1], EDGES[1:]
    assert (rounding + clipping <= (a * a + a * b + b * b) / 3 + 1e-12).all()
