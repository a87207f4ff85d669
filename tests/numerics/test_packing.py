"""Packing of codes, against a slow one made of Python's whole numbers."""

import pytest
import torch

from dmq.numerics import packing
from dmq.numerics.packing import pack, unpack
from dmq.quantizers.codes import packed


COUNTS = (0, 1, 2, 7, 8, 9, 63, 100)


def codes_of(count, bits, seed=0):
    made = torch.randint(0, 2**bits, (count,), generator=torch.Generator().manual_seed(seed))
    return made.to(torch.uint8 if bits <= 8 else torch.int32)


def slowly(codes, bits):
    """One whole number of all codes up to 8 bits, and its bytes; above, the low bytes first."""
    if bits > 8:
        return [c % 256 for c in codes] + slowly([c // 256 for c in codes], bits - 8)
    number = sum(c << bits * k for k, c in enumerate(codes))
    return list(number.to_bytes(packed(len(codes), bits), "little"))


@pytest.mark.parametrize("bits", range(1, 17))
def test_bytes_are_those_of_one_long_number_and_give_the_codes_back(bits):
    for count in COUNTS:
        codes = codes_of(count, bits, seed=count)
        made = pack(codes, bits)
        assert made.dtype == torch.uint8 and made.tolist() == slowly(codes.tolist(), bits)
        back = unpack(made, bits, count)
        assert back.dtype == codes.dtype and torch.equal(back, codes)


@pytest.mark.parametrize("bits", [2, 3, 8, 11])
def test_chunks_leave_no_seam(bits, monkeypatch):
    codes = codes_of(100, bits)
    whole = pack(codes, bits)
    monkeypatch.setattr(packing, "CHUNK", 16)
    assert torch.equal(pack(codes, bits), whole) and torch.equal(unpack(whole, bits, 100), codes)


def test_shape_and_dtype_of_codes_do_not_matter():
    codes = codes_of(24, 5)
    for other in (codes.view(2, 3, 4), codes.to(torch.int64), codes.float().to(torch.int16)):
        assert torch.equal(pack(other, 5), pack(codes, 5))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: pack(torch.tensor([4]), 2),
        lambda: pack(torch.tensor([-1]), 2),
        lambda: pack(torch.tensor([0]), 17),
        lambda: unpack(torch.zeros(1, dtype=torch.uint8), 0, 1),
        lambda: unpack(torch.zeros(2, dtype=torch.uint8), 2, 4),
        lambda: unpack(torch.zeros(1, dtype=torch.int32), 2, 4),
    ],
)
def test_what_does_not_fit_is_refused(wrong):
    with pytest.raises(ValueError):
        wrong()
