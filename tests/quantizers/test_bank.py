import random

import numpy as np
import pytest
import torch

from dmq.errors import DmqError
from dmq.numerics.affine import fake_quantize
from dmq.quantizers.bank import ActivationBank, Clock
from dmq.results import ActivationQParams, Site


TIMESTEPS = (901.0, 701.0, 501.0, 301.0, 101.0)
SLOT = [0, 0, 1, 2, 1]
BITS = [4, 8, 16]


def clock(unknown_timestep="error"):
    return Clock(TIMESTEPS, unknown_timestep, lambda args, kwargs: args[0])


def bank(axis=None, channels=5):
    shape = (3,) if axis is None else (3, channels)
    rng = np.random.default_rng(0)
    zero = np.stack([rng.integers(0, 2**bits, shape[1:]) for bits in BITS])
    return ActivationQParams(
        site=Site(name="a", point="input"),
        bits=np.array(BITS, np.uint8),
        axis=axis,
        zero=zero.astype(np.int32),
        scale=rng.uniform(0.01, 0.4, shape).astype(np.float32),
        slot=np.array(SLOT, np.int16),
    )


def values(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def expected(x, made, i, view=()):
    k = SLOT[i]
    scale, zero = (
        torch.tensor(y[k]).reshape(view) for y in (made.scale, made.zero.astype(np.float32))
    )
    return fake_quantize(x, scale, zero, BITS[k])


def test_every_step_uses_the_grid_of_its_slot_in_whatever_order_it_comes():
    x, made, time = values(4, 30), bank(), clock()
    module = ActivationBank(made, time)
    order = [0, 4, 4, 1, 3, 0, 2, 2, 4]  # shuffled, repeated, skipped
    random.Random(0).shuffle(order)
    for i in order:
        time.set(TIMESTEPS[i])
        assert torch.equal(module(x), expected(x, made, i))
        assert torch.equal(module(x), expected(x, made, i))  # a second call at the same step


def test_a_guided_batch_equals_its_two_halves():
    x, module = values(6, 5, 4, 4), ActivationBank(bank(axis=1), time := clock())
    time.set(501)
    assert torch.equal(module(x), torch.cat([module(half) for half in x.chunk(2)]))


@pytest.mark.parametrize(
    ("shape", "axis", "view"),
    [((2, 5, 4, 4), 1, (5, 1, 1)), ((2, 7, 5), -1, (5,)), ((2, 5), -1, (5,))],
    ids=str,
)
def test_channels_have_their_own_grids(shape, axis, view):
    x, made, time = values(*shape), bank(axis), clock()
    module = ActivationBank(made, time)
    for i, t in enumerate(TIMESTEPS):
        time.set(t)
        assert torch.equal(module(x), expected(x, made, i, view))


def test_gradients_reach_the_input():
    module = ActivationBank(bank(), time := clock())
    time.set(301)
    x = torch.zeros(4, requires_grad=True)
    module(x).sum().backward()
    assert x.grad.tolist() == [1, 1, 1, 1]


def test_an_unknown_timestep_names_the_recorded_ones():
    with pytest.raises(DmqError, match=r"timestep 500 .*901, 701, 501, 301, 101"):
        clock().set(500)


def test_nearest_is_used_and_noted_once():
    time = clock("nearest")
    for t in (480, 501, 480, 110):
        time.set(t)
    assert time.i == 4
    assert time.notes == [
        "timestep 480 was not calibrated; used 501 instead, 21 away.",
        "timestep 110 was not calibrated; used 101 instead, 9 away.",
    ]


def test_a_part_called_alone_says_what_is_missing():
    with pytest.raises(DmqError, match="call the whole quantized model"):
        ActivationBank(bank(), clock())(values(3))


def test_tables_travel_with_the_module():
    """State has the scales and zeros, so that devices and checkpoints see them."""
    assert set(ActivationBank(bank(), clock()).state_dict()) == {"scale", "zero"}
