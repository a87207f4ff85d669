"""The recorder by itself: half precision against double precision, and another device as far as
none is needed.
"""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dmq.capture import recorder as module
from dmq.capture.recorder import Recorder
from dmq.errors import DmqError
from dmq.models.attention import Watched
from dmq.numerics.mergeable import bin_counts, count_values
from dmq.results import Site


SITES = {
    "linear": (Site(name="a", point="input"), (4, 30, 12)),
    "conv": (Site(name="b", point="input", kind="conv"), (4, 12, 9, 7)),
    "output": (Site(name="a", point="output"), (4, 30, 12)),
    "attention": (Site(name="c", point="q", kind="attention"), (4, 3, 30, 4)),
}


def recorded(site, *tensors, subset=0):
    recorder = Recorder(subset)
    for x in tensors:
        recorder.begin(7.0, len(x))
        recorder.see(site, x)
        recorder.end()
    return recorder.finished()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("subset", [0, 50])
@pytest.mark.parametrize("kind", SITES)
def test_half_precision_is_counted_as_what_it_is(monkeypatch, kind, subset, dtype):
    """Values whose squares leave float16, in several pieces, against double precision."""
    monkeypatch.setattr(module, "chunk_size", lambda device: 400)
    site, shape = SITES[kind]
    x = (300 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    found, exact = recorded(site, x, subset=subset), x.double().numpy()
    axis = -1 if site.kind == "linear" else 1
    by_channel = np.moveaxis(exact, axis, 0).reshape(exact.shape[axis], -1)
    assert np.array_equal(found["channel_min"][0][0], by_channel.min(1))
    assert np.array_equal(found["channel_max"][0][0], by_channel.max(1))
    counted = exact.ravel()
    if subset:
        flat = exact.reshape(4, -1)
        chosen = torch.randperm(
            flat.shape[1], generator=torch.Generator().manual_seed(flat.shape[1])
        )[:subset]
        counted = flat[:, chosen].ravel()
    edges = (found["first"][0] + np.arange(found["counts"][0].shape[1] + 1)) * 2.0 ** int(
        found["exponent"][0]
    )
    assert found["counts"][0][0].tolist() == np.histogram(counted, edges)[0].tolist()
    summed = counted if kind == "output" else exact.ravel()
    assert found["elements"][0, 0] == len(summed)
    for k in range(4):
        wanted, scale = (summed ** (k + 1)).sum(), (np.abs(summed) ** (k + 1)).sum()
        assert found["power_sums"][0, 0, k] == pytest.approx(wanted, abs=1e-5 * scale)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_what_is_not_finite_is_named_with_its_step(dtype, bad):
    recorder, site = Recorder(10), SITES["linear"][0]
    x = torch.ones(2, 30, 12, dtype=dtype)
    recorder.begin(981.0, 2)
    recorder.see(site, x)
    recorder.end()
    recorder.begin(941.0, 2)
    x[1, 3, 4] = bad
    recorder.see(site, x)
    with pytest.raises(
        DmqError, match=r"a\.input: not finite at step 2 \(t = 941\).*--dtype bfloat16 or float32"
    ):
        recorder.end()


def test_places_in_long_rows_are_distinct_and_always_the_same(monkeypatch):
    monkeypatch.setattr(module, "MAX_PERMUTED", 100)
    for n in (101, 5000, 2**27):
        chosen = Recorder(64)._chosen(n, torch.device("cpu"))
        assert len(chosen.unique()) == 64 and 0 <= chosen.min() and chosen.max() < n
        assert torch.equal(chosen, Recorder(64)._chosen(n, torch.device("cpu")))
    assert abs(chosen.double().mean() / n - 0.5) < 0.15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_on_another_device_nothing_leaves_it_before_the_call_ends(dtype):
    """Tensors that have a device and no memory refuse to be mixed with the CPU's, and to tell a
    value.
    """
    sites = [Site(name="c", point=point, kind="attention") for point in ("q", "k", "v", "probs")]
    with FakeTensorMode():
        recorder, attention = Recorder(20), Watched(print)
        for site in sites:
            attention.get_submodule(site.point).register_forward_hook(
                lambda m, args, out, site=site: recorder.see(site, out)
            )
        recorder.begin(7.0, 4)
        for site, shape in SITES.values():
            recorder.see(site, torch.ones(shape, device="cuda", dtype=dtype))
        q, k, v = (torch.ones(4, 3, n, 8, device="cuda", dtype=dtype) for n in (40, 50, 50))
        attention.product(q, k, v)
        waiting = [entry for entries in recorder._pending.values() for entry in entries]
        assert len(waiting) == len(SITES) + 4
        for known, low, high in waiting:
            made = [known.sample, low, high, *known.sums]
            assert {x.device.type for x in made} == {"cuda"} and known.sample.dtype is torch.float32
        values = torch.ones(3, 20, device="cuda")
        assert (
            bin_counts(values, torch.zeros(3, device="cuda", dtype=torch.int64)).device.type
            == "cuda"
        )


def test_counting_elsewhere_is_counting_on_the_cpu():
    index = torch.randint(
        0, 3000, (5000,), dtype=torch.int32, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(count_values(index, 3000), torch.bincount(index, minlength=3000))
