"""The objective both diffusion models share: predict noise or velocity, with weights for a short
training.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from training.mixed import half_precision


def spread_timesteps(count: int, generator: torch.Generator) -> Tensor:
    """`count` timesteps in 0 to 999, one from each of `count` equal ranges: less noise than
    independent draws.
    """
    return ((torch.arange(count) + torch.rand(count, generator=generator)) / count * 1000).long()


def weigh(snr: Tensor) -> Tensor:
    """The weight of the noise error at a signal-to-noise ratio: min-SNR (gamma 5,
    arXiv:2303.09556), more for noise.

    Where nearly all is noise, a noise error of 0.001 is a wrong background. Unweighted, a young
    network gets outlines right and the white around them wrong, so there the weight grows as 1/snr,
    up to 300."""
    return snr.clamp(max=5) / snr * (0.05 / snr).clamp(1, 300)


def weigh_velocity(snr: Tensor) -> Tensor:
    """The weight of the velocity error: 1, and 5 / (snr + 1) where the image is nearly clean
    already.
    """
    return (5 / (snr + 1)).clamp(max=1)


def diffusion_loss(
    predict: Callable[[Tensor, Tensor], Tensor],
    clean: Tensor,
    abar: Tensor,
    generator: torch.Generator,
    velocity: bool = False,
) -> tuple[Tensor, float]:
    """The weighted loss of one batch and its plain mean squared error; `predict` gets noisy
    images and timesteps.

    The network predicts the noise, or the velocity sqrt(abar) noise - sqrt(1 - abar) clean
    (arXiv:2202.00512)."""
    t = spread_timesteps(len(clean), generator)
    noise = torch.randn(clean.shape, generator=generator)
    a = abar[t][:, None, None, None]
    noisy = (a.sqrt() * clean + (1 - a).sqrt() * noise).contiguous(
        memory_format=torch.channels_last
    )
    target = a.sqrt() * noise - (1 - a).sqrt() * clean if velocity else noise
    with half_precision():
        predicted = predict(noisy, t).float()
    error = (predicted - target).pow(2).mean((1, 2, 3))
    snr = abar[t] / (1 - abar[t])
    weight = weigh_velocity(snr) if velocity else weigh(snr)
    return (weight * error).mean(), error.mean().item()
