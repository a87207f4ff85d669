"""GPTQ: columns of a weight are rounded one after another, and those that follow make up for each
error.

    H   = E[x x^T] + damping * mean(diag) * I          [I, I], x the inputs of the layer (`capture.moments`)
    U   = upper Cholesky factor of H^-1                 H^-1 = U^T U
    for column j:  q = nearest value of W[:, j] on its grid;  e = (W[:, j] - q) / U[j, j];  W[:, j:] -= e U[j, j:]

The grid stays what it was, whatever the columns become. Source: neighbours, "GPTQ"
(arXiv:2210.17323 and its code: blocks of columns with lazy updates, columns in order of their
inputs, inputs that are always zero)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..numerics.affine import dequantize, quantize
from ..numerics.devices import double


BLOCK = 128  # columns whose errors reach the rest of the weight together
MORE = 10  # damping grows by this factor when it does not do
MIN_DAMPING, MAX_DAMPING = 1e-6, 1.0  # damping once it was raised


def compensate_codes(
    rows: Tensor,
    scale: Tensor,
    zero: Tensor,
    bits: int,
    moments: Sequence[Tensor],
    *,
    damping: float = 0.01,
    order: bool = False,
) -> tuple[Tensor, float]:
    """The codes of `rows` on the given grid, whole numbers, and the damping that was needed.

    Shapes: `rows` [O, I]; `scale` and `zero` [O, 1] or [O, I]; `moments` are [groups, n, n] one
    behind the other along the columns: O / groups rows belong to each group. With `order`, columns
    with large inputs come first. Columns whose input is always zero are set to 0. Raises ValueError
    if no damping up to 1 makes the moments positive definite, which means that they are not finite.
    """
    widths = [part.shape[-1] for part in moments]
    pieces = (x.float().expand_as(rows).split(widths, dim=1) for x in (rows, scale, zero))
    codes, used = [], damping
    for part, own, low, middle in zip(moments, *pieces, strict=True):
        found, needed = _part(part, own, low, middle, bits, damping, order)
        codes.append(found)
        used = max(used, needed)
    return torch.cat(codes, 1), used


def _part(
    moments: Tensor,
    rows: Tensor,
    scale: Tensor,
    zero: Tensor,
    bits: int,
    damping: float,
    order: bool,
) -> tuple[Tensor, float]:
    """Codes of the columns that `moments` [G, n, n] are of."""
    shape, groups = rows.shape, len(moments)
    # Columns of a weight are rows here, so that each is one piece of memory: [G, n, O / G].
    rows, scale, zero = (
        x.reshape(groups, -1, shape[1]).mT.contiguous() for x in (rows, scale, zero)
    )
    diagonal = moments.diagonal(dim1=1, dim2=2)
    rows = rows.masked_fill(diagonal[:, :, None] == 0, 0.0)
    if order:
        by = diagonal.argsort(dim=1, descending=True, stable=True)
        wide = by[:, :, None].expand_as(rows)
        rows, scale, zero = (x.gather(1, wide) for x in (rows, scale, zero))
        moments = torch.stack([part[own][:, own] for part, own in zip(moments, by, strict=True)])
    factor, used = inverse_factor(moments, damping)
    codes = _walk(rows, scale, zero, bits, factor)
    if order:
        codes = torch.empty_like(codes).scatter_(1, wide, codes)
    return codes.mT.reshape(shape), used


def _walk(rows: Tensor, scale: Tensor, zero: Tensor, bits: int, factor: Tensor) -> Tensor:
    """The columns (here rows) from first to last; overwrites `rows`."""
    codes, columns = torch.empty_like(rows), rows.shape[1]
    for a in range(0, columns, BLOCK):
        b = min(a + BLOCK, columns)
        errors = torch.empty_like(rows[:, a:b])
        for j in range(a, b):
            x = rows[:, j]
            codes[:, j] = quantize(x, scale[:, j], zero[:, j], bits)
            error = errors[:, j - a] = (
                x - dequantize(codes[:, j], scale[:, j], zero[:, j])
            ) / factor[:, j, j, None]
            rows[:, j + 1 : b] -= factor[:, j, j + 1 : b, None] * error[:, None]
        rows[:, b:] -= factor[:, a:b, b:].mT @ errors
    return codes


def inverse_factor(moments: Tensor, damping: float) -> tuple[Tensor, float]:
    """The upper triangular U with U^T U = (H + damping * mean(diag H) * I)^-1, and the damping that
    was needed.

    Shapes: `moments` [G, n, n] to the same. Damping is raised until the matrix has a Cholesky
    factor. Columns without inputs touch no other ones. Raises ValueError if a damping of 1 does not
    do."""
    h = double(moments)
    diagonal = h.diagonal(dim1=1, dim2=2)
    seen = diagonal > 0
    mean = diagonal.sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp(min=1)
    mean = mean.where(mean > 0, torch.ones_like(mean))  # a layer that was given nothing but zeros
    more = mean.where(~seen, torch.zeros_like(mean))
    identity = torch.eye(h.shape[-1], dtype=h.dtype, device=h.device)
    while True:
        damped = h + torch.diag_embed(more + damping * mean)
        # H = R R^T with R upper triangular comes from the factor of H read backwards; then U =
        # R^-1. That is one factorisation and one inverse of a triangle instead of two
        # factorisations and the inverse of a matrix.
        lower, failed = torch.linalg.cholesky_ex(damped.flip(1, 2))
        if not failed.any():
            return torch.linalg.solve_triangular(
                lower.flip(1, 2), identity.expand_as(h), upper=True
            ).to(moments), damping
        if damping >= MAX_DAMPING:
            raise ValueError(
                "the moments have no Cholesky factor even with full damping: are they finite?"
            )
        damping = min(max(MORE * damping, MIN_DAMPING), MAX_DAMPING)
