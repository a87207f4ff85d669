"""Codes of a few bits as bytes without gaps, and back.

Up to 8 bits, code k takes the bits k * bits and on of one long number, lowest first:

    3 bits      byte 0 = c2 c2 c1 c1 c1 c0 c0 c0    byte 1 = c5 c4 c4 c4 c3 c3 c3 c2    byte 2 = c7 c7 c7 c6 ...

Above 8 bits the lowest byte of every code comes first, then the rest of all codes, packed as above.
Either way `count` codes take ceil(count * bits / 8) bytes; bits that belong to no code are 0."""

import torch
from torch import Tensor

from .devices import chunk_size


CHUNK = 2**20  # codes worked on together on a CPU, a multiple of 8: 8 MB as 64-bit numbers


def pack(codes: Tensor, bits: int) -> Tensor:
    """The bytes, uint8 [ceil(count * bits / 8)], of `codes`: whole numbers below 2**bits, of any
    shape and dtype.

    Raises ValueError for `bits` outside 1 to 16, and for codes that so many bits cannot hold.

    >>> pack(torch.tensor([1, 2, 3, 0, 3]), 2).tolist()
    [57, 3]
    """
    _check(bits)
    flat = codes.detach().reshape(-1)
    low, high = map(int, flat.aminmax()) if len(flat) else (0, 0)
    if low < 0 or high >= 2**bits:
        raise ValueError(f"codes reach from {low} to {high}, but have {bits} bits")
    if bits > 8:
        flat = flat.to(torch.int32)
        return torch.cat([(flat & 255).to(torch.uint8), pack(flat >> 8, bits - 8)])
    parts = [_pack_bytes(part, bits) for part in flat.split(chunk_size(flat.device, CHUNK))]
    return torch.cat(parts) if parts else flat.to(torch.uint8)


def unpack(data: Tensor, bits: int, count: int) -> Tensor:
    """The `count` codes that `pack` made `data` of, [count]: uint8, or int32 above 8 bits.

    Raises ValueError for `bits` outside 1 to 16, and unless `data` is as long as so many codes are.

    >>> unpack(torch.tensor([57, 3], dtype=torch.uint8), 2, 5).tolist()
    [1, 2, 3, 0, 3]
    """
    _check(bits)
    if data.dtype != torch.uint8 or data.ndim != 1 or len(data) != -(-count * bits // 8):
        raise ValueError(
            f"{count} codes of {bits} bits take {-(-count * bits // 8)} bytes, got "
            f"{tuple(data.shape)}"
        )
    if bits > 8:
        return (
            data[:count].to(torch.int32)
            | unpack(data[count:], bits - 8, count).to(torch.int32) << 8
        )
    if bits == 8:
        return data.clone()
    codes = torch.empty(count, dtype=torch.uint8, device=data.device)
    size = chunk_size(data.device, CHUNK)
    for own, part in zip(codes.split(size), data.split(size * bits // 8), strict=True):
        own.copy_(_unpack_bytes(part, bits)[: len(own)])
    return codes


def _check(bits: int) -> None:
    if not 1 <= bits <= 16:
        raise ValueError(f"bits must be 1 to 16, got {bits}")


def _pack_bytes(codes: Tensor, bits: int) -> Tensor:
    size = -(-len(codes) * bits // 8)
    codes = torch.cat([codes, codes.new_zeros(-len(codes) % 8)])
    if 8 % bits == 0:  # a byte holds whole codes, so that no wider numbers are needed
        columns = codes.to(torch.uint8).view(-1, 8 // bits)
        made = columns[:, 0].clone()
        for n in range(1, columns.shape[1]):
            made |= columns[:, n] << bits * n
        return made[:size]
    columns = codes.view(-1, 8).to(torch.int64)
    word = columns[:, 0].clone()
    for n in range(1, 8):
        word |= columns[:, n] << bits * n
    return _bytes(word)[:, :bits].reshape(-1)[:size]


def _unpack_bytes(data: Tensor, bits: int) -> Tensor:
    mask = 2**bits - 1
    if 8 % bits == 0:
        return torch.stack([data >> bits * n & mask for n in range(8 // bits)], 1).view(-1)
    data = torch.cat([data, data.new_zeros(-len(data) % bits)]).view(-1, bits)
    word = torch.zeros(len(data), dtype=torch.int64, device=data.device)
    for n in range(bits):
        word |= data[:, n].to(torch.int64) << 8 * n
    return torch.stack([(word >> bits * n & mask).to(torch.uint8) for n in range(8)], 1).view(-1)


def _bytes(word: Tensor) -> Tensor:
    """The bytes of 64-bit numbers, lowest first, whatever order the machine has: [n, 8]."""
    return torch.stack([(word >> 8 * n & 255).to(torch.uint8) for n in range(8)], 1)
