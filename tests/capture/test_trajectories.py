import numpy as np
import pytest
import torch

from dmq.capture.activations import capture_activations
from dmq.capture.trajectories import record_trajectory
from dmq.models.loading import sample
from dmq.recipe import Calibration, Sampling
from tests.capture.helpers import finish, loaded


SAMPLING = Sampling(steps=3, guidance=3.0)


@pytest.mark.parametrize("kind", ["sd", "ddpm"])
def test_every_recorded_call_can_be_repeated(kind):
    model = loaded(kind)
    trajectory, images = record_trajectory(
        model, prompts=["cat", "dog"], seeds=[3, 4], sampling=SAMPLING
    )
    plain = sample(model.pipe, model, prompts=["cat", "dog"], seeds=[3, 4], sampling=SAMPLING)
    assert all(map(np.array_equal, images, plain))
    assert trajectory.step.tolist() == [0, 1, 2]
    for n, i in enumerate(trajectory.step):
        given = {
            a: torch.from_numpy(trajectory.conditioning[key])
            for a, key in trajectory.arguments[n].items()
        }
        t = trajectory.timesteps[i]
        answer = model.denoiser(torch.from_numpy(trajectory.inputs[n]), t, **given).sample
        assert torch.equal(answer, torch.from_numpy(trajectory.outputs[n]))


def test_guidance_halves_are_told_apart_and_prompts_kept_once():
    trajectory, _ = record_trajectory(
        loaded("sd"), prompts=["cat", "dog"], seeds=[3, 4], sampling=SAMPLING
    )
    assert [half.tolist() for half in trajectory.half] == [[0, 0, 1, 1]] * 3
    (text,) = trajectory.conditioning.values()
    assert np.array_equal(text[0], text[1])  # the empty prompt
    assert not np.array_equal(text[2], text[3])
    assert np.array_equal(trajectory.inputs[0][:2], trajectory.inputs[0][2:])


def test_without_guidance_there_are_no_halves():
    trajectory, _ = record_trajectory(loaded("ddpm"), prompts=[], seeds=[3, 4], sampling=SAMPLING)
    assert [half.tolist() for half in trajectory.half] == [[-1, -1]] * 3
    assert trajectory.conditioning == {}


def test_a_capture_records_its_first_images():
    calibration = Calibration(samples=4, batch=2, seed=3, prompts=("cat",))
    generator = capture_activations(loaded("sd"), SAMPLING, calibration, subset=40, trajectories=3)
    _, (stats, trajectory) = finish(generator)
    assert trajectory.timesteps == stats.timesteps
    assert [len(x) for x in trajectory.inputs] == [4, 4, 4, 2, 2, 2]
    assert trajectory.half[3].tolist() == [0, 1]
    alone, _ = record_trajectory(loaded("sd"), prompts=["cat"], seeds=[5], sampling=SAMPLING)
    np.testing.assert_allclose(trajectory.inputs[5], alone.inputs[2], rtol=1e-3, atol=1e-3)
