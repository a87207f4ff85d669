"""Run folders as earlier versions of dmq wrote them, so that tests can say that they still open."""

import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from dmq.results import ActivationStats, ProgressiveRanges


def save_old_stats(folder: Path, stats: ActivationStats, shard: int = 8_000_000) -> None:
    """Version 1: counts as lists in Parquet, extremes of channels in float32, and what follows
    from the sums.
    """
    folder.mkdir(parents=True)
    rows = np.arange(len(stats.sites))
    table = {
        "site": np.repeat(rows, stats.steps),
        "step": np.tile(np.arange(stats.steps), len(rows)),
    }
    table |= {name: getattr(stats, name).reshape(-1) for name in ("elements", "minimum", "maximum")}
    table |= {f"sum_x{k + 1}": stats.power_sums[..., k].reshape(-1) for k in range(4)}
    table |= {
        name: getattr(stats, name).astype(np.float32).reshape(-1)
        for name in ("mean", "std", "kurtosis")
    }
    for q in (0.001, 0.01, 0.5, 0.99, 0.999):
        table[f"q{q}"] = np.concatenate([stats.quantile(s, q) for s in rows]).astype(np.float32)
    pq.write_table(pa.table(table), folder / "steps.parquet", compression="zstd")
    at_once = max(1, shard // 1000)
    for n, a in enumerate(range(0, len(rows), at_once)):
        some = range(a, min(a + at_once, len(rows)))
        _save_counts(folder / f"histograms-{n:05d}.parquet", some, [stats.counts[s] for s in some])
        pairs = {str(s): np.stack([stats.channel_min[s], stats.channel_max[s]]) for s in some}
        save_file(pairs, folder / f"channels-{n:05d}.safetensors")
    plain = {
        name: getattr(stats, name)
        for name in ("model", "fingerprint", "sampler", "samples", "subset")
    }
    plain |= {
        "version": 1,
        "timesteps": stats.timesteps,
        "sites": [dataclasses.asdict(site) for site in stats.sites],
    }
    plain |= {"exponent": stats.exponent.tolist(), "first": stats.first.tolist()}
    (folder / "capture.json").write_text(json.dumps(plain), encoding="utf-8")


def _save_counts(file: Path, rows: range, counts: list[np.ndarray]) -> None:
    flat = np.concatenate([c.reshape(-1) for c in counts]).astype(np.uint32)
    offsets = np.cumsum([0, *(c.size for c in counts)]).astype(np.int32)
    assert all(a < b for a, b in pairwise(offsets))
    table = pa.table(
        {"site": list(rows), "counts": pa.ListArray.from_arrays(offsets, pa.array(flat))}
    )
    pq.write_table(table, file, compression="zstd")


def save_old_progressive(folder: Path, made: ProgressiveRanges) -> None:
    """Version 1: the statistics of all sites, those of the capture too."""
    save_old_stats(folder / "stats", made.stats)
    plain = {"calls": made.calls, "widest_change": made.widest_change}
    arrays = {name: np.ascontiguousarray(getattr(made, name)) for name in ("low", "high")}
    save_file(arrays, folder / "ranges.safetensors", metadata={"progressive": json.dumps(plain)})
