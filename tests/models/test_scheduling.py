"""What schedulers make of an answer, against closed forms and against what diffusers says of
itself.
"""

import copy

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

from dmq.models.scheduling import SchedulerCall, coefficient, predict_x0


pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # in diffusers

STEPS = 10


def call_at(scheduler, i, seed=0, **kwargs):
    """A call at step i with a random state and answer."""
    generator = torch.Generator().manual_seed(seed)
    x, answer = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(2))
    return SchedulerCall(scheduler, i, answer, scheduler.timesteps[i], (x,), kwargs)


def made(kind, **config):
    scheduler = kind(**config)
    scheduler.set_timesteps(STEPS)
    return scheduler


def kept(scheduler, i):
    """abar at step i and at the next, cleaner one."""
    t = int(scheduler.timesteps[i])
    after = t - scheduler.config.num_train_timesteps // STEPS
    return (
        float(scheduler.alphas_cumprod[t]),
        float(scheduler.alphas_cumprod[after] if after >= 0 else scheduler.final_alpha_cumprod),
    )


@pytest.mark.parametrize("i", [0, 4, STEPS - 1])
def test_the_coefficient_of_ddim_is_its_closed_form(i):
    scheduler = made(DDIMScheduler, clip_sample=False)
    now, after = kept(scheduler, i)
    wanted = (1 - after) ** 0.5 - (after * (1 - now) / now) ** 0.5
    assert wanted < 0
    assert coefficient(call_at(scheduler, i)) == pytest.approx(-wanted, rel=2e-3)


@pytest.mark.parametrize("i", [0, 4, STEPS - 1])
def test_the_coefficient_of_euler_is_the_step_in_sigma(i):
    scheduler = made(EulerDiscreteScheduler)
    wanted = float(scheduler.sigmas[i] - scheduler.sigmas[i + 1])
    scheduler._step_index = i
    assert coefficient(call_at(scheduler, i)) == pytest.approx(wanted, rel=2e-3)


@pytest.mark.parametrize("several", [False, True])
def test_noise_does_not_count_and_is_not_used_up(several):
    """DDPM adds noise: what is left of the answer is the posterior mean's part."""
    scheduler = made(DDPMScheduler, clip_sample=False)
    i, (now, after) = 4, kept(made(DDIMScheduler, clip_sample=False), 4)
    generator = (
        [torch.Generator().manual_seed(n) for n in range(2)]
        if several
        else torch.Generator().manual_seed(0)
    )
    states = [g.get_state() for g in (generator if several else [generator])]
    # mean = after^(1/2) beta / (1 - now) x0 + ..., with x0 = (x - (1 - now)^(1/2) eps) / now^(1/2)
    wanted = after**0.5 * (1 - now / after) / (1 - now) * (1 - now) ** 0.5 / now**0.5
    before = torch.get_rng_state()
    assert coefficient(call_at(scheduler, i, generator=generator)) == pytest.approx(
        wanted, rel=2e-3
    )
    after_ = [g.get_state() for g in (generator if several else [generator])]
    assert all(map(torch.equal, states, after_)) and torch.equal(before, torch.get_rng_state())


def test_the_scheduler_is_left_as_it_was():
    scheduler = made(PNDMScheduler, skip_prk_steps=True)
    before = copy.deepcopy(vars(scheduler))
    assert coefficient(call_at(scheduler, 0)) > 0
    assert vars(scheduler).keys() == before.keys()
    assert (scheduler.counter, scheduler.cur_sample, scheduler.ets) == (0, None, [])


@pytest.mark.parametrize(
    ("scheduler", "kind"),
    [
        *((DDIMScheduler, kind) for kind in ("epsilon", "v_prediction", "sample")),
        *((EulerDiscreteScheduler, kind) for kind in ("epsilon", "v_prediction")),
    ],
)
def test_the_foreseen_image_is_the_schedulers_own(scheduler, kind):
    own = made(
        scheduler,
        prediction_type=kind,
        **({"clip_sample": False} if scheduler is DDIMScheduler else {}),
    )
    for i in (0, 5, STEPS - 1):
        call, fresh = call_at(own, i, seed=i), copy.deepcopy(own)
        if scheduler is EulerDiscreteScheduler:
            fresh._step_index, fresh.is_scale_input_called = i, True
        wanted = fresh.step(call.answer, call.t, call.x).pred_original_sample
        torch.testing.assert_close(predict_x0(call), wanted, rtol=1e-4, atol=1e-4)


def test_flow_matching_foresees_the_end_of_a_straight_line():
    scheduler = made(FlowMatchEulerDiscreteScheduler)
    image, noise = (
        torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(n)) for n in range(2)
    )
    for i in range(STEPS):
        sigma = float(scheduler.sigmas[i])
        x = (1 - sigma) * image + sigma * noise
        call = SchedulerCall(scheduler, i, noise - image, scheduler.timesteps[i], (), {"sample": x})
        torch.testing.assert_close(predict_x0(call), image, rtol=1e-5, atol=1e-5)


def test_what_is_not_known_is_not_made_up():
    assert predict_x0(call_at(made(DPMSolverMultistepScheduler), 3)) is None
