"""What the safetensors files of a pipeline hold, read from their headers: no weight is loaded
for it.
"""

import json
import struct
from pathlib import Path


DTYPES = {"F64": "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
LONGEST = 100_000_000  # bytes of a header, as the format allows


def count_weights(folder: Path) -> dict[str, dict[str, int]]:
    """How many floating-point numbers each part of the pipeline in `folder` has, by the dtype they
    are stored in.

    Files that are no safetensors count nothing: whoever loads them will say what is wrong.

    {"unet": {"float16": 859520964}, "vae": {"float16": 83653863}, …}
    """
    found: dict[str, dict[str, int]] = {}
    for part in sorted(folder.iterdir()):
        counts: dict[str, int] = {}
        for file in _files(part):
            for dtype, count in _count(file).items():
                counts[dtype] = counts.get(dtype, 0) + count
        if counts:
            found[part.name] = counts
    return found


def _files(part: Path) -> list[Path]:
    """The files that would be loaded: of several variants of the same weights, the plain one."""
    files = sorted(part.glob("*.safetensors")) if part.is_dir() else []
    plain = [file for file in files if file.name.count(".") == 1]
    return plain or files


def _count(file: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length)) if length <= LONGEST else {}
        for name, row in header.items():
            dtype = None if name == "__metadata__" else DTYPES.get(row["dtype"])
            if dtype:
                size = 1
                for side in row["shape"]:
                    size *= side
                counts[dtype] = counts.get(dtype, 0) + size
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return {}
    return counts
