"""Weights of every form as stored tensors and back, and plain data that lies about them."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from dmq.checkpoint.weight_layout import layout, restore, store, stored_bytes
from dmq.errors import DmqError
from dmq.quantizers.codes import WeightCodes
from dmq.quantizers.weights import quantize_weight, weight_bytes
from dmq.recipe import (
    FORMATS,
    Hqq,
    KMeans,
    LowRank,
    MinMax,
    PerGroup,
    PerTensor,
    PowerOfTwo,
    Uaq,
    Uniform,
    Weights,
)


def spec(bits=4, form=None, **changes):
    return Weights(**{"bits": bits, "format": form or Uniform(), "range": MinMax()} | changes)


CASES = {
    f"{label}-{bits}": spec(bits, form) for label, form in FORMATS.items() for bits in (2, 3, 8)
} | {
    "grid of 10 bits": spec(10),
    "grid of 16 bits": spec(16),
    "symmetric": spec(4, symmetric=True),
    "per tensor": spec(5, granularity=PerTensor()),
    "per group": spec(3, granularity=PerGroup(size=7)),
    "UAQ of 10 bits": spec(10, Uaq()),
    "UAQ of 16 bits": spec(16, Uaq()),
    "UAQ, wide tables": spec(4, Uaq(table=32)),
    "HQQ, wide tables": spec(4, Hqq(table=32, group=9)),
    "KMC, wide tables": spec(3, KMeans(table=32)),
    "shifts, wide tables": spec(5, PowerOfTwo(table=32)),
    "low rank": spec(4, LowRank(rank=3, group=10, rounds=1)),
    "low rank, wide": spec(4, LowRank(rank=3, rounds=1, table=32)),
    "low rank, not smooth": spec(4, LowRank(rank=3, rounds=1, smooth=False)),
}
SHAPES = {"linear": (10, 12), "conv": (6, 4, 3, 3)}


def made(case, shape, split=0):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul_(3).add_(0.5)
    return quantize_weight(weight, CASES[case], split)


def same(a: WeightCodes, b: WeightCodes) -> bool:
    """Are two weights equal bit for bit, in every field and dtype?"""

    def equal(x, y):
        if isinstance(x, WeightCodes):
            return same(x, y)
        if isinstance(x, Tensor):
            return (
                isinstance(y, Tensor)
                and x.dtype == y.dtype
                and x.shape == y.shape
                and torch.equal(x, y)
            )
        return type(x) is type(y) and x == y

    return type(a) is type(b) and all(
        equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a)
    )


@pytest.mark.parametrize("split", [0, 1])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("case", CASES)
def test_a_weight_comes_back_bit_for_bit_from_the_bytes_that_are_planned(case, shape, split):
    check(made(case, SHAPES[shape], split), weight_bytes(SHAPES[shape], CASES[case], split))


def test_1d_parameters_come_back_too():
    check(made("per tensor", (9,)), weight_bytes((9,), CASES["per tensor"]))


def check(codes, planned):
    parts, plain = store(codes)
    assert same(restore(parts, plain), codes)
    taken = sum(x.nbytes for x in parts.values())
    assert taken == codes.bytes == planned == stored_bytes(layout(plain))


LIES = {
    "bits": lambda p: p | {"bits": 17},
    "bits of another type": lambda p: p | {"bits": True},
    "shape": lambda p: p | {"shape": [10, 13]},
    "no shape": lambda p: p | {"shape": "10"},
    "a huge shape": lambda p: p | {"shape": [2**39, 2**39]},
    "rows": lambda p: p | {"rows": 7},
    "size": lambda p: p | {"size": 0},
    "small size": lambda p: p | {"size": 1},
    "split": lambda p: p | {"split": 12},
    "kind": lambda p: p | {"kind": "Newer"},
    "table": lambda p: p | {"table": 8},
    "flag": lambda p: p | {"wide": 1},
    "another flag": lambda p: p | {"symmetric": True},
    "missing": lambda p: {"kind": p["kind"], "bits": 3},
    "nested": lambda p: p | {"kind": "SplitWeight", "first": p, "second": p},
    "low rank": lambda p: p | {"kind": "LowRankWeight", "rank": 2, "rest": p | {"bits": 5}},
}


@pytest.mark.parametrize("lie", LIES)
def test_plain_data_that_lies_is_refused_in_one_line(lie):
    parts, plain = store(made("W-3", (10, 12)))
    with pytest.raises(DmqError) as caught:
        restore(parts, LIES[lie](plain))
    assert "\n" not in str(caught.value)


def test_a_flag_is_no_number():
    """For Python, True is 1."""
    _, plain = store(made("W-2", (1, 12)))
    with pytest.raises(DmqError, match="expected a whole number from 1 to 16, got True"):
        layout(plain | {"bits": True})


def test_tables_that_nothing_can_be_computed_with_are_refused():
    parts, plain = store(made("W-3", (10, 12)))
    for wrong in (float("nan"), float("inf"), 0.0, -1.0):
        scale = parts["scale"].clone()
        scale[3] = wrong
        with pytest.raises(DmqError, match="scale has values"):
            restore(parts | {"scale": scale}, plain)


def test_what_half_precision_cannot_hold_is_never_stored_quietly():
    codes = made("UAQ-3", (10, 12))
    codes.scale[0] += 1e-5
    with pytest.raises(ValueError, match="cannot be stored"):
        store(codes)
