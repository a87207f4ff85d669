"""How this processor adds up products of codes: its kernels are run and looked at, since flags do
not tell.

With VNNI, products of an input and a weight are added up in 32 bits. Without, x86 adds two
neighbours of a row in 16 bits first and stops at their ends (`vpmaddubsw`): 255 * 127 + 255 * 127
becomes 32,767. That is exact all the same where no two weights of a row are large enough. Which of
them are neighbours is the library's business: any two count."""

import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import cache
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from ..numerics.processor import on_x86
from ..numerics.threads import one_thread


MAX_PAIR_SUM = 2**15 - 1  # the largest sum of two products
FAR_SLOWER = 10  # times: what a library without kernels of its own for a processor is beyond


class Sums(StrEnum):
    """What becomes of a sum of products."""

    WHOLE = "whole"  # it is exact
    PAIRS = "pairs"  # it is exact as long as the sum of any two products fits into 16 bits
    WRONG = "wrong"  # neither


SENTENCES = {
    Sums.WHOLE: "with sums in 32 bits",
    Sums.PAIRS: "with sums in 16 bits: 8 by 8 bits only where they cannot overflow, 7 bits of "
    "either always",
    Sums.WRONG: "but its sums are wrong, so it is not used",
}


def most_of_pair(bits: int) -> int:
    """What two weights of one sign may add up to beside inputs of so many bits, for 16 bits to hold
    their products.

    >>> most_of_pair(8), most_of_pair(7)
    (128, 258)
    """
    return MAX_PAIR_SUM // (2**bits - 1)


@cache
def onednn_sums() -> Sums:
    """How oneDNN's int8 products of linear layers and convolutions add up here."""
    return _judge(lambda weight: _linear_adds_up(weight) and _conv_adds_up(weight))


@cache
def int_mm_sums() -> Sums:
    """How `torch._int_mm` adds up on this CPU."""
    return _judge(_int_mm_adds_up)


@cache
def is_far_slower() -> bool:
    """Are oneDNN's int8 products far slower than float's? Its plain loops are, on processors it has
    no kernels for.

    Told apart by a factor of ten, so that what else the machine does at the time decides nothing;
    on x86 never."""
    if on_x86():
        return False
    x, weight = torch.ones(64, 256), torch.ones(256, 256)
    codes, packed = x.to(torch.uint8), torch.ops.onednn.qlinear_prepack(weight.to(torch.int8), None)
    with one_thread():
        return _least(lambda: qlinear(codes, 1, packed, 256)) > FAR_SLOWER * _least(
            lambda: F.linear(x, weight)
        )


def qlinear(codes: Tensor, zero: int, packed: Tensor, outputs: int) -> Tensor:
    """(codes - zero) times a prepacked weight, float32, without scales."""
    return torch.ops.onednn.qlinear_pointwise.default(
        codes,
        1.0,
        zero,
        packed,
        torch.ones(outputs),
        torch.zeros(outputs, dtype=torch.int32),
        None,
        1.0,
        0,
        torch.float32,
        "none",
        [],
        "",
    )


def _judge(adds_up: Callable[[int], bool]) -> Sums:
    """`adds_up(weight)`: are sums of the largest code times this weight, and its negative,
    exact?
    """
    if adds_up(127):
        return Sums.WHOLE
    return Sums.PAIRS if adds_up(most_of_pair(8) // 2) else Sums.WRONG


def _largest(rows: int, columns: int, outputs: int, weight: int) -> tuple[Tensor, Tensor]:
    """Codes that are all 255, and a weight whose outputs are, in turn, all `weight` and all
    -`weight`.
    """
    values = torch.full((outputs, columns), weight, dtype=torch.int8)
    values[1::2] *= -1
    return torch.full((rows, columns), 255, dtype=torch.uint8), values


def _shapes() -> Iterator[tuple[int, int, int]]:
    return product(
        (1, 33), (16, 64, 360), (8, 24)
    )  # few and many rows, of one register and of several


def _linear_adds_up(weight: int) -> bool:
    for rows, columns, outputs in _shapes():
        codes, values = _largest(rows, columns, outputs, weight)
        packed = torch.ops.onednn.qlinear_prepack(values, None)
        for zero in (0, 117):
            wanted = F.linear(codes.double() - zero, values.double())
            if not torch.equal(qlinear(codes, zero, packed, outputs).double(), wanted):
                return False
    return True


def _conv_adds_up(weight: int) -> bool:
    for channels, size in product((8, 32), (1, 3)):
        _, values = _largest(1, channels * size * size, 16, weight)
        values, codes = (
            values.view(16, channels, size, size),
            torch.full((2, channels, 6, 6), 255, dtype=torch.uint8),
        )
        codes, where = (
            codes.contiguous(memory_format=torch.channels_last),
            ([1, 1], [size // 2] * 2, [1, 1], 1),
        )
        one, none = torch.ones(16), torch.zeros(16, dtype=torch.int32)
        for zero in (0, 117):
            packed = torch.ops.onednn.qconv_prepack(values, one, 1.0, zero, *where, codes.shape)
            made = torch.ops.onednn.qconv_pointwise.default(
                codes,
                1.0,
                zero,
                packed,
                one,
                none,
                None,
                *where,
                1.0,
                0,
                torch.float32,
                "none",
                [],
                "",
            )
            if not torch.equal(
                made.double(), F.conv2d(codes.double() - zero, values.double(), padding=size // 2)
            ):
                return False
    return True


def _int_mm_adds_up(weight: int) -> bool:
    for rows, columns, outputs in _shapes():
        codes, values = _largest(max(rows, 33), columns, outputs, weight)
        signed = (codes.to(torch.int16) - 128).to(torch.int8)
        wanted = F.linear(signed.double(), values.double())
        if not torch.equal(torch._int_mm(signed, values.t().contiguous()).double(), wanted):
            return False
    return True


def _least(work: Callable[[], object]) -> float:
    """Seconds, the least of a few tries."""
    took = []
    for _ in range(6):
        begun = time.perf_counter()
        work()
        took.append(time.perf_counter() - begun)
    return min(took)
