"""What quantization does to values known only as a histogram: each bin's values are spread
evenly over it.
"""

import torch
from torch import Tensor

from .affine import grid


def bin_errors(
    edges: Tensor, low: Tensor, high: Tensor, bits: int | Tensor, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Mean squared rounding error and mean squared clipping error within each bin, for the grid of
    low..high.

    Exact for values spread evenly over a bin: their sum is the mean squared error of
    `affine.fake_quantize`. Beyond the outermost grid values all error is clipping, within them all
    is rounding. A bin of width zero is a point. Shapes: `edges` (..., bins + 1), `low` and `high`
    (...) and `bits` broadcast against each other; results are (..., bins). Units: those of `edges`,
    squared. The result has the type of `edges`, the grid that of `low`. Source: with v = x / scale,
    round(v)/12 + (v - round(v))^3/3 is an antiderivative of (v - round(v))^2.

    >>> rounding, clipping = bin_errors(torch.tensor([0.0, 1, 3]), torch.zeros(1), torch.ones(1), 2, symmetric=False)
    >>> (rounding * 108).round().tolist(), (clipping * 3).round().tolist()
    ([[1.0, 0.0]], [[0.0, 4.0]])
    """
    scale, zero = (part.to(edges.dtype)[..., None] for part in grid(low, high, bits, symmetric))
    top = 2.0 ** torch.as_tensor(bits, dtype=edges.dtype)[..., None] - 1
    v = edges / scale
    inside = v.clamp(-zero, top - zero)
    r = inside.round()
    width = edges.diff(dim=-1)
    points = width == 0
    share = scale**3 / width.masked_fill(points, 1)
    parts = []
    for d, jump in ((inside - r, r.diff(dim=-1) / 12), (v - inside, None)):
        mean = _cubes(d, jump).mul_(share)
        parts.append(torch.where(points, (scale * d[..., 1:]) ** 2, mean) if points.any() else mean)
    rounding, clipping = parts
    return rounding, clipping


def _cubes(d: Tensor, jump: Tensor | None) -> Tensor:
    """jump + the difference of d^3/3 over each bin, as a product where a difference of cubes
    would cancel.
    """
    left, right = d[..., :-1], d[..., 1:]
    squares = torch.addcmul(right * right, left, left + right)
    change = (right - left).mul_(squares).div_(3)
    return change if jump is None else change.add_(jump)
