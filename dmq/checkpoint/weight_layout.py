"""What a checkpoint stores of a quantized tensor: packed codes, and tables in the precision that
the format counts.

    codes            uint8 [ceil(count * bits / 8)], of all parts together
    scale            float16 or float32 [rows, runs]
    zero             uint8 or uint16, float where it is no whole number; none where the grid is symmetric
    centroids        float16 or float32 [rows, 2**bits]
    left, right      float16; smoothing as it is
    rest.…, first.…  the tables of the parts of a weight of parts

Beside them goes plain data that says how to read them. Both may come from anybody: `layout` checks
the plain data and says which tensors belong to it, before any is opened. All together are
`WeightCodes.bytes` long, no byte more."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from ..errors import DmqError
from ..numerics.packing import pack, unpack
from ..quantizers.codes import (
    KINDS,
    CodebookWeight,
    LowRankWeight,
    QuantizedWeight,
    ShiftWeight,
    SplitWeight,
    WeightCodes,
    packed,
)


Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]  # dtype and shape of each tensor

TABLES = {16: torch.float16, 32: torch.float32}
LARGEST = 2**40  # elements of a tensor that is believed at all


def store(codes: WeightCodes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors to store by part, and the plain data to read them with."""
    plain, tables = _plain(codes), _tables(codes)
    parts = {"codes": pack(torch.cat([run.reshape(-1) for run in _runs(codes)]), codes.bits)}
    for name, (dtype, shape) in layout(plain).items():
        if name != "codes":
            parts[name] = store_exactly(tables[name].reshape(shape), dtype)
    return parts, plain


def restore(parts: Mapping[str, Tensor], plain: Mapping[str, Any]) -> WeightCodes:
    """The inverse of `store`, bit for bit.

    Raises DmqError for plain data that `store` cannot have made.
    """
    expected = layout(plain)
    found = {name: (x.dtype, tuple(x.shape)) for name, x in parts.items()}
    if found != expected:
        raise DmqError(f"tensors {_describe(found)}, expected {_describe(expected)}.")
    codes = unpack(parts["codes"], plain["bits"], math.prod(plain["shape"]))
    tables = {name: _open(name, x) for name, x in parts.items() if name != "codes"}
    return _restore(plain, codes, tables)


def layout(plain: Mapping[str, Any]) -> Layout:
    """The tensors that belong to plain data. Raises DmqError if it contradicts itself."""
    try:
        shape = _shape(plain["shape"])
        bits = _whole(plain["bits"], 1, 16)
        tables = _layout(plain, shape, bits)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
        raise DmqError(f"its form is damaged ({type(error).__name__}: {error}).") from None
    return {"codes": (torch.uint8, (packed(math.prod(shape), bits),))} | tables


def stored_bytes(expected: Layout) -> int:
    """The bytes of all tensors of a layout."""
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in expected.values())


def store_exactly(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in another dtype. Raises ValueError if a number is not the same there."""
    made = x.to(dtype)
    # Some operations are not written for uint16: compared as what x is.
    if not torch.equal(made.to(x.dtype), x):
        raise ValueError(f"values cannot be stored as {dtype} without a change")
    return made.contiguous()


def zero_dtype(bits: int) -> torch.dtype:
    """Of whole zero points: the bytes that hold a code."""
    return torch.uint8 if bits <= 8 else torch.uint16


# --- one entry for each form ----------------------------------------------------------------------


@singledispatch
def _plain(codes: WeightCodes) -> dict[str, Any]:
    raise TypeError(f"no form is written for {type(codes).__name__}")


@_plain.register
def _(codes: QuantizedWeight) -> dict[str, Any]:
    rows = codes.scale.shape[0] if codes.scale.shape[0] != len(codes.codes) else None
    return _common(codes) | {
        "rows": len(codes.codes),
        "size": codes.size,
        **({"symmetric": True} if codes.symmetric else {}),
        **({"split": codes.split} if codes.split else {}),
        **({"table": codes.table} if codes.table != 32 else {}),
        **({"wide": True} if codes.wide else {}),
        **({"fraction": True} if codes.zero.is_floating_point() else {}),
        **({"scales": rows} if rows else {}),
    }


@_plain.register
def _(codes: CodebookWeight) -> dict[str, Any]:
    return _common(codes) | {"rows": len(codes.codes), "table": codes.table}


@_plain.register
def _(codes: ShiftWeight) -> dict[str, Any]:
    return _common(codes) | {"rows": len(codes.codes), "table": codes.table}


@_plain.register
def _(codes: LowRankWeight) -> dict[str, Any]:
    smoothing = {} if codes.smoothing is None else {"smoothing": 8 * codes.smoothing.element_size()}
    return _common(codes) | {"rank": codes.left.shape[1], "rest": _plain(codes.rest)} | smoothing


@_plain.register
def _(codes: SplitWeight) -> dict[str, Any]:
    return _common(codes) | {"first": _plain(codes.first), "second": _plain(codes.second)}


def _common(codes: WeightCodes) -> dict[str, Any]:
    return {"kind": type(codes).__name__, "bits": codes.bits, "shape": list(codes.shape)}


def _runs(codes: WeightCodes) -> Iterator[Tensor]:
    """The codes of all parts, in the order in which they are packed."""
    if isinstance(codes, LowRankWeight):
        yield from _runs(codes.rest)
    elif isinstance(codes, SplitWeight):
        yield from _runs(codes.first)
        yield from _runs(codes.second)
    elif isinstance(codes, QuantizedWeight | CodebookWeight | ShiftWeight):
        yield codes.codes


def _tables(codes: WeightCodes) -> dict[str, Tensor]:
    """All other tensors."""
    if isinstance(codes, LowRankWeight):
        own = {"left": codes.left, "right": codes.right, "smoothing": codes.smoothing}
        return {name: x for name, x in own.items() if x is not None} | _inside(
            "rest", _tables(codes.rest)
        )
    if isinstance(codes, SplitWeight):
        return _inside("first", _tables(codes.first)) | _inside("second", _tables(codes.second))
    return {
        name: getattr(codes, name)
        for name in ("scale", "zero", "centroids")
        if hasattr(codes, name)
    }


def _inside(name: str, tables: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}.{part}": x for part, x in tables.items()}


# --- reading: nothing is believed -----------------------------------------------------------------


def _layout(plain: Mapping[str, Any], shape: tuple[int, ...], bits: int) -> Layout:
    """Of everything but the codes; of a part, `shape` and `bits` are what the whole says of it."""
    kind, count = plain["kind"], math.prod(shape)
    if kind not in KINDS:
        raise DmqError(f"codes of the form {kind!r:.40} were stored by a newer dmq. Update dmq.")
    if _shape(plain["shape"]) != shape or plain["bits"] != bits:
        raise ValueError("a part has another shape or other bits than the whole")
    if kind == LowRankWeight.__name__:
        return _low_rank_layout(plain, shape, bits)
    if kind == SplitWeight.__name__:
        sides = [_shape(plain[name]["shape"]) for name in ("first", "second")]
        if len(shape) < 2 or (shape[0], sum(side[1] for side in sides), *shape[2:]) != shape:
            raise ValueError("the sides of a split are no sides of the whole")
        parts = (
            _inside(name, _layout(plain[name], (shape[0], side[1], *shape[2:]), bits))
            for name, side in zip(("first", "second"), sides, strict=True)
        )
        return {name: x for part in parts for name, x in part.items()}
    rows = _whole(plain["rows"], 1, count)
    if count % rows:
        raise ValueError(f"{rows} rows of {count} codes")
    if kind == CodebookWeight.__name__:
        return {"centroids": (TABLES[plain["table"]], (rows, 2 ** _whole(bits, 1, 8)))}
    if kind == ShiftWeight.__name__:
        return {"scale": (TABLES[plain["table"]], (rows, 1))}
    return _grid_layout(plain, rows, count // rows, bits)


def _grid_layout(plain: Mapping[str, Any], rows: int, length: int, bits: int) -> Layout:
    size, split = _whole(plain["size"], 1, LARGEST), _whole(plain.get("split", 0), 0, length - 1)
    scales = _whole(plain.get("scales", rows), 1, rows)
    if scales not in ((1, rows) if split else (rows,)):
        raise ValueError(f"{scales} rows of scales for {rows} of codes")
    runs = -(-split // size) - (-(length - split) // size)
    table, flags = (
        plain.get("table", 32),
        [plain.get(name, False) for name in ("symmetric", "wide", "fraction")],
    )
    if not all(type(flag) is bool for flag in flags):
        raise ValueError("a flag is neither true nor false")
    symmetric, wide, fraction = flags
    made: Layout = {"scale": (TABLES[table], (scales, runs))}
    if symmetric:
        return made
    if fraction and not wide:
        raise ValueError("zero points that are no whole numbers need the precision of scales")
    whole = {16: torch.uint16, 32: torch.int32}[table] if wide else zero_dtype(bits)
    return made | {"zero": (TABLES[table] if fraction else whole, (scales, runs))}


def _low_rank_layout(plain: Mapping[str, Any], shape: tuple[int, ...], bits: int) -> Layout:
    columns = math.prod(shape[1:])
    rank = _whole(plain["rank"], 0, min(shape[0], columns))
    if plain["rest"]["kind"] != QuantizedWeight.__name__:
        raise ValueError("the rest is on no grid")
    made: Layout = {
        "left": (torch.float16, (shape[0], rank)),
        "right": (torch.float16, (rank, columns)),
    }
    made |= {"smoothing": (TABLES[plain["smoothing"]], (shape[1],))} if "smoothing" in plain else {}
    return made | _inside("rest", _layout(plain["rest"], shape, bits))


def _restore(plain: Mapping[str, Any], codes: Tensor, tables: Mapping[str, Tensor]) -> WeightCodes:
    common: dict[str, Any] = {"bits": plain["bits"], "shape": tuple(plain["shape"])}
    if plain["kind"] == LowRankWeight.__name__:
        common["rest"] = _restore(plain["rest"], codes, _under("rest", tables))
        common |= {name: tables.get(name) for name in ("left", "right", "smoothing")}
        return LowRankWeight(**common)
    if plain["kind"] == SplitWeight.__name__:
        sides = codes.split([math.prod(plain[name]["shape"]) for name in ("first", "second")])
        for name, side in zip(("first", "second"), sides, strict=True):
            common[name] = _restore(plain[name], side, _under(name, tables))
        return SplitWeight(**common)
    codes = codes.view(plain["rows"], -1)
    if plain["kind"] == CodebookWeight.__name__:
        return CodebookWeight(
            **common, codes=codes, centroids=tables["centroids"].float(), table=plain["table"]
        )
    scale = tables["scale"].float()
    if plain["kind"] == ShiftWeight.__name__:
        return ShiftWeight(**common, codes=codes, scale=scale, table=plain["table"])
    symmetric, kept = (
        plain.get("symmetric", False),
        {name: plain[name] for name in ("split", "table", "wide") if name in plain},
    )
    zero = (
        torch.full_like(scale, 2 ** (plain["bits"] - 1), dtype=torch.int32)
        if symmetric
        else tables["zero"]
    )
    made = QuantizedWeight(
        **common,
        codes=codes,
        scale=scale,
        zero=zero,
        size=plain["size"],
        symmetric=symmetric,
        **kept,
    )
    return made if zero.dtype == torch.float32 else replace(made, zero=zero.to(torch.int32))


def _under(name: str, tables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{name}."
    return {part.removeprefix(start): x for part, x in tables.items() if part.startswith(start)}


def _open(name: str, x: Tensor) -> Tensor:
    """A table whose values can be computed with."""
    if x.is_floating_point() and not x.isfinite().all():
        raise DmqError(f"{name} has values that are no numbers.")
    if name.rpartition(".")[2] in ("scale", "smoothing") and not (x > 0).all():
        raise DmqError(f"{name} has values that are not above zero.")
    return x.float() if name.rpartition(".")[2] == "zero" and x.is_floating_point() else x


def _shape(given: Any) -> tuple[int, ...]:
    if not isinstance(given, (list, tuple)) or len(given) > 8:
        raise ValueError(f"no shape: {given!r:.60}")
    shape = tuple(_whole(n, 1, LARGEST) for n in given)
    if math.prod(shape) > LARGEST:
        raise ValueError(f"a shape of {math.prod(shape)} elements")
    return shape


def _whole(given: Any, low: int, high: int) -> int:
    if type(given) is not int or not low <= given <= high:
        raise ValueError(f"expected a whole number from {low} to {high}, got {given!r:.40}")
    return given


def _describe(found: Layout) -> str:
    return (
        ", ".join(
            f"{name} {str(dtype).removeprefix('torch.')}{list(shape)}"
            for name, (dtype, shape) in sorted(found.items())
        )
        or "none"
    )
