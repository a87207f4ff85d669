"""A quantized denoiser as a folder that diffusers reads: all of it, or nothing of it."""

import contextlib
import errno
import json
import math
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass
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
from ..recipe import FLOAT, Recipe
from ..results import Plan, Report
from ..runs.folders import written
from .assembling import gone
from .card import card
from .content import cache_rows, metadata_of, settings_of
from .plans import plan_tensors
from .reading import WEIGHTS
from .stored import exactly, store, zero_dtype


SHARD = 5_000_000_000  # bytes of a file of tensors


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export wrote."""

    folder: Path
    planned: int  # bytes that the plan counts
    bytes: dict[str, int]  # of tensors, by part: codes, tables, banks, cache, float, beyond the plan
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


@torch.no_grad()
def collect(
    model: nn.Module, plan: Plan, adapter: AbstractAdapter, learned: Mapping[str, WeightCodes] | None = None
) -> Generator[tuple[int, int], None, Collected]:
    """The stored form of what `quantizers.apply.quantized` makes of the same arguments; yields (done, of) by layer."""
    tensors: dict[str, Tensor] = {}
    codes: dict[str, Any] = {}

    def keep(name: str, made: WeightCodes) -> None:
        parts, codes[name] = store(made)
        tensors.update({f"{name}.{part}": x for part, x in parts.items()})

    without = tuple(f"{name}." for name in (*gone(plan), *(row.layer.name for row in plan.layers if row.dropped)))
    rows = [row for row in plan.layers if row.weights.bits < FLOAT and not row.dropped]
    for n, row in enumerate(rows):
        with one_thread():
            made = (learned or {}).get(row.layer.name)
            weight = model.get_submodule(row.layer.name).weight
            keep(f"{row.layer.name}.weight", quantize_weight(weight, row.weights, row.split) if made is None else made)
        yield n + 1, len(rows)
    state = model.state_dict()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    spec = vector_format(plan.layers[0].weights, plan.vector_bits)
    for name, x in state.items():
        if name in codes or name.startswith(without):
            continue
        if name in parameters and x.ndim < 2 and plan.vector_bits < FLOAT:
            with one_thread():
                keep(name, quantize_weight(x, spec))
        else:
            tensors[name] = x.detach().cpu().clone()  # clone: safetensors takes no two views of one memory
    tensors |= plan_tensors(plan) | _cache(model, plan, adapter)
    return Collected(tensors=tensors, codes=codes, beyond=frozenset(set(state) - set(parameters)))


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
    """Write the checkpoint of `quantized(model, plan, adapter, learned)` into `folder`; yields (done, of) by layer.

    `mode` is how it is loaded unless the reader chooses; `source` says where the float model came from, for the card.
    The folder appears when it is complete, in place of an older checkpoint. Raises DmqError if something else is
    there, or if the disk is full.
    """
    folder = Path(folder).expanduser()
    check_target(folder)
    collected = yield from collect(model, plan, adapter, learned)
    settings = settings_of(plan, collected.codes, adapter.name, mode, component)
    with writing(folder) as part:
        write_denoiser(part, config_data(model), settings, collected.tensors)
        write_beside(part, plan, settings, recipe, report, source, collected.tensors)
    return exported(folder, plan, collected)


def write_denoiser(
    part: Path, config: Mapping[str, Any], settings: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """`config.json` and the file, or files, of tensors."""
    _write_json(part / "config.json", {**config, "quantization_config": settings})
    metadata = metadata_of(config, settings, tensors)
    shards = _shards(tensors)
    names = [f"{WEIGHTS}-{n + 1:05d}-of-{len(shards):05d}.safetensors" for n in range(len(shards))]
    names = names if len(shards) > 1 else [f"{WEIGHTS}.safetensors"]
    for name, shard in zip(names, shards, strict=True):
        save_file({key: tensors[key] for key in shard}, part / name, metadata=metadata)
    if len(shards) > 1:
        write_index(part, {key: name for name, shard in zip(names, shards, strict=True) for key in shard},
                    sum(x.nbytes for x in tensors.values()))  # fmt: skip


def write_index(part: Path, place: Mapping[str, str], size: int) -> None:
    """The index that says which file holds which tensor."""
    index = {"metadata": {"total_size": size}, "weight_map": dict(place)}
    _write_json(part / f"{WEIGHTS}.safetensors.index.json", index)


def write_beside(
    part: Path, plan: Plan, settings: Mapping[str, Any], recipe: Recipe | None, report: Report | None, source: str,
    tensors: Mapping[str, Tensor],
) -> None:  # fmt: skip
    """The plan, the recipe, the report and the card: for people, and for dmq's pages."""
    _write_json(part / "plan.json", settings["plan"])
    if recipe is not None:
        (part / "recipe.json").write_text(jsonio.dumps(recipe), encoding="utf-8")
    if report is not None:
        _write_json(part / "report.json", asdict(report))
    taken = sum(x.nbytes for x in tensors.values())
    (part / "README.md").write_text(card(plan, settings, taken, recipe, report, source), encoding="utf-8")


def exported(folder: Path, plan: Plan, collected: Collected) -> Exported:
    """What is in `folder`, by part."""
    taken = dict.fromkeys(("codes", "tables", "banks", "cache", "float", "beyond the plan"), 0)
    for name, x in collected.tensors.items():
        taken[_part(name, collected)] += x.nbytes
    files = {str(file.relative_to(folder)): file.stat().st_size for file in sorted(folder.rglob("*"))
             if file.is_file()}  # fmt: skip
    return Exported(folder=folder, planned=plan.bytes, bytes=taken, files=files)


def _part(name: str, collected: Collected) -> str:
    if name.startswith("dmq."):
        return name.split(".")[1]
    if name in collected.beyond:
        return "beyond the plan"
    owner = next((own for own in collected.codes if name.startswith(f"{own}.")), None)
    return "float" if owner is None else "codes" if name == f"{owner}.codes" else "tables"


# --- where it is written -------------------------------------------------------------------------------------------


def check_target(folder: Path) -> None:
    """Raise DmqError unless `folder` is free, or a checkpoint or a pipeline that dmq exported."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if not folder.exists() or is_export(folder):
        return
    what = "is no folder" if not folder.is_dir() else "holds something that dmq did not export"
    raise DmqError(f"{folder}: {what}; nothing was changed. Give a new folder, or an empty one.")


def is_export(folder: Path) -> bool:
    """Did dmq write `folder`? A pipeline says so by the plan in one of its parts."""
    places = [folder, *(path for path in folder.iterdir() if path.is_dir())] if folder.is_dir() else []
    return any(_dmq(place / "config.json") for place in places)


def _dmq(file: Path) -> bool:
    try:
        settings = json.loads(file.read_text(encoding="utf-8")).get("quantization_config")
    except (OSError, ValueError, AttributeError):
        return False
    return isinstance(settings, dict) and settings.get("quant_method") == "dmq"


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A folder that becomes `folder` if the block ends well; what the disk refuses is one DmqError."""
    try:
        with written(folder) as part:
            yield part
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        why = "the disk is full" if full else getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise DmqError(f"{folder}: cannot be written ({why:.160}); nothing was left there.") from None


# --- parts ---------------------------------------------------------------------------------------------------------


def _cache(model: nn.Module, plan: Plan, adapter: AbstractAdapter) -> dict[str, Tensor]:
    """The tables of temporal features, as `quantizers.cache.install_cache` makes them of the float model."""
    kept = cache_rows(plan)
    if not kept:
        return {}
    time, tensors = plan.temporal, {}
    with one_thread():
        t = timestep_rows(plan.timesteps).to(next(model.parameters()).device)
        features = temporal_features(model, adapter, time.block, t, {})
        for k in map(int, kept):
            table = FeatureTable(features[k][time.cached[k].nonzero()[0].tolist()], time.spec.cache.bits)
            parts = {"codes": table.codes}
            if table.bits < 16:
                zero = exactly(table.zero, zero_dtype(table.bits))
                parts = {"codes": pack(table.codes, table.bits), "scale": table.scale, "zero": zero}
            tensors |= {f"dmq.cache.{k}.{part}": x.cpu().contiguous() for part, x in parts.items()}
    return tensors


def _shards(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """Names of the tensors of each file, in order, each file below SHARD bytes unless one tensor is larger."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, x in tensors.items():
        if shards[-1] and size + x.nbytes > SHARD:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += x.nbytes
    return shards


def _write_json(file: Path, data: Any) -> None:
    file.write_text(json.dumps(_plain(data), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(data: Any) -> Any:
    """JSON has no infinity, which a PSNR may be: written as text."""
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    if isinstance(data, Mapping):
        return {name: _plain(value) for name, value in data.items()}
    return [_plain(value) for value in data] if isinstance(data, (list, tuple)) else data
