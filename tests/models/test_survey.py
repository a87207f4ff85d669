"""What a denoiser call costs, told by shapes, against the call itself."""

import pytest
import torch

from dmq.models import layer_counts
from dmq.models.borrow import borrow
from dmq.models.loading import ADAPTERS
from dmq.models.tiny import tiny_ddpm, tiny_sd
from dmq.models.tiny_pipelines import PIPELINES, tiny_pipeline


MADE = {"sd": tiny_sd, "ddpm": tiny_ddpm} | {
    name: lambda name=name: tiny_pipeline(name) for name in PIPELINES
}


def surveyed(pipe, monkeypatch):
    """Products of each layer, the devices of the calls that were made to find them, and those of
    a real call.
    """
    adapter = next(adapter for adapter in ADAPTERS if adapter.matches(pipe))
    args, kwargs = layer_counts._first_call(pipe, adapter)
    real = layer_counts._count_calls(borrow(getattr(pipe, adapter.component(pipe))), args, kwargs)
    rows, devices, counted = len(adapter.sample_of(args, kwargs)), [], layer_counts._count_calls

    def spy(denoiser, args, kwargs):
        devices.append(next(denoiser.parameters()).device.type)
        return counted(denoiser, args, kwargs)

    monkeypatch.setattr(layer_counts, "_count_calls", spy)
    return layer_counts.macs(pipe, adapter), devices, {name: n // rows for name, n in real.items()}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_products_counted_by_shapes_are_those_of_a_real_call(monkeypatch, make):
    found, devices, real = surveyed(make(), monkeypatch)
    assert list(found.items()) == list(real.items())
    assert devices == ["meta"]


def test_a_denoiser_that_looks_at_values_is_called_in_earnest(monkeypatch):
    pipe = tiny_ddpm()
    pipe.unet.register_forward_pre_hook(
        lambda module, args: args if bool((args[0] < torch.inf).all()) else None
    )
    found, devices, real = surveyed(pipe, monkeypatch)
    assert found == real and devices == ["meta", "cpu"]
