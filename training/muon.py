"""Muon (Jordan et al., 2024): momentum whose every matrix is made orthogonal before it is applied.

On these small convolutional networks it learns more from a step than AdamW and costs a few percent
more time."""

import torch
from torch import Tensor, nn


def orthogonalize(matrix: Tensor) -> Tensor:
    """The nearest matrix with singular values around 1, by five Newton-Schulz steps (coefficients
    of the source).

    In bfloat16, as there: singular values between 0.7 and 1.2 are near enough.
    """
    x = (matrix / (matrix.norm() + 1e-7)).bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.T if tall else x).to(matrix.dtype)


@torch.no_grad()
def step(
    weights: list[nn.Parameter], momenta: list[Tensor], rate: float, keep: float = 0.95
) -> None:
    """One update of weights with two dimensions or more, a convolution seen as (out, in * height
    * width).
    """
    for weight, momentum in zip(weights, momenta, strict=True):
        momentum.lerp_(weight.grad, 1 - keep)
        update = orthogonalize(weight.grad.lerp(momentum, keep).flatten(1))
        stretch = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
        weight.add_(update.view_as(weight), alpha=-rate * stretch)
