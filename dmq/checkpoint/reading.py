"""A checkpoint from anybody, looked at before anything in it is used: sizes first, then names and
shapes, then values.

Nothing is unpickled, no code of its own is run, no path is followed that its files name, and no
memory is asked for before the file is known to be as long as it claims. What is wrong is one
DmqError: which file, what, what next."""

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..errors import DmqError
from ..models.checks import PICKLES
from ..models.quantizer import skeleton
from ..recipe import ENGINES
from .build_model import open_model
from .plans import plan_layout
from .settings import (
    FORMAT,
    Content,
    data_digest,
    model_digest,
    plan_of_settings,
    quantized_layout,
    tensor_digest,
)
from .weight_layout import LARGEST, Layout


# bytes of a header that is read at all, which is also the limit of safetensors itself
HEADER = 100_000_000
JSON = 64_000_000  # bytes of JSON that are read at all
WEIGHTS = "diffusion_pytorch_model"
SHARD = re.compile(rf"{WEIGHTS}(\.[\w-]{{1,40}})?(-\d{{5}}-of-\d{{5}})?\.safetensors")
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "I64": torch.int64,
    "F64": torch.float64,
}


@dataclass(frozen=True)
class Place:
    """Where a tensor is: its bytes in a file, all of which are there."""

    file: Path
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of tensors of one denoiser, whose headers are sound."""

    places: Mapping[str, Place]  # of each tensor, in the order of the files
    metadata: Mapping[str, Any]  # what dmq wrote into them; empty for files of others

    @property
    def layout(self) -> Layout:
        return {name: (place.dtype, place.shape) for name, place in self.places.items()}

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(place.bytes for place in self.places.values())

    def fetch(self, name: str) -> Tensor:
        """One tensor, in memory of its own: a mapped file would count as memory, and change as
        the file does.
        """
        place = self.places[name]
        if not place.bytes:
            return torch.empty(place.shape, dtype=place.dtype)
        raw = np.fromfile(place.file, np.uint8, place.bytes, offset=place.offset)
        if len(raw) != place.bytes:
            _damaged(place.file, "it ends early")
        return torch.from_numpy(raw).view(place.dtype).reshape(place.shape)


def read(folder: Path, *, weights: list[Path] | None = None) -> tuple[Content, Files, nn.Module]:
    """The content of the denoiser's folder, its files, and a skeleton that is open for them; all of
    it verified.

    `weights` are the files of tensors where somebody else chose them. Raises DmqError for what is
    no checkpoint, is damaged, or is of a newer dmq."""
    with readable(folder):
        config = read_json(folder / "config.json")
        settings = settings_in(config, folder / "config.json")
        files = read_files(weights or weight_files(folder))
        _check_seal(config, settings, files, folder)
        expected = quantized_layout(settings)
        there = files.layout
        for name, wanted in expected.items():
            if name not in there:
                raise DmqError(f"{folder}: {name:.200} is missing. Export the model again.")
            if there[name] != wanted:
                raise DmqError(
                    f"{folder}: {name:.200} is {_describe(there[name])}, expected {_describe(wanted)}."
                )
        _check_digests(files)
        content = Content(
            config=config,
            settings=settings,
            plan=plan_of_settings(settings, _arrays(settings, files)),
        )
        _check_plan_file(folder, settings)
        model = skeleton(config)
        open_model(model, content)
        _check_names(model, files, folder)
    return content, files, model


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """What the operating system or safetensors say about files in `folder` is one DmqError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise DmqError(f"{folder}: cannot be read ({why:.160}).") from None


def settings_in(config: Mapping[str, Any], file: Path) -> Mapping[str, Any]:
    """dmq's part of a `config.json`. Raises DmqError if there is none, or one of a newer dmq."""
    settings = config.get("quantization_config")
    if not isinstance(settings, dict) or settings.get("quant_method") != "dmq":
        raise DmqError(
            f"{file}: is of no model that dmq quantized; `dmq export RECIPE FOLDER` makes one."
        )
    version = settings.get("format")
    if type(version) is not int or version < 1:
        raise DmqError(f"{file}: its format {version!r:.40} is none. Export the model again.")
    if version > FORMAT:
        raise DmqError(
            f"{file}: format {version} is newer than this dmq, which reads up to {FORMAT}. Update "
            "dmq."
        )
    if settings.get("mode") not in ENGINES:
        raise DmqError(
            f"{file}: mode is {settings.get('mode')!r:.40}, not one of {', '.join(ENGINES)}."
        )
    return settings


# --- files ----------------------------------------------------------------------------------------


def weight_files(folder: Path) -> list[Path]:
    """The files of tensors in `folder`, by its index if there is one.

    Raises DmqError for pickles and for tricks.
    """
    index = folder / f"{WEIGHTS}.safetensors.index.json"
    if index.is_file():
        mapped = read_json(index).get("weight_map")
        if not isinstance(mapped, dict) or not mapped:
            raise DmqError(f"{index}: names no files. Export the model again.")
        names = list(dict.fromkeys(mapped.values()))
        for name in names:
            if not isinstance(name, str) or not SHARD.fullmatch(name):
                raise DmqError(
                    f"{index}: {name!r:.80} is no file name that belongs here; nothing was opened."
                )
        files = [folder / name for name in sorted(names)]
        held = {name: file.name for file in files for name in header(file)[0]}
        if held != mapped:
            raise DmqError(f"{index}: does not say what is in its files. Export the model again.")
        return files
    files = [
        file
        for file in sorted(folder.glob(f"{WEIGHTS}*.safetensors"))
        if SHARD.fullmatch(file.name)
    ]
    if len(files) == 1:
        return files
    if files:
        raise DmqError(
            f"{folder}: several files of tensors ({files[0].name}, …) and no index of them."
        )
    pickles = [file.name for file in sorted(folder.iterdir()) if file.suffix in PICKLES]
    if pickles:
        raise DmqError(
            f"{folder / pickles[0]}: is a pickle, which dmq never opens. Load it where you trust "
            "it, and save it "
            "again with save_pretrained(..., safe_serialization=True)."
        )
    raise DmqError(
        f"{folder}: holds no {WEIGHTS}.safetensors; expected a folder that `dmq export` wrote."
    )


def read_files(files: list[Path], *, sealed: bool = True) -> Files:
    """The headers of files of tensors. Raises DmqError if one is unsound or a tensor is in two of
    them.

    Files that dmq wrote are `sealed`: each names the digests of its own tensors, or of those of all
    files."""
    places: dict[str, Place] = {}
    metadata: dict[str, Any] = {}
    digests: dict[str, str] = {}
    for file in files:
        found, told = header(file)
        if twice := sorted(set(found) & set(places)):
            raise DmqError(
                f"{file}: {twice[0]:.200} is in another file, too. Export the model again."
            )
        places |= found
        own = _find_seal(told, file) if sealed else {"tensors": {}}
        told_twice = own.pop("tensors")
        if (metadata and own != metadata) or any(
            digests.get(name, x) != x for name, x in told_twice.items()
        ):
            raise DmqError(
                f"{file}: is of another export than {files[0].name}. Export the model again."
            )
        metadata, digests = own, digests | told_twice
    return Files(places=places, metadata=metadata | {"tensors": digests})


def header(file: Path) -> tuple[dict[str, Place], dict[str, str]]:
    """Where each tensor of a safetensors file is, and the file's metadata.

    Raises DmqError unless the tensors fill the file without gaps, each with just the bytes that its
    shape takes."""
    if file.suffix in PICKLES:
        raise DmqError(f"{file}: is a pickle, which dmq never opens. Save it again as safetensors.")
    size = file.stat().st_size
    with file.open("rb") as opened_file:
        start = opened_file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(HEADER, size - 8):
            _damaged(file, f"a header of {length} bytes in a file of {size}")
        data = parse(opened_file.read(length), file)
    metadata = data.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        _damaged(file, "metadata that is no text")
    entries = {name: _entry(name, value, file) for name, value in data.items()}
    at = 0
    for name, (dtype, shape, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != at or end - begin != dtype.itemsize * math.prod(shape):
            _damaged(file, f"{name!r:.80} lies about its bytes")
        at = end
    if at != size - 8 - length:
        _damaged(file, f"{size - 8 - length} bytes of tensors, but its header speaks of {at}")
    rows = entries.items()
    return {
        name: Place(file, 8 + length + at, dtype, shape) for name, (dtype, shape, at, _) in rows
    }, metadata


def _entry(name: str, value: Any, file: Path) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        _damaged(file, f"{name!r:.80} is no tensor")
    dtype, shape, offsets = DTYPES.get(str(value["dtype"])), value["shape"], value["data_offsets"]
    numbers = [shape, offsets]
    whole = all(
        isinstance(x, list) and all(type(n) is int and 0 <= n <= LARGEST for n in x)
        for x in numbers
    )
    if dtype is None or not whole or len(shape) > 8 or len(offsets) != 2 or offsets[0] > offsets[1]:
        _damaged(file, f"{name!r:.80} has a dtype, shape or place that is none")
    return dtype, tuple(shape), *offsets


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises DmqError if there is none, or if it is too large to be one.
    """
    if not file.is_file():
        raise DmqError(f"{file}: is not there; expected a folder that `dmq export` wrote.")
    if file.stat().st_size > JSON:
        raise DmqError(f"{file}: {file.stat().st_size} bytes of JSON; at most {JSON} are read.")
    return parse(file.read_bytes(), file)


def parse(text: bytes, file: Path) -> dict[str, Any]:
    """The object in JSON text, strictly: no key twice, no numbers that are none, not nested
    beyond reason.
    """

    def read_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r:.80} twice")
        return made

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number")

    try:
        made = json.loads(text, object_pairs_hook=read_once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        _damaged(file, f"no JSON: {str(error) or type(error).__name__:.120}")
    if not isinstance(made, dict):
        _damaged(file, "JSON that is no object")
    return made


# --- what must fit --------------------------------------------------------------------------------


def _find_seal(metadata: Mapping[str, str], file: Path) -> dict[str, Any]:
    if "dmq" not in metadata:
        raise DmqError(f"{file}: was not written by dmq, or by an old one. Export the model again.")
    own = parse(metadata["dmq"].encode("utf-8", "replace"), file)
    digests = own.get("tensors")
    if not isinstance(digests, dict) or not all(isinstance(x, str) for x in digests.values()):
        _damaged(file, "no digests of its tensors")
    return own


def _check_seal(
    config: Mapping[str, Any], settings: Mapping[str, Any], files: Files, folder: Path
) -> None:
    own = files.metadata
    if set(own["tensors"]) != set(files.places):
        some = sorted(set(own["tensors"]) ^ set(files.places))[0]
        raise DmqError(
            f"{folder}: {some!r:.200} is missing, or does not belong here. Export the model again."
        )
    if (
        own.get("settings") != data_digest(settings, ("mode",))
        or own.get("format") != settings["format"]
    ):
        raise DmqError(
            f"{folder}: config.json and the tensors are of two different exports, or one is "
            "damaged."
        )
    if own.get("model") != model_digest(config):
        raise DmqError(
            f"{folder}: config.json describes another model than the tensors are of, or is damaged."
        )


def _check_digests(files: Files) -> None:
    for name, place in files.places.items():
        if tensor_digest(files.fetch(name)) != files.metadata["tensors"][name]:
            raise DmqError(
                f"{place.file}: {name:.200} was damaged on the way. Copy or export it again."
            )


def _arrays(settings: Mapping[str, Any], files: Files) -> dict[str, Tensor]:
    return {name: files.fetch(name) for name in plan_layout(settings["plan"])}


def _check_plan_file(folder: Path, settings: Mapping[str, Any]) -> None:
    file = folder / "plan.json"
    if file.is_file() and read_json(file) != settings["plan"]:
        raise DmqError(f"{file}: is not the plan in config.json. Export the model again.")


def _check_names(model: nn.Module, files: Files, folder: Path) -> None:
    """Do the tensors fill the skeleton, and nothing else? Floats may be of another precision
    than the skeleton's.
    """
    places, there = model.state_dict(), files.layout
    if missing := sorted(set(places) - set(there)):
        raise DmqError(
            f"{folder}: {missing[0]} is missing; these are the tensors of another model."
        )
    if unknown := sorted(set(there) - set(places)):
        raise DmqError(
            f"{folder}: the model has no {unknown[0]:.200}; these are the tensors of another model."
        )
    for name, place in places.items():
        dtype, shape = there[name]
        if shape != tuple(place.shape) or dtype.is_floating_point != place.is_floating_point():
            wanted = _describe((place.dtype, tuple(place.shape)))
            raise DmqError(f"{folder}: {name} is {_describe((dtype, shape))}, expected {wanted}.")


def _describe(found: tuple[torch.dtype, tuple[int, ...]]) -> str:
    return f"{str(found[0]).removeprefix('torch.')} {list(found[1])}"


def _damaged(file: Path, why: str) -> NoReturn:
    raise DmqError(f"{file}: damaged ({why}). Copy it again, or export the model again.")
