"""Second moments against products of unfolded inputs in double precision, on tiny real models."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dmq.capture import moments as module
from dmq.capture.activations import capture_activations
from dmq.capture.moments import Moments, in_turns, output_error, second_moments, spread_calls
from dmq.capture.trajectories import record_trajectory
from dmq.capture.watching import watch_modules
from dmq.errors import DmqError
from dmq.recipe import Calibration, Sampling
from dmq.results import Site
from tests.capture.helpers import finish, loaded


SAMPLING = Sampling(steps=3, guidance=3.0)


@pytest.fixture(scope="module")
def trajectory():
    return record_trajectory(loaded("sd"), prompts=["cat", "dog"], seeds=[3, 4], sampling=SAMPLING)[
        0
    ]


def moments_of(layer: nn.Module, *inputs: torch.Tensor, share: str = "token") -> Moments:
    made = module._Sum(layer, "layer", len(inputs), share)
    for x in inputs:
        made.add(x)
    return made.finished()


CONVS = {
    "3x3": nn.Conv2d(4, 5, 3, padding=1),
    "strided": nn.Conv2d(4, 5, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
    "circular": nn.Conv2d(4, 5, 3, padding=1, padding_mode="circular"),
    "same": nn.Conv2d(4, 5, 3, padding="same"),
    "grouped": nn.Conv2d(4, 6, 3, groups=2),
    "depthwise": nn.Conv2d(4, 4, 3, padding=1, groups=4),
    "1-D": nn.Conv1d(4, 5, 3, stride=2, padding=1),
    "3-D": nn.Conv3d(4, 5, (2, 3, 1), padding=(0, 1, 0)),
}


@pytest.mark.parametrize("layer", CONVS.values(), ids=CONVS)
def test_the_error_of_an_output_is_known_without_the_input(layer):
    """tr(E H E^T) is the mean squared output of the convolution with the weight E."""
    x = torch.randn(
        2, 4, *(6, 7, 3)[: layer.weight.ndim - 2], generator=torch.Generator().manual_seed(0)
    )
    found = moments_of(layer, x, x + 1)
    with torch.no_grad():
        plain = [
            layer._conv_forward(part, layer.weight, None).square().sum(1) for part in (x, x + 1)
        ]
    wanted = torch.cat(plain).mean().item()
    assert output_error(layer.weight.detach().flatten(1), found) == pytest.approx(wanted, rel=1e-5)
    assert found.tokens == 2 * plain[0].numel()


def test_moments_equal_those_of_unfolded_inputs_in_double_precision(trajectory):
    """Of every layer of a real model; the order of columns is that of the flattened weight."""
    model = loaded("sd")
    names = [layer.name for layer in model.info.layers]
    calls = spread_calls(trajectory, 10, 2, 2)
    (*_, last), found = finish(second_moments(model.denoiser, trajectory, calls, names))
    assert last == (3, 3) and set(found) == set(names)
    seen = {name: [] for name in names}
    sites = [Site(name=name, point="input") for name in names]
    with (
        torch.no_grad(),
        watch_modules(model.denoiser, sites, lambda site, x: seen[site.name].append(x.clone())),
    ):
        for n, rows in calls:
            module.repeat(model.denoiser, trajectory, n, rows)
    for name in names:
        layer = model.denoiser.get_submodule(name)
        if isinstance(layer, nn.Linear):
            x = torch.cat([part.reshape(-1, layer.in_features) for part in seen[name]])
        else:
            unfolded = [
                F.unfold(part, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
                for part in seen[name]
            ]
            x = torch.cat(unfolded).mT.flatten(0, 1)
        wanted = (x.double().T @ x.double() / len(x)).float()
        assert found[name].tokens == len(x)
        torch.testing.assert_close(
            found[name].parts[0][0], wanted, rtol=1e-4, atol=1e-5 * wanted.diagonal().max()
        )


def test_turns_keep_memory_within_the_bound_and_give_the_same(trajectory):
    model = loaded("sd")
    names = [layer.name for layer in model.info.layers]
    turns = in_turns(model.denoiser, names, bound=400_000)
    sizes = {name: 4 * model.denoiser.get_submodule(name).weight[0].numel() ** 2 for name in names}
    assert [name for turn in turns for name in turn] == names and len(turns) > 2
    assert all(sum(sizes[name] for name in turn) <= 400_000 or len(turn) == 1 for turn in turns)
    calls = spread_calls(trajectory, 2, 1, 1)
    _, whole = finish(second_moments(model.denoiser, trajectory, calls, names))
    _, alone = finish(second_moments(model.denoiser, trajectory, calls, turns[1]))
    assert all(torch.equal(alone[name].parts[0], whole[name].parts[0]) for name in turns[1])


def test_wide_weights_are_cut_between_channels(monkeypatch):
    layer, x = (
        nn.Conv2d(5, 3, 3),
        torch.randn(1, 5, 6, 6, generator=torch.Generator().manual_seed(0)),
    )
    whole = moments_of(layer, x).parts[0]
    monkeypatch.setattr(module, "COLUMNS", 20)
    cut = moments_of(layer, x)
    assert cut.widths == (18, 18, 9)
    for part, a in zip(cut.parts, (0, 18, 36), strict=True):
        torch.testing.assert_close(part, whole[:, a : a + part.shape[1], a : a + part.shape[1]])


def test_only_so_many_tokens_are_looked_at(monkeypatch):
    monkeypatch.setattr(module, "TOKENS", 300)
    monkeypatch.setattr(module, "CHUNK", 256)
    x = torch.randn(2, 1000, 16, generator=torch.Generator().manual_seed(0))
    some = moments_of(nn.Linear(16, 4), x[:1], x[1:])
    assert some.tokens == 300
    torch.testing.assert_close(some.parts[0][0], torch.eye(16), atol=0.35, rtol=0)


def test_what_shares_a_range(monkeypatch):
    x = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0))
    tokens = moments_of(nn.Linear(4, 2), x)
    assert torch.equal(tokens.low, tokens.high) and len(tokens.low) == module.MAX_TOKENS
    assert all((x == row).all(-1).any() for row in tokens.low)
    samples = moments_of(nn.Linear(4, 2), x, share="sample")
    assert torch.equal(samples.low, x.amin(1)) and torch.equal(samples.high, x.amax(1))
    images = moments_of(nn.Conv1d(7, 2, 1), x)
    assert torch.equal(images.low, x.amin(2)) and torch.equal(images.high, x.amax(2))
    y = torch.randn(3, 7, 2, 2, generator=torch.Generator().manual_seed(0))
    call = moments_of(nn.Conv2d(7, 2, 3, padding=1), y, share="call")
    assert torch.equal(call.low, y.amin((0, 2, 3))[None]) and torch.equal(
        call.high, y.amax((0, 2, 3))[None]
    )
    pixels = moments_of(nn.Conv2d(7, 2, 1), y, share="call")
    low, high = (end.flatten(1).mT for end in (y.amin(0), y.amax(0)))
    for a, b in zip(pixels.low, pixels.high, strict=True):
        assert ((low == a).all(-1) & (high == b).all(-1)).any()


def test_calls_are_spread_over_the_steps_and_images_take_turns(trajectory):
    def spread(*asked):
        return [(n, rows.tolist()) for n, rows in spread_calls(trajectory, *asked)]

    assert spread(2, 1, 1) == [(0, [0, 2]), (2, [0, 2])]
    assert spread(3, 2, 1) == [(0, [0, 2]), (1, [1, 3]), (2, [0, 2])]
    assert spread(9, 2, 2) == [(n, [0, 1, 2, 3]) for n in range(3)]
    calibration = Calibration(samples=3, batch=2, prompts=("cat",))
    work = capture_activations(loaded("sd"), SAMPLING, calibration, subset=40, trajectories=3)
    apart = finish(work)[
        1
    ].trajectory  # the third image has calls of its own, behind those of the first two
    found = [(n, rows.tolist()) for n, rows in spread_calls(apart, 3, 3, 2)]
    assert found == [(0, [0, 1, 2, 3]), (1, [0, 2]), (2, [1, 3]), (3 + 1, [0, 1]), (3 + 2, [0, 1])]


def test_nothing_is_left_behind_and_infinity_is_named(trajectory):
    model = loaded("sd")
    work = second_moments(
        model.denoiser, trajectory, spread_calls(trajectory, 3, 1, 1), ["conv_in"]
    )
    next(work)
    work.close()
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.denoiser.modules())
    with pytest.raises(DmqError, match="layer: its inputs in the float model are not finite"):
        moments_of(nn.Linear(2, 2), torch.tensor([[1.0, np.inf]]))
