"""Results as files and back: any dataclass is plain data (JSON) and arrays (safetensors).

    field: array                array `field`
    field: tuple of arrays      arrays `field/0`, `field/1`, …
    field: arrays by name       arrays `field/NAME`, and the list of names as plain data
    field: dataclasses          objects without their arrays; these are called `field.0.NAME`
    field: specs of recipes     as `jsonio` writes them

A field that was renamed (metadata `was`) keeps its first name there. What is read is distrusted:
it must have the types that its dataclass is annotated with."""

import contextlib
import functools
import json
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError, safe_open

from .. import jsonio
from ..errors import DmqError
from ..recipe import Spec
from .arrays import read_arrays, save_arrays


VERSION = 1
REMEDY = "delete the folder and do it again"
UNREADABLE = (OSError, LookupError, ValueError, TypeError, AttributeError, RecursionError)
_ABSENT = object()  # what is no plain data, or not there
T = TypeVar("T")


@contextlib.contextmanager
def reading(place: Path | str, remedy: str = REMEDY) -> Iterator[None]:
    """The block reads `place`: what fails is one DmqError that names it and the `remedy`."""
    try:
        yield
    except (*UNREADABLE, SafetensorError, pa.ArrowException) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise DmqError(f"{place}: damaged ({why}); {remedy}.") from None


def check_version(
    plain: dict[str, Any], place: Path, remedy: str = REMEDY, known: tuple[int, ...] = (VERSION,)
) -> int:
    """Take the version out of `plain`. Raises DmqError if it is not `known`."""
    if (version := plain.pop("version", 1)) not in known:
        raise DmqError(f"{place}: of another version of dmq; {remedy}.")
    return version


def save(file: Path, name: str, value: Any, level: int = 9) -> None:
    """Write a dataclass into one file: its arrays, and the rest as the metadata called `name`."""
    plain, arrays = to_parts(value)
    save_arrays(file, name, {"version": VERSION} | plain, arrays, level)


def load(file: Path, name: str, kind: type[T], remedy: str = REMEDY) -> T:
    """The `kind` that `save` wrote. Raises DmqError if the file is damaged or of another version."""
    with reading(file, remedy):
        arrays, plain = read_arrays(file, name)
        check_version(plain, file, remedy)
        return from_parts(kind, plain, arrays)


def open_arrays(
    file: Path, name: str, remedy: str = REMEDY
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """As `arrays.read_arrays`; raises DmqError that tells the `remedy` if the file is damaged."""
    with reading(file, remedy):
        return read_arrays(file, name)


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; raises one of UNREADABLE if it is none."""
    data = json.loads(file.read_text("utf-8"))
    _expect(dict, data, file.name)
    return data


def peek(file: Path, name: str) -> dict[str, Any]:
    """The plain data of a file alone; {} if it cannot be read."""
    with contextlib.suppress(*UNREADABLE, SafetensorError), safe_open(file, "numpy") as opened:
        return dict(json.loads(opened.metadata()[name]))
    return {}


def to_parts(value: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A dataclass as plain data and arrays."""
    arrays: dict[str, np.ndarray] = {}
    return _split(value, "", arrays), arrays


def _split(x: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """`x` as plain data, its arrays are added to `arrays`; _ABSENT if nothing else is in it."""
    if isinstance(x, np.ndarray):
        arrays[name] = x
        return _ABSENT
    if isinstance(x, Spec):
        return jsonio.to_data(x)
    if is_dataclass(x):
        prefix = f"{name}." if name else ""
        named = [(f.metadata.get("was", f.name), getattr(x, f.name)) for f in fields(x)]
        parts = {key: _split(part, prefix + key, arrays) for key, part in named}
        return {key: part for key, part in parts.items() if part is not _ABSENT}
    if isinstance(x, (tuple, list)):
        items = [_split(each, _item(name, n, each), arrays) for n, each in enumerate(x)]
        return _ABSENT if items and items[0] is _ABSENT else items
    if isinstance(x, dict):
        parts = {key: _split(each, _item(name, key, each), arrays) for key, each in x.items()}
        return list(parts) if _ABSENT in parts.values() else parts
    return x


def _item(name: str, key: Any, x: Any) -> str:
    return f"{name}/{key}" if isinstance(x, np.ndarray) else f"{name}.{key}"


def from_parts(
    kind: type[T], plain: Any, arrays: dict[str, np.ndarray] | None = None, /, **given: Any
) -> T:
    """The inverse of `to_parts`; fields that are `given` come from elsewhere.

    Raises one of UNREADABLE, such as TypeError for another type, a field too many or too few."""
    left = dict(arrays or {})
    value = _join(kind, plain, "", left, given)
    if left:
        raise ValueError(f"{kind.__name__} has no array {next(iter(left))!r:.80}")
    return value


_hints = functools.cache(get_type_hints)


def _join(
    hint: Any,
    data: Any,
    name: str,
    arrays: dict[str, np.ndarray],
    given: dict[str, Any] | None = None,
) -> Any:
    origin, options = get_origin(hint), get_args(hint)
    if hint is np.ndarray:
        return arrays.pop(name)
    if origin in (UnionType, Union):
        if data in (None, _ABSENT) and NoneType in options:
            return arrays.pop(name, None)
        kept = [option for option in options if option is not NoneType]
        if len(kept) == 1 and kept[0] is not np.ndarray:
            return _join(kept[0], data, name, arrays)
    if any(isinstance(option, type) and issubclass(option, Spec) for option in (hint, *options)):
        try:
            return jsonio.from_data(hint, data, name)
        except DmqError as error:
            raise ValueError(str(error)) from None
    if is_dataclass(hint):
        return _join_fields(hint, data, f"{name}." if name else "", arrays, given or {})
    if origin is tuple:
        return _join_tuple(options, data, name, arrays)
    if origin is dict:
        if options[1] is not np.ndarray:
            _expect(dict, data, name)
            return {k: _join(options[1], x, f"{name}.{k}", arrays) for k, x in data.items()}
        found = (key for key in arrays if key.startswith(f"{name}/"))
        keys = [key[len(name) + 1 :] for key in found] if data is _ABSENT else data
        return {key: arrays.pop(f"{name}/{key}") for key in keys}
    _expect((int, float) if hint is float else hint, data, name)
    return data  # an integer stays one: what it was is part of the names of answers


def _join_fields(
    kind: Any, data: Any, prefix: str, arrays: dict[str, np.ndarray], given: dict[str, Any]
) -> Any:
    _expect(dict, data, prefix or kind.__name__)
    values, left = dict(given), dict(data)
    for f in fields(kind):
        key = f.metadata.get("was", f.name)
        hint, item = _hints(kind)[f.name], left.pop(key, _ABSENT)
        if f.name in given or (item is _ABSENT and np.ndarray not in (hint, *get_args(hint))):
            continue
        values[f.name] = _join(hint, item, prefix + key, arrays)
    if left:
        raise TypeError(f"{prefix}{next(iter(left))!s:.80}: {kind.__name__} has no such field")
    for f in fields(kind):
        if f.name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise KeyError(prefix + f.name)
    return kind(**values)


def _join_tuple(options: tuple, data: Any, name: str, arrays: dict[str, np.ndarray]) -> tuple:
    if options[0] is np.ndarray:
        count = next(n for n in range(len(arrays) + 1) if f"{name}/{n}" not in arrays)
        return tuple(arrays.pop(f"{name}/{n}") for n in range(count))
    _expect((list, tuple), data, name)
    hints = options if options[-1] is not Ellipsis else options[:1] * len(data)
    pairs = enumerate(zip(hints, data, strict=True))
    return tuple(_join(hint, x, f"{name}.{n}", arrays) for n, (hint, x) in pairs)


def _expect(kind: Any, data: Any, name: str) -> None:
    untrue = isinstance(data, bool) and kind is not bool  # to Python, True is a number
    if kind is not Any and (untrue or not isinstance(data, kind)):
        wanted = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        told = "nothing" if data is _ABSENT else f"{data!r:.80}"
        raise TypeError(f"{name}: expected {wanted}, got {told}")
