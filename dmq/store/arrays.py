"""Files of arrays and plain data: safetensors, compressed where that is smaller, and always bit for
bit the same.

A compact file holds two tensors of bytes: `frame` is one Zstandard frame of all arrays, one behind
the other; `list` is JSON with the name, type, shape and form of each and the checksum of what is in
the frame. There are two forms.

    planes    the first bytes of all values, then the second ones, …: exponents of neighbours are alike
    nibbles   two codes below 16 in a byte, the first one in its low half

(The list is no metadata: safetensors writes two entries of that in any order, and equal files
should be equal.) Files that hold their arrays plainly, as earlier versions wrote them, are read
too."""

import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import safe_open
from safetensors.numpy import load_file, save_file


FRAME, LIST = "frame", "list"
TYPES = (
    "bool",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float16",
    "float32",
    "float64",
)
PLANES, NIBBLES = "planes", "nibbles"
# What a frame may unfold into, in its own lengths and beside that in bytes: a file cannot ask for
# more memory than this, and what would need more (constant arrays) is written plainly.
MOST_FOLD, ALWAYS = 1000, 1 << 20


def save_arrays(
    file: Path, name: str, plain: Any, arrays: Mapping[str, np.ndarray], level: int = 9
) -> None:
    """Write `arrays`, and `plain` as metadata `name`; `level`: Zstandard's, or 0 for plainly."""
    arrays = {
        key: np.asarray(x, order="C") for key, x in arrays.items()
    }  # (ascontiguousarray: scalars get an axis)
    metadata = {name: json.dumps(plain)}
    if not level:
        save_file(arrays, file, metadata=metadata)
        return
    forms = {key: _form(x) for key, x in arrays.items()}
    body = b"".join(_fold(x, forms[key]) for key, x in arrays.items())
    frame = pa.Codec("zstd", compression_level=level).compress(body, asbytes=True)
    if (
        len(frame) >= sum(x.nbytes for x in arrays.values())
        or len(body) > _most(len(frame))
        or not all(x.dtype.name in TYPES for x in arrays.values())
    ):
        save_file(arrays, file, metadata=metadata)
        return
    entries = [[key, x.dtype.name, list(x.shape), forms[key]] for key, x in arrays.items()]
    told = json.dumps({"version": 1, "crc32": zlib.crc32(body), "arrays": entries}).encode()
    save_file(
        {FRAME: np.frombuffer(frame, np.uint8), LIST: np.frombuffer(told, np.uint8)},
        file,
        metadata=metadata,
    )


def read_arrays(file: Path, name: str) -> tuple[dict[str, np.ndarray], Any]:
    """The arrays of a file and its metadata `name`; raises what `codec.reading` catches."""
    with safe_open(file, "numpy") as opened:
        plain = json.loads((opened.metadata() or {})[name])
    arrays = load_file(file)
    if set(arrays) == {FRAME, LIST}:
        arrays = _unfold(arrays[FRAME], json.loads(arrays[LIST].tobytes()))
    return arrays, plain


def _most(length: int) -> int:
    return MOST_FOLD * length + ALWAYS


def _form(x: np.ndarray) -> str:
    return NIBBLES if x.dtype == np.uint8 and x.max(initial=0) < 16 else PLANES


def _fold(x: np.ndarray, form: str) -> bytes:
    flat = x.reshape(-1)
    if form == PLANES:
        return flat.view(np.uint8).reshape(-1, x.itemsize).T.tobytes()
    pairs = np.pad(flat, (0, flat.size % 2)).reshape(-1, 2)
    return (pairs[:, 0] | pairs[:, 1] << 4).tobytes()


def _unfold(frame: np.ndarray, about: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays in a frame; every length is checked before memory is taken for it."""
    if about["version"] != 1:
        raise ValueError("written by a newer dmq")
    entries = [_check_array(*entry) for entry in about["arrays"]]
    length = sum(size for *_, size in entries)
    if frame.dtype != np.uint8 or frame.ndim != 1 or length > _most(frame.size):
        raise ValueError(f"{length} bytes cannot be in a frame of {frame.nbytes}")
    body = pa.Codec("zstd").decompress(pa.py_buffer(frame), decompressed_size=length, asbytes=True)
    if len(body) != length or zlib.crc32(body) != about["crc32"]:
        raise ValueError("its checksum is another")
    arrays, start = {}, 0
    for key, dtype, shape, form, size in entries:
        part = np.frombuffer(body, np.uint8, size, start)
        start += size
        if form == PLANES:
            flat = (
                np.array(part.reshape(dtype.itemsize, -1).T, order="C").reshape(-1).view(dtype)
            )  # own, writable
        else:
            flat = np.stack([part & 15, part >> 4], -1).reshape(-1)[: math.prod(shape)]
        arrays[key] = flat.reshape(shape)
    if len(arrays) != len(entries):
        raise ValueError("two of its arrays have one name")
    return arrays


def _check_array(
    key: str, kind: str, shape: list[int], form: str
) -> tuple[str, np.dtype, tuple[int, ...], str, int]:
    """An entry of the list with the bytes that it takes in the frame."""
    fits = (
        isinstance(key, str)
        and kind in TYPES
        and form in (PLANES, NIBBLES)
        and (form == PLANES or kind == "uint8")
    )
    if not fits or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{key!s:.40}: no array is like that")
    values, dtype = math.prod(shape), np.dtype(kind)
    return (
        key,
        dtype,
        tuple(shape),
        form,
        values * dtype.itemsize if form == PLANES else (values + 1) // 2,
    )
