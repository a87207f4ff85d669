"""Histograms that add up: bins of width 2^k anchored at zero, so two recordings merge exactly
whatever they saw.

A histogram has BINS counts; entry j counts the values in [(j - 512) * 2**k, (j - 511) * 2**k). When
a value does not fit, k grows by one and neighbours are summed: bin n of width 2^k lies in bin n >>
1 of width 2^(k+1), exactly."""

import torch
from torch import Tensor


BINS = 1024
SMALLEST = (
    -100
)  # exponent of a histogram that has seen only zeros: 512 * 2^-100 is far below any activation


def fit_exponent(magnitude: Tensor) -> Tensor:
    """The smallest k for which all values up to `magnitude` in absolute value fall into the bins,
    int64, same shape.

    >>> fit_exponent(torch.tensor([0.0, 511.9, 512.0])).tolist()
    [-100, 0, 1]
    """
    return (
        (torch.frexp(magnitude.double()).exponent.long() - (BINS.bit_length() - 2))
        .clamp(min=SMALLEST)
        .where(magnitude > 0, torch.tensor(SMALLEST, device=magnitude.device))
    )


def bin_counts(values: Tensor, exponent: Tensor) -> Tensor:
    """Counts (rows, BINS) int64 of `values` (rows, n), row r with bins of width 2**exponent[r].

    All values must fit, see `fit_exponent`; NaN is not allowed.

    >>> counts = bin_counts(torch.tensor([[-0.5, 0.0, 1.5]]), torch.tensor([0]))
    >>> counts[0].nonzero().flatten().tolist()
    [511, 512, 513]
    """
    scale = torch.ldexp(torch.ones(len(values), device=values.device), -exponent)
    first = torch.arange(len(values), device=values.device, dtype=torch.int32) * BINS + BINS // 2
    index = (values * scale.unsqueeze(1)).floor_().int().add_(first.unsqueeze(1))
    index, size = index.flatten(), len(values) * BINS
    if values.device.type == "cpu":
        return torch.bincount(index, minlength=size).view(-1, BINS)
    return count_values(index, size).view(-1, BINS)


def count_values(index: Tensor, size: int) -> Tensor:
    """How often each of 0..size-1 is in `index`, int64: `torch.bincount` that does not ask the
    device for anything.

    Everything would wait for the answer; on a CPU, where nothing has to, `torch.bincount` itself is
    faster.

    >>> count_values(torch.tensor([0, 2, 2]), 4).tolist()
    [1, 0, 2, 0]
    """
    counts = torch.zeros(size, dtype=torch.int64, device=index.device)
    return counts.scatter_add_(0, index.long(), counts.new_ones(1).expand(len(index)))


def coarsen(counts: Tensor, by: int) -> Tensor:
    """The counts (..., BINS) of the same values with bins 2**by times as wide.

    >>> coarsen(torch.ones(BINS), 1)[254:258].tolist()
    [0.0, 0.0, 2.0, 2.0]
    """
    if by < 0:
        raise ValueError(f"bins cannot be split, got by={by}")
    index = (torch.arange(-BINS // 2, BINS // 2, device=counts.device) >> min(by, 62)) + BINS // 2
    return torch.zeros_like(counts).index_add_(-1, index, counts)


def merge(counts: Tensor, exponent: int, others: Tensor, other_exponent: int) -> tuple[Tensor, int]:
    """The counts of both, and their exponent: the larger of the two."""
    k = max(exponent, other_exponent)
    return coarsen(counts, k - exponent) + coarsen(others, k - other_exponent), k
