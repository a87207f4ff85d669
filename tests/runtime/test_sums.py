"""What a processor's sums of products hold, and how weights are moved to fit: against trying
everything.
"""

import pytest
import torch

from dmq.runtime import sums
from dmq.runtime.sums import Sums, int_mm_sums, most_of_pair, onednn_sums
from dmq.runtime.whole_weights import WholeWeight, within
from tests.machine import adds_in_32_bits, may_be_moved


def test_the_probe_finds_what_the_largest_products_add_up_to_here():
    wanted = Sums.WHOLE if adds_in_32_bits() else Sums.PAIRS
    assert onednn_sums() == wanted and int_mm_sums() in (Sums.WHOLE, wanted)


@pytest.mark.parametrize(
    ("most", "judged"),
    [(127, Sums.WHOLE), (126, Sums.PAIRS), (64, Sums.PAIRS), (63, Sums.WRONG)],
    ids=str,
)
def test_sums_are_judged_by_the_largest_weight_that_they_bear(most, judged):
    assert sums._judge(lambda weight: weight <= most) == judged


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_pair_is_as_large_as_sixteen_bits_hold(bits):
    top, most = 2**bits - 1, most_of_pair(bits)
    assert top * most < 2**15 <= top * (most + 1)


@pytest.mark.parametrize(
    ("seconds", "far"), [((1.0, 1.0), False), ((9.0, 1.0), False), ((11.0, 1.0), True)], ids=str
)
def test_plain_loops_are_told_from_kernels_but_on_x86(seconds, far, monkeypatch):
    for x86 in (False, True):
        monkeypatch.setattr(sums, "on_x86", lambda x86=x86: x86)
        took = iter(seconds)
        monkeypatch.setattr(
            sums, "_least", lambda work, took=took: work() is not None and next(took)
        )
        sums.is_far_slower.cache_clear()
        assert sums.is_far_slower() == (far and not x86)
    sums.is_far_slower.cache_clear()


def rows_of(kind, generator):
    """Rows of int8: full, one-sided, with one or two values that stand out, or alone."""
    columns = 1 if kind == "alone" else 6
    reach = {"half": (-64, 64), "positive": (0, 128), "wide": (-40, 100)}.get(kind, (-128, 128))
    rows = torch.randint(*reach, (200, columns), generator=generator)
    if kind == "outlier":
        rows = rows // 8
        rows[:, 0] = torch.randint(-128, 128, (200,), generator=generator)
    return rows.to(torch.int8)


@pytest.mark.parametrize("kind", ["full", "half", "positive", "wide", "outlier", "alone"])
def test_rows_are_moved_where_any_way_to_move_them_fits(kind):
    found = 0
    for row in rows_of(kind, torch.Generator().manual_seed(0)):
        weight = WholeWeight(values=row[None], scale=torch.tensor([0.5]), offset=None)
        made = within(weight, most_of_pair(8))
        padded = torch.cat([row, row.new_zeros(1)])  # as kernels fill up a row
        assert (made is not None) == may_be_moved(padded)
        if made is not None:
            found += 1
            assert torch.equal(made.dequantize(), weight.dequantize())
            assert may_be_moved(made.values[0], movable=False)
            assert (made is weight) == (made.offset is None) == may_be_moved(padded, movable=False)
    assert found > 0 if kind != "full" else found < 200
