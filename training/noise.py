"""The objective both diffusion models share: predict the noise, with weights for a short training."""

from collections.abc import Callable

import torch
from torch import Tensor


def spread_timesteps(count: int, generator: torch.Generator) -> Tensor:
    """`count` timesteps in 0 to 999, one from each of `count` equal ranges: less noise than independent draws."""
    return ((torch.arange(count) + torch.rand(count, generator=generator)) / count * 1000).long()


def weigh(snr: Tensor) -> Tensor:
    """The weight of the noise error at a signal-to-noise ratio: min-SNR (gamma 5, arXiv:2303.09556), more for noise.

    Where nearly all is noise, a noise error of 0.001 is a wrong background. Unweighted, a young network gets outlines
    right and the white around them wrong, so there the weight grows as 1/snr, up to 300.
    """
    return snr.clamp(max=5) / snr * (0.05 / snr).clamp(1, 300)


def noise_loss(
    predict: Callable[[Tensor, Tensor], Tensor], clean: Tensor, abar: Tensor, generator: torch.Generator
) -> tuple[Tensor, float]:
    """The weighted loss of one batch and its plain mean squared error; `predict` gets noisy pictures and timesteps."""
    t = spread_timesteps(len(clean), generator)
    noise = torch.randn(clean.shape, generator=generator)
    a = abar[t][:, None, None, None]
    noisy = (a.sqrt() * clean + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
    error = (predict(noisy, t) - noise).pow(2).mean((1, 2, 3))
    snr = abar[t] / (1 - abar[t])
    return (weigh(snr) * error).mean(), error.mean().item()
