import pytest
import torch

from dmq.numerics.affine import (
    SMALLEST_SCALE,
    dequantize,
    fake_quantize,
    grid,
    quantize,
    range_quantize,
)


BITS = (2, 3, 4, 5, 6, 7, 8, 10, 16)


@pytest.fixture(params=[False, True], ids=["asymmetric", "symmetric"])
def symmetric(request):
    return request.param


def values(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("bits", BITS)
def test_codes_fit_into_their_bits_and_zero_is_exact(bits, symmetric):
    x = 10 * values(8, 400)
    low, high = torch.linspace(-3, 0, 8)[:, None], torch.linspace(0, 5, 8)[:, None]
    scale, zero = grid(low, high, bits, symmetric)
    codes = quantize(x, scale, zero, bits)
    assert codes.min() >= 0 and codes.max() <= 2**bits - 1
    assert (codes == codes.round()).all() and (zero == zero.round()).all()
    assert (zero >= 0).all() and (zero <= 2**bits - 1).all()
    assert (fake_quantize(torch.zeros(8, 1), scale, zero, bits) == 0).all()


@pytest.mark.parametrize("bits", BITS)
def test_error_inside_the_grid_is_at_most_half_a_step(bits, symmetric):
    x = values(1000, dtype=torch.float64)
    scale, zero = grid(torch.tensor(-3.0).double(), torch.tensor(2.0).double(), bits, symmetric)
    inside = (x >= -zero * scale) & (x <= (2**bits - 1 - zero) * scale)
    error = (x - fake_quantize(x, scale, zero, bits)).abs()
    assert inside.any()
    assert error[inside].max() <= scale / 2 * (1 + 1e-9)


@pytest.mark.parametrize("bits", BITS)
def test_a_range_is_covered(bits, symmetric):
    """The ends of the range are at most half a step away from the grid: nothing that was seen is
    clipped by more.
    """
    ends = torch.tensor([-3.0, 2.0], dtype=torch.float64)
    scale, zero = grid(ends[0], ends[1], bits, symmetric)
    assert ((ends - fake_quantize(ends, scale, zero, bits)).abs() <= scale / 2 * (1 + 1e-9)).all()


@pytest.mark.parametrize(("low", "high"), [(1.0, 3.0), (-3.0, -1.0)], ids=["positive", "negative"])
def test_a_range_beside_zero_is_extended_to_it(low, high, symmetric):
    ends = torch.tensor([low, high, 0.0])
    scale, zero = grid(ends[0], ends[1], 4, symmetric)
    made = fake_quantize(ends, scale, zero, 4)
    assert made[2] == 0 and 0 <= zero <= 15
    assert ((made - ends).abs() <= scale / 2 * (1 + 1e-6)).all()


@pytest.mark.parametrize("bits", BITS)
def test_quantizing_twice_changes_nothing(bits, symmetric):
    scale, zero = grid(torch.tensor(-3.0), torch.tensor(2.0), bits, symmetric)
    once = fake_quantize(values(1000), scale, zero, bits)
    assert torch.equal(fake_quantize(once, scale, zero, bits), once)


@pytest.mark.parametrize("bits", BITS)
def test_whole_numbers_in_range_are_exact(bits):
    x = torch.arange(2**bits, dtype=torch.float32) - 2 ** (bits - 1)
    scale, zero = grid(x.min(), x.max(), bits, False)
    assert torch.equal(fake_quantize(x, scale, zero, bits), x)


def test_all_ways_through_fake_quantize_are_equal():
    """Zero as a number or as a tensor, in place or under autograd: the same bits as the
    definition.
    """
    x, (scale, zero) = 3 * values(4, 300), grid(torch.tensor(-2.0), torch.tensor(3.1), 5, False)
    expected = dequantize(quantize(x, scale, zero, 5), scale, zero)
    for taken in (zero, zero.item()):
        assert torch.equal(fake_quantize(x, scale, taken, 5), expected)
        assert torch.equal(
            fake_quantize(x.clone().requires_grad_(), scale, taken, 5).detach(), expected
        )


def test_input_is_left_alone():
    x = values(50)
    before = x.clone()
    fake_quantize(x, torch.tensor(0.3), 2.0, 4)
    assert torch.equal(x, before)


def test_agrees_with_torch_up_to_ties():
    """torch multiplies by 1 / scale, which may move a value that lies between two codes;
    elsewhere both are equal.
    """
    x, (scale, zero) = 3 * values(5000), grid(torch.tensor(-2.0), torch.tensor(3.1), 8, False)
    theirs = torch.fake_quantize_per_tensor_affine(x, scale, zero.int(), 0, 255)
    ours = fake_quantize(x, scale, zero, 8)
    between = ((x / scale) % 1 - 0.5).abs() < 1e-4
    assert torch.allclose(ours[~between], theirs[~between], rtol=0, atol=1e-6)
    assert (ours - theirs).abs().max() <= scale * (1 + 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_uses_all_codes_of_16_bits(dtype):
    x = torch.tensor([-1.0, -0.5, 0.25, 1.0], dtype=dtype)
    scale, zero = grid(torch.tensor(-1.0), torch.tensor(1.0), 16, False)
    made = fake_quantize(x, scale, zero, 16)
    assert made.dtype is dtype
    assert torch.allclose(made, x, atol=2e-4)


def test_a_constant_makes_no_nan(symmetric):
    scale, zero = grid(torch.zeros(1), torch.zeros(1), 8, symmetric)
    assert scale.item() == pytest.approx(SMALLEST_SCALE)
    x = torch.tensor([0.0, 1e30, -1e30, torch.inf, -torch.inf])
    made = fake_quantize(x, scale, zero, 8)
    assert made.isfinite().all() and made[0] == 0


def test_gradient_is_one_within_the_grid_and_zero_where_it_clips():
    x = torch.tensor([-5.0, -1.2, 0.0, 0.7, 1.4, 5.0], requires_grad=True)
    fake_quantize(x, torch.tensor(0.5), 3.0, 3).sum().backward()  # reaches from -1.5 to 2
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0]


def test_gradients_of_a_learned_range_equal_the_table():
    x = (3 * values(64, 200, seed=1, dtype=torch.float64)).requires_grad_()
    low = (-values(64, 1, seed=2, dtype=torch.float64).abs() - 0.1).requires_grad_()
    high = (values(64, 1, seed=3, dtype=torch.float64).abs() + 0.1).requires_grad_()
    upstream, bits = values(64, 200, seed=4, dtype=torch.float64), 3
    made = range_quantize(x, low, high, bits)
    made.backward(upstream)
    with torch.no_grad():
        n = 2**bits - 1
        scale = (high - low) / n
        v = (x - low) / scale
        r = v.round()
        below, above = x < low, x > high
        inside = ~below & ~above
        assert torch.allclose(
            made, torch.where(below, low, torch.where(above, high, low + scale * r)), atol=1e-12
        )
        assert torch.allclose(x.grad, torch.where(inside, upstream, 0.0), rtol=1e-12, atol=0)
        to_low = torch.where(below, 1.0, torch.where(inside, (v - r) / n, 0.0))
        to_high = torch.where(above, 1.0, torch.where(inside, (r - v) / n, 0.0))
        assert torch.allclose(low.grad, (upstream * to_low).sum(1, keepdim=True), atol=1e-10)
        assert torch.allclose(high.grad, (upstream * to_high).sum(1, keepdim=True), atol=1e-10)


def test_a_learned_range_maps_its_ends_to_themselves():
    low, high = torch.tensor([-1.3, 0.0, -2.0]), torch.tensor([2.1, 0.0, 0.0])
    assert torch.allclose(range_quantize(low, low, high, 4), low, atol=1e-6)
    assert torch.allclose(range_quantize(high, low, high, 4), high, atol=1e-6)
