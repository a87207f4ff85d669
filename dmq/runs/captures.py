"""Captures: activation statistics, the model they were seen in, recorded denoiser calls."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from .. import jsonio
from ..errors import DmqError
from ..recipe import Recipe
from ..results import ActivationStats, Layer, ModelInfo, Projection, Site, TemporalBlock, Trajectory
from . import folders
from .arrays import read_arrays, save_arrays
from .extremes import ROUNDED, kept_extremes
from .folders import home, written


SHARD = 8_000_000  # bytes before compression; every file stays below the 10 MB that a Space accepts
SCALARS = ("elements", "minimum", "maximum")
POWER_SUMS = tuple(f"sum_x{k + 1}" for k in range(4))
LEVEL = 19  # of compression: seconds once, a tenth fewer bytes for ever


def capture_key(recipe: Recipe) -> str:
    """A name for what `recipe` must know of the activations: two recipes that differ only in
    bits share it.
    """
    asked = [
        recipe.model,
        *(jsonio.to_data(x, as_key=True) for x in (recipe.sampling, recipe.calibration)),
    ]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:10]
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', recipe.model).strip('-')[-40:]}-{digest}"


def find_capture(recipe: Recipe) -> Path | None:
    """The folder of a finished capture for `recipe`: the user's own before the one that ships."""
    key = capture_key(recipe)
    places = [home() / "captures" / key, folders.ASSETS / "runs" / key]
    return next((place for place in places if (place / "capture.json").is_file()), None)


def save_stats(
    folder: Path,
    stats: ActivationStats,
    info: ModelInfo | None = None,
    trajectory: Trajectory | None = None,
    *,
    channels: str = ROUNDED,
    splits: Mapping[str, int] | None = None,
) -> None:
    """Write `stats`, and what else there is to keep, into `folder`, which appears only when
    complete.

    `channels` says how extremes of channels are kept (`extremes.kept_extremes`), all else is kept
    exactly; `splits` is what `info` tells, where there is none."""
    splits = splits or (info and info.splits) or {}
    with written(folder) as part:
        if info is not None:
            (part / "model.json").write_text(json.dumps(asdict(info)), encoding="utf-8")
        if trajectory is not None:
            _save_trajectory(part, trajectory)
        _save_steps(part / "steps.parquet", stats)
        # Counts of one bin at all steps are neighbours: they are more alike than those of one step.
        _save_shards(part, "histograms", [_narrow(counts).T for counts in stats.counts])
        _save_shards(part, "channels", kept_extremes(stats, channels, splits))
        names = ("model", "fingerprint", "sampler", "samples", "subset", "made_on")
        plain = {name: getattr(stats, name) for name in names}
        plain |= {
            "version": 2,
            "timesteps": stats.timesteps,
            "sites": [asdict(site) for site in stats.sites],
        }
        plain |= {"exponent": stats.exponent.tolist(), "first": stats.first.tolist()}
        (part / "capture.json").write_text(json.dumps(plain), encoding="utf-8")


def load_stats(folder: Path) -> ActivationStats:
    """The statistics that `save_stats` wrote.

    Raises DmqError if the folder is damaged or of another version.
    """
    try:
        plain = json.loads((folder / "capture.json").read_text(encoding="utf-8"))
        version = plain.pop("version")
        if version not in (1, 2):
            raise DmqError(f"{folder.name}: a capture of another version of dmq; capture again.")
        shape = (len(plain["sites"]), len(plain["timesteps"]))
        column = _load_steps(folder / "steps.parquet", shape)
        counts, low, high = (_load_plain if version == 1 else _load_compact)(folder, *shape)
        plain["sites"] = tuple(Site(**site) for site in plain["sites"])
        plain["timesteps"] = tuple(plain["timesteps"])
        return ActivationStats(
            **plain
            | {
                "exponent": np.array(plain["exponent"], np.int16),
                "first": np.array(plain["first"], np.int32),
            },
            counts=counts,
            power_sums=np.stack([column[name] for name in POWER_SUMS], -1),
            channel_min=low,
            channel_max=high,
            **{name: column[name] for name in SCALARS},
        )
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException, SafetensorError) as error:
        why = f"{type(error).__name__}: {error}"
        raise DmqError(
            f"{folder}: a damaged capture ({why}); delete the folder and capture again."
        ) from None


def _save_steps(file: Path, stats: ActivationStats) -> None:
    rows = np.arange(len(stats.sites))
    table = {
        "site": np.repeat(rows, stats.steps),
        "step": np.tile(np.arange(stats.steps), len(rows)),
    }
    table |= {name: getattr(stats, name).reshape(-1) for name in SCALARS}
    table |= {name: stats.power_sums[..., k].reshape(-1) for k, name in enumerate(POWER_SUMS)}
    split = [
        name for name, column in table.items() if column.dtype.kind == "f"
    ]  # into planes of bytes
    pq.write_table(
        pa.Table.from_pandas(pd.DataFrame(table), preserve_index=False),
        file,
        compression="zstd",
        compression_level=9,
        use_dictionary=["site", "step", "elements"],
        use_byte_stream_split=split,
    )


def _load_steps(file: Path, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """The columns of a table with a row for each site and step, [S, T]; its size is checked
    before it is read.
    """
    with pq.ParquetFile(file) as opened:
        told = opened.metadata
        size = sum(told.row_group(n).total_byte_size for n in range(told.num_row_groups))
        if told.num_rows != math.prod(shape) or size > 1 << 16 | 256 * told.num_rows:
            raise ValueError(
                f"{file.name} has {told.num_rows} rows and {size} bytes, not those of {shape} steps"
            )
        table = opened.read([*SCALARS, *POWER_SUMS])
    return {name: table[name].to_numpy().reshape(shape) for name in table.column_names}


def _save_shards(part: Path, kind: str, arrays: list[np.ndarray]) -> None:
    for n, (a, b) in enumerate(_shards([x.nbytes for x in arrays])):
        save_arrays(
            part / f"{kind}-{n:05d}.safetensors",
            kind,
            {},
            {str(s): arrays[s] for s in range(a, b)},
            LEVEL,
        )


def _load_compact(folder: Path, sites: int, steps: int) -> tuple[tuple[np.ndarray, ...], ...]:
    """Counts, lowest and highest values of channels, as version 2 keeps them."""
    counts = [np.ascontiguousarray(x.T) for x in _load_shards(folder, "histograms", sites)]
    pairs = [
        np.ascontiguousarray(x.transpose(0, 2, 1)) for x in _load_shards(folder, "channels", sites)
    ]
    return _checked(counts, [pair[0] for pair in pairs], [pair[1] for pair in pairs], steps)


def _load_shards(folder: Path, kind: str, sites: int) -> list[np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob(f"{kind}-*.safetensors")):
        found |= read_arrays(file, kind)[0]
    return [found[str(s)] for s in range(sites)]


def _load_plain(folder: Path, sites: int, steps: int) -> tuple[tuple[np.ndarray, ...], ...]:
    """Counts, lowest and highest values of channels, as version 1 kept them."""
    counts, channels = _load_histograms(folder, sites, steps), {}
    for file in sorted(folder.glob("channels-*.safetensors")):
        channels |= load_file(file)
    pairs = [channels[str(s)] for s in range(sites)]
    return _checked(counts, [pair[0] for pair in pairs], [pair[1] for pair in pairs], steps)


def _checked(*arrays: Any) -> tuple[tuple[np.ndarray, ...], ...]:
    *lists, steps = arrays
    for each in zip(*lists, strict=True):
        if any(x.ndim != 2 or len(x) != steps for x in each) or each[1].shape != each[2].shape:
            raise ValueError(
                f"a site has arrays of shape {[x.shape for x in each]} for {steps} steps"
            )
    return tuple(map(tuple, lists))


def load_info(folder: Path) -> ModelInfo | None:
    """The description of the captured model, if it was kept; None for a folder without one."""
    file = folder / "model.json"
    if not file.is_file():
        return None
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        layers = tuple(Layer(**row | {"shape": tuple(row["shape"])}) for row in plain.pop("layers"))
        plain |= {name: tuple(plain[name]) for name in ("size", "vectors")}
        plain["temporal"] = plain.get("temporal") and _temporal_block(plain["temporal"])
        return ModelInfo(layers=layers, **plain)
    except (OSError, KeyError, ValueError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise DmqError(f"{file}: damaged ({why}); delete the folder and capture again.") from None


def _temporal_block(plain: dict) -> TemporalBlock:
    projections = tuple(Projection(**row) for row in plain["projections"])
    return TemporalBlock(
        **{name: tuple(value) for name, value in plain.items()} | {"projections": projections}
    )


def _save_trajectory(part: Path, trajectory: Trajectory) -> None:
    arrays = {"step": trajectory.step} | {
        f"conditioning/{key}": x for key, x in trajectory.conditioning.items()
    }
    for name in ("inputs", "outputs", "half"):
        arrays |= {
            f"{name}/{n}": np.ascontiguousarray(x) for n, x in enumerate(getattr(trajectory, name))
        }
    plain = {"timesteps": trajectory.timesteps, "arguments": trajectory.arguments}
    save_file(arrays, part / "trajectory.safetensors", metadata={"trajectory": json.dumps(plain)})


def load_trajectory(folder: Path) -> Trajectory:
    """The denoiser calls saved in a capture.

    Raises DmqError if none were recorded or the file is damaged.
    """
    file = folder / "trajectory.safetensors"
    if not file.is_file():
        raise DmqError(
            f"{folder}: no denoiser calls were recorded; `dmq capture --again --trajectories N` "
            "does that."
        )
    try:
        with safe_open(file, "numpy") as opened:
            plain = json.loads(opened.metadata()["trajectory"])
        arrays = load_file(file)
        calls = range(len(arrays["step"]))
        return Trajectory(
            timesteps=tuple(plain["timesteps"]),
            arguments=tuple(plain["arguments"]),
            step=arrays["step"],
            conditioning={
                key.partition("/")[2]: x
                for key, x in arrays.items()
                if key.startswith("conditioning/")
            },
            **{
                name: tuple(arrays[f"{name}/{n}"] for n in calls)
                for name in ("inputs", "outputs", "half")
            },
        )
    except (OSError, KeyError, ValueError, TypeError, SafetensorError) as error:
        raise DmqError(f"{file}: damaged ({error}); delete the folder and capture again.") from None


def _narrow(counts: np.ndarray) -> np.ndarray:
    """The same counts in the smallest unsigned type that holds them: exact, and a quarter of the
    bytes.
    """
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))))


def _shards(sizes: list[int]) -> list[tuple[int, int]]:
    """Runs [a, b) of neighbours, each of at most SHARD bytes unless one alone is larger."""
    cuts, filled = [0], 0
    for s, size in enumerate(sizes):
        if filled and filled + size > SHARD:
            cuts.append(s)
            filled = 0
        filled += size
    return list(pairwise([*cuts, len(sizes)]))


def _load_histograms(folder: Path, sites: int, steps: int) -> tuple[np.ndarray, ...]:
    found: dict[int, np.ndarray] = {}
    for file in sorted(folder.glob("histograms-*.parquet")):
        table = pq.read_table(file)
        lists = table["counts"].combine_chunks()
        flat, offsets = lists.flatten().to_numpy(), lists.offsets.to_numpy()
        for row, (a, b) in zip(table["site"].to_pylist(), pairwise(offsets), strict=True):
            found[row] = flat[a:b].reshape(steps, -1)
    return tuple(found[s] for s in range(sites))
