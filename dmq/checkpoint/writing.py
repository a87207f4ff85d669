"""A quantized denoiser as a folder that diffusers reads: all of it, or nothing of it."""

import contextlib
import json
import math
import shutil
from collections.abc import Generator, Iterator, Mapping, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from .. import jsonio
from ..errors import DmqError
from ..models.adapter import AbstractAdapter
from ..models.quantizer import config_data
from ..models.temporal import temporal_features, timestep_rows
from ..numerics.packing import pack
from ..numerics.threads import one_thread
from ..quantizers.cache import FeatureTable
from ..quantizers.codes import WeightCodes
from ..quantizers.plan import vector_format
from ..quantizers.weights import quantize_weight
from ..recipe import FLOAT, Recipe, Weights
from ..results import Plan, Report
from ..store.folders import write_folder
from .build_model import find_gone
from .card import TAGS, card
from .plans import plan_tensors
from .reading import WEIGHTS
from .settings import UNSEALED, cache_rows, metadata_of, sealed, settings_of
from .weight_layout import store, store_exactly, zero_dtype


CARD = "README.md"
SHARD = 5_000_000_000  # bytes of a file of tensors


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export wrote."""

    folder: Path
    planned: int  # bytes that the plan counts
    bytes: dict[
        str, int
    ]  # of tensors, by part: codes, tables, banks, cache, float, beyond the plan
    files: dict[str, int]  # bytes on disk by file

    @property
    def stored(self) -> int:
        """Bytes of all tensors."""
        return sum(self.bytes.values())


@dataclass(frozen=True, kw_only=True)
class Collected:
    """All tensors of a checkpoint, and what its `config.json` says of them."""

    tensors: dict[str, Tensor]
    codes: dict[str, Any]  # plain data by quantized parameter
    beyond: frozenset[str]  # names of tensors that no plan counts: buffers


@dataclass(kw_only=True)
class Coder:
    """Makes stored tensors of a float model's tensors, one after another, and remembers how they
    are read.
    """

    plan: Plan
    parameters: Set[str]  # names of the model's parameters; its other tensors are buffers
    learned: Mapping[str, WeightCodes]
    codes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = self.plan.layers
        self.rows = {
            f"{row.layer.name}.weight": row
            for row in rows
            if row.weights.bits < FLOAT and not row.dropped
        }
        self.without = tuple(
            f"{name}."
            for name in (*find_gone(self.plan), *(r.layer.name for r in rows if r.dropped))
        )
        self.vectors = vector_format(rows[0].weights, self.plan.vector_bits)

    def stored(self, name: str, x: Tensor) -> dict[str, Tensor]:
        """What is stored of the model's tensor `name`; nothing of what a cache takes the place
        of.
        """
        if name in self.rows:
            row = self.rows[name]
            learned = self.learned.get(row.layer.name)
            return (
                self._keep(name, x, row.weights, row.split)
                if learned is None
                else self._parts(name, learned)
            )
        if name.startswith(self.without):
            return {}
        if name in self.parameters and x.ndim < 2 and self.plan.vector_bits < FLOAT:
            return self._keep(name, x, self.vectors)
        return {
            name: x.detach().cpu().clone()
        }  # clone: safetensors takes no two views of one memory

    def _keep(self, name: str, x: Tensor, spec: Weights, split: int = 0) -> dict[str, Tensor]:
        try:
            with one_thread():  # ranges are searched by tens of thousands of small operations
                return self._parts(name, quantize_weight(x, spec, split))
        except DmqError as error:
            raise DmqError(f"{name}: {error}") from None

    def _parts(self, name: str, made: WeightCodes) -> dict[str, Tensor]:
        parts, self.codes[name] = store(made)
        return {f"{name}.{part}": x.cpu() for part, x in parts.items()}


@torch.no_grad()
def collect(
    model: nn.Module,
    plan: Plan,
    adapter: AbstractAdapter,
    learned: Mapping[str, WeightCodes] | None = None,
) -> Generator[tuple[int, int], None, Collected]:
    """The stored form of what `quantized` makes of the same arguments; yields (done, of) by
    tensor.
    """
    state, names = (
        model.state_dict(),
        {name for name, _ in model.named_parameters(remove_duplicate=False)},
    )
    coder = Coder(plan=plan, parameters=names, learned=learned or {})
    tensors: dict[str, Tensor] = {}
    for n, (name, x) in enumerate(state.items()):
        tensors |= coder.stored(name, x)
        yield n + 1, len(state)
    tensors |= plan_tensors(plan) | _cache(model, plan, adapter)
    return Collected(tensors=tensors, codes=coder.codes, beyond=frozenset(set(state) - names))


def export_denoiser(
    model: nn.Module,
    plan: Plan,
    adapter: AbstractAdapter,
    folder: str | Path,
    *,
    learned: Mapping[str, WeightCodes] | None = None,
    recipe: Recipe | None = None,
    report: Report | None = None,
    mode: str = "executed",
    component: str = "transformer",
    source: str = "",
) -> Generator[tuple[int, int], None, Exported]:
    """Write the checkpoint of `quantized(model, plan, adapter, learned)` into `folder`; yields
    (done, of) by layer.

    `mode` is how it is loaded unless the reader chooses; `source` says where the float model came
    from, for the card. The folder appears when it is complete, in place of an older checkpoint.
    Raises DmqError if something else is there, or if the disk is full."""
    folder = Path(folder).expanduser()
    check_target(folder)
    collected = yield from collect(model, plan, adapter, learned)
    settings = settings_of(plan, collected.codes, adapter.name, mode, component)
    with writing(folder) as part:
        write_denoiser(part, config_data(model), settings, collected.tensors)
        write_beside(part, plan, settings, recipe, report, source, collected.tensors)
    return find_exported(folder, plan, collected)


def write_denoiser(
    part: Path,
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    """`config.json` and the file, or files, of tensors."""
    shards = Shards(part, SHARD)
    for name, x in tensors.items():
        shards.add(name, x)
    shards.finish(sealed(config, settings))
    write_config(part, config, settings)


def write_config(part: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """The model's `config.json`, with what dmq says of it."""
    _write_json(part / "config.json", {**config, "quantization_config": settings})


def write_plain(
    part: Path, config: Mapping[str, Any], settings: Mapping[str, Any], source: Path
) -> None:
    """The `config.json` of a model that dmq does not read, `settings` last, and the recipe it
    once followed.
    """
    plain = {name: x for name, x in config.items() if name != "quantization_config"}
    _write_json(part / "config.json", {**plain, **settings})
    if (source / "recipe.json").is_file():
        shutil.copy(source / "recipe.json", part / "recipe.json")


class Shards:
    """Files of tensors that are written as they come, each of about `size` bytes.

    What a file's header must say of all of them is known at the end only, but not how long it is:
    until then its digests are zeros."""

    def __init__(self, part: Path, size: int, sealed: bool = True) -> None:
        """Not `sealed`, the files are for others and say nothing of dmq."""
        self.part, self.size, self.sealed = part, size, sealed
        self.waiting: dict[str, Tensor] = {}
        self.files: list[list[str]] = []  # names of the tensors in each
        self.total = 0

    def add(self, name: str, x: Tensor) -> None:
        """Take a tensor; what waits is written once it is large enough."""
        if self.waiting and sum(y.nbytes for y in self.waiting.values()) + x.nbytes > self.size:
            self._write()
        self.waiting[name] = x
        self.total += x.nbytes

    def finish(self, seal: Mapping[str, str]) -> None:
        """Write what waits and give the files their names; `seal` is what `content.sealed`
        gives, or empty.
        """
        if self.waiting or not self.files:
            self._write()
        count = len(self.files)
        names = [f"{WEIGHTS}-{n + 1:05d}-of-{count:05d}.safetensors" for n in range(count)]
        names = names if count > 1 else [f"{WEIGHTS}.safetensors"]
        for n, name in enumerate(names):
            if self.sealed:
                self._seal(self._file(n), seal)
            self._file(n).chmod(0o644)  # safetensors makes files that only their owner reads
            self._file(n).rename(self.part / name)
        if count > 1:
            place = {
                name: file for file, held in zip(names, self.files, strict=True) for name in held
            }
            index = {"metadata": {"total_size": self.total}, "weight_map": place}
            _write_json(self.part / f"{WEIGHTS}.safetensors.index.json", index)

    def _file(self, n: int) -> Path:
        return self.part / f".tensors-{n}"

    def _write(self) -> None:
        metadata = metadata_of(UNSEALED, self.waiting) if self.sealed else {"format": "pt"}
        save_file(self.waiting, self._file(len(self.files)), metadata=metadata)
        self.files.append(list(self.waiting))
        self.waiting = {}

    def _seal(self, file: Path, seal: Mapping[str, str]) -> None:
        with file.open("r+b") as opened:
            length = 8 + int.from_bytes(opened.read(8), "little")
            head = opened.read(length - 8)
            for name, blank in UNSEALED.items():
                old, new = (f'\\"{name}\\": \\"{x}\\"'.encode() for x in (blank, seal[name]))
                head = head.replace(old, new, 1)
            opened.seek(8)
            opened.write(head)


def write_beside(
    part: Path,
    plan: Plan,
    settings: Mapping[str, Any],
    recipe: Recipe | None,
    report: Report | None,
    source: str,
    tensors: Mapping[str, Tensor],
) -> None:
    """The plan, the recipe, the report and the card: for people, and for dmq's pages."""
    _write_json(part / "plan.json", settings["plan"])
    if recipe is not None:
        (part / "recipe.json").write_text(jsonio.dumps(recipe), encoding="utf-8")
    if report is not None:
        _write_json(part / "report.json", asdict(report))
    taken = sum(x.nbytes for x in tensors.values())
    (part / CARD).write_text(card(plan, settings, taken, recipe, report, source), encoding="utf-8")


def find_exported(folder: Path, plan: Plan, collected: Collected) -> Exported:
    """What is in `folder`, by part."""
    taken = dict.fromkeys(("codes", "tables", "banks", "cache", "float", "beyond the plan"), 0)
    for name, x in collected.tensors.items():
        taken[_part(name, collected)] += x.nbytes
    return Exported(folder=folder, planned=plan.bytes, bytes=taken, files=sizes(folder))


def sizes(folder: Path) -> dict[str, int]:
    """Bytes on disk by file."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): file.stat().st_size for file in files}


def _part(name: str, collected: Collected) -> str:
    if name.startswith("dmq."):
        return name.split(".")[1]
    if name in collected.beyond:
        return "beyond the plan"
    owner = next((own for own in collected.codes if name.startswith(f"{own}.")), None)
    return "float" if owner is None else "codes" if name == f"{owner}.codes" else "tables"


# --- where it is written --------------------------------------------------------------------------


def check_target(folder: Path) -> None:
    """Raise DmqError unless `folder` is free, or something that dmq exported."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if not folder.exists() or is_export(folder) or is_view(folder):
        return
    what = "is no folder" if not folder.is_dir() else "holds something that dmq did not export"
    raise DmqError(f"{folder}: {what}; nothing was changed. Give a new folder, or an empty one.")


def is_export(folder: Path) -> bool:
    """Did dmq write `folder`? Of a pipeline, one of the parts that its index names says so.

    A folder that merely has such folders inside is none: replacing it would take everything else in
    it, too."""
    parts = [
        name
        for name, value in _read(folder / "model_index.json").items()
        if isinstance(value, list)
    ]
    return _dmq(folder) or any(_dmq(folder / name) for name in parts)


def is_view(folder: Path) -> bool:
    """Did dmq write `folder` for others? It has dmq's card, and no codes of dmq."""
    try:
        ours = TAGS in (folder / CARD).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return False
    return ours and not is_export(folder)


def _dmq(folder: Path) -> bool:
    settings = _read(folder / "config.json").get("quantization_config")
    return isinstance(settings, dict) and settings.get("quant_method") == "dmq"


def _read(file: Path) -> dict[str, Any]:
    """The object in a JSON file that may be anything; empty if there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A folder that becomes `folder` if the block ends well; what the disk refuses is one
    DmqError.
    """
    try:
        with write_folder(folder) as part:
            yield part
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise DmqError(
            f"{folder}: cannot be written ({why:.160}); nothing was left there."
        ) from None


# --- parts ----------------------------------------------------------------------------------------


def _cache(model: nn.Module, plan: Plan, adapter: AbstractAdapter) -> dict[str, Tensor]:
    """The tables of temporal features, as `quantizers.cache.install_cache` makes them of the
    float model.
    """
    kept, time = cache_rows(plan), plan.temporal
    tensors: dict[str, Tensor] = {}
    if not kept or time is None or time.cached is None:
        return tensors
    with one_thread():
        t = timestep_rows(plan.timesteps).to(next(model.parameters()).device)
        features = temporal_features(model, adapter, time.block, t, {})
        for k in map(int, kept):
            rows = time.cached[k].nonzero()[0].tolist()
            table = FeatureTable(features[k][rows], kept[str(k)]["bits"])
            parts = {"codes": table.codes}
            if table.bits < 16:
                zero = store_exactly(table.zero, zero_dtype(table.bits))
                parts = {"codes": pack(table.codes, table.bits), "scale": table.scale, "zero": zero}
            tensors |= {f"dmq.cache.{k}.{part}": x.cpu().contiguous() for part, x in parts.items()}
    return tensors


def _write_json(file: Path, data: Any) -> None:
    file.write_text(json.dumps(_plain(data), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(data: Any) -> Any:
    """JSON has no infinity, which a PSNR may be: written as text."""
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    if isinstance(data, Mapping):
        return {name: _plain(value) for name, value in data.items()}
    return [_plain(value) for value in data] if isinstance(data, (list, tuple)) else data
