"""A device that has too little memory for a batch: the capture goes on in halves, as if it had
begun so.
"""

import dataclasses

import numpy as np
import pytest
import torch

from dmq.capture.activations import capture_activations
from dmq.models import loading, memory
from dmq.models.memory import OutOfMemory
from dmq.models.placement import Place
from dmq.models.tiny import tiny_sd
from dmq.recipe import Calibration, Sampling


SAMPLING = Sampling(steps=3, guidance=2.0)


@pytest.fixture
def loaded(monkeypatch):
    """A tiny model that is said to be on a card: what happens there is done here."""
    monkeypatch.setattr(memory, "free_memory", lambda device: 10**9)
    made = loading.describe("tiny", tiny_sd())
    return dataclasses.replace(made, place=Place("cuda:0", "float32"))


def run(loaded, batch, limit=None, at_call=0):
    """What a capture of 8 images sees; calls of more than `limit` rows, from call `at_call` on,
    run out of memory.
    """
    calls = 0
    forward = loaded.denoiser.conv_in.forward

    def bounded(x):
        nonlocal calls
        calls += 1
        if limit and len(x) > limit and calls > at_call:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(x)

    loaded.denoiser.conv_in.forward = bounded
    try:
        calibration = Calibration(samples=8, batch=batch, prompts=("a", "b"))
        work = capture_activations(loaded, SAMPLING, calibration, trajectories=5)
        seen = []
        while True:
            try:
                seen.append(next(work))
            except StopIteration as end:
                return end.value, seen
    finally:
        del loaded.denoiser.conv_in.forward


@pytest.mark.parametrize(
    "at_call", [0, 2, 4], ids=["at once", "in the middle", "in the second batch"]
)
def test_what_is_seen_after_running_out_of_memory_is_what_smaller_batches_see(loaded, at_call):
    wanted, _ = run(loaded, 2)
    made, seen = run(loaded, 4, limit=4, at_call=at_call)  # 4 images are 8 rows
    for name in ("exponent", "elements"):
        np.testing.assert_array_equal(getattr(made.stats, name), getattr(wanted.stats, name))
    np.testing.assert_allclose(made.stats.maximum, wanted.stats.maximum, rtol=1e-4, atol=1e-5)
    for a, b in zip(made.stats.counts, wanted.stats.counts, strict=True):
        assert a.sum() == b.sum()
    assert made.stats.samples == 8 and sum(map(len, made.trajectory.inputs)) == 5 * 2 * 3
    done, total = seen[-1]
    assert done == total


def test_halves_that_are_too_large_as_well_are_one_line(loaded):
    with pytest.raises(
        OutOfMemory, match=r"^tiny: cuda:0 ran out of memory with 2 images at a time in float32"
    ):
        run(loaded, 4, limit=2)
