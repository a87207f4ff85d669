"""Captures: activation statistics, the model they were seen in, recorded denoiser calls."""

import json
import math
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from .. import jsonio
from ..errors import DmqError
from ..recipe import Recipe
from ..results import ActivationStats, ModelInfo, Trajectory
from . import codec
from .arrays import read_arrays, save_arrays
from .extremes import ROUNDED, find_kept_extremes
from .folders import digest, find_finished, write_folder


SHARD = 8_000_000  # bytes before compression; every file stays below the 10 MB that a Space accepts
SCALARS = ("elements", "minimum", "maximum")
POWER_SUMS = tuple(f"sum_x{k + 1}" for k in range(4))
REMEDY = "delete the folder and capture again"
LEVEL = 19  # of compression: seconds once, a tenth fewer bytes for ever


def model_key(model: str, asked: list[Any], what: str = "") -> str:
    """A name for `asked`, plain data, that begins with the model's."""
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', model).strip('-')[-40:]}-{what}{digest(asked)[:10]}"


def capture_key(recipe: Recipe) -> str:
    """A name for what is captured for `recipe`: recipes that differ only in bits share it."""
    specs = [jsonio.to_data(x, as_key=True) for x in (recipe.sampling, recipe.calibration)]
    return model_key(recipe.model, [recipe.model, *specs])


def find_capture(recipe: Recipe) -> Path | None:
    """The folder of a finished capture for `recipe`: the user's own before the one that ships."""
    return find_finished("captures", capture_key(recipe), "capture.json")


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

    `channels` says how extremes of channels are kept (`extremes.find_kept_extremes`), all else is kept
    exactly; `splits` is what `info` tells, where there is none."""
    splits = splits or (info and info.splits) or {}
    with write_folder(folder) as part:
        if info is not None:
            plain, _ = codec.to_parts(info)
            (part / "model.json").write_text(json.dumps(plain), encoding="utf-8")
        if trajectory is not None:
            # Plainly: what the frame of a compact file would hold is large, and hardly smaller.
            codec.save(part / "trajectory.safetensors", "trajectory", trajectory, level=0)
        _save_steps(part / "steps.parquet", stats)
        # Counts of one bin at all steps are neighbours: they are more alike than those of one step.
        _save_shards(part, "histograms", [_narrow(counts).T for counts in stats.counts])
        _save_shards(part, "channels", find_kept_extremes(stats, channels, splits))
        plain, _ = codec.to_parts(stats)
        plain |= {"version": 2, "exponent": stats.exponent.tolist(), "first": stats.first.tolist()}
        (part / "capture.json").write_text(json.dumps(plain), encoding="utf-8")


def load_stats(folder: Path) -> ActivationStats:
    """The statistics that `save_stats` wrote.

    Raises DmqError if the folder is damaged or of another version.
    """
    with codec.reading(folder, REMEDY):
        plain = codec.read_json(folder / "capture.json")
        version = codec.check_version(plain, folder, REMEDY, (1, 2))
        shape = (len(plain["sites"]), len(plain["timesteps"]))
        column = _load_steps(folder / "steps.parquet", shape)
        counts, low, high = (_load_plain if version == 1 else _load_compact)(folder, *shape)
        return codec.from_parts(
            ActivationStats,
            plain,
            exponent=np.array(plain.pop("exponent"), np.int16),
            first=np.array(plain.pop("first"), np.int32),
            counts=counts,
            power_sums=np.stack([column[name] for name in POWER_SUMS], -1),
            channel_min=low,
            channel_max=high,
            **{name: column[name] for name in SCALARS},
        )


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
    """Columns of one row per site and step, [S, T]; the size is checked before it is read."""
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
    return _check(counts, [pair[0] for pair in pairs], [pair[1] for pair in pairs], steps)


def _load_shards(folder: Path, kind: str, sites: int) -> list[np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob(f"{kind}-*.safetensors")):
        found |= read_arrays(file, kind)[0]
    return [found[str(s)] for s in range(sites)]


def _load_plain(folder: Path, sites: int, steps: int) -> tuple[tuple[np.ndarray, ...], ...]:
    """Counts, lowest and highest values of channels, as version 1 kept them."""
    counts = _load_histograms(folder, sites, steps)
    channels: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob("channels-*.safetensors")):
        channels |= load_file(file)
    pairs = [channels[str(s)] for s in range(sites)]
    return _check(counts, [pair[0] for pair in pairs], [pair[1] for pair in pairs], steps)


def _check(*arrays: Any) -> tuple[tuple[np.ndarray, ...], ...]:
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
    with codec.reading(file, REMEDY):
        return codec.from_parts(ModelInfo, codec.read_json(file))


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
    return codec.load(file, "trajectory", Trajectory, REMEDY)


def _narrow(counts: np.ndarray) -> np.ndarray:
    """The same counts in the smallest unsigned type that holds them."""
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
