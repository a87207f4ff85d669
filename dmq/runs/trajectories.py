"""What was measured or calibrated along quantized trajectories: progressive ranges, effects of windows."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from .. import jsonio
from ..errors import DmqError
from ..results import ActivationStats, ProgressiveRanges, WindowEffects
from . import folders
from .captures import load_stats, save_stats
from .folders import home, own_home, written


PROMPTED = ("over-time", "probe")  # kinds that are listed, and show the prompts that somebody wrote
WINDOW_ARRAYS = ("fidelity", "fidelity_all", "text", "text_all", "text_float")


def trajectory_folder(kind: str, *asked: Any, own: bool = False) -> Path:
    """Where what `kind` ("progressive", "windows", …) gave for `asked` is kept: plain data and specs it depends on.

    The user's place for it, unless only one that ships is there and the user's `own` is not insisted on.
    """
    data = json.dumps([jsonio.to_data(one) for one in asked], sort_keys=True)
    name = f"{kind}-{hashlib.sha256(data.encode()).hexdigest()[:16]}"
    root = own_home() if kind in PROMPTED else home()
    place, shipped = root / "trajectories" / name, folders.ASSETS / "runs" / name
    return shipped if shipped.is_dir() and not (own or place.is_dir()) else place


def save_progressive(folder: Path, made: ProgressiveRanges) -> None:
    """Write statistics and ranges into `folder`, which appears only when complete."""
    with written(folder) as part:
        save_stats(part / "stats", made.stats)
        plain = {"calls": made.calls, "widest_change": made.widest_change}
        arrays = {name: np.ascontiguousarray(getattr(made, name)) for name in ("low", "high")}
        save_file(arrays, part / "ranges.safetensors", metadata={"progressive": json.dumps(plain)})


def load_progressive(folder: Path) -> ProgressiveRanges:
    """What `save_progressive` wrote. Raises DmqError if the folder is damaged."""
    arrays, plain = opened(folder / "ranges.safetensors", "progressive")
    return ProgressiveRanges(stats=load_stats(folder / "stats"), low=arrays["low"], high=arrays["high"], **plain)


def save_call(folder: Path, n: int, stats: ActivationStats, grids: dict[str, np.ndarray]) -> None:
    """Keep what denoiser call `n` of an unfinished calibration saw, and the grids that it was answered with."""
    with written(folder / f"{n:05d}") as part:
        save_stats(part / "stats", stats)
        save_file({name: np.ascontiguousarray(x) for name, x in grids.items()}, part / "grids.safetensors")


def load_calls(folder: Path) -> list[tuple[ActivationStats, dict[str, np.ndarray]]]:
    """The calls kept of an unfinished calibration, in order, as far as there is no gap."""
    calls = []
    while (place := folder / f"{len(calls):05d}").is_dir():
        calls.append((load_stats(place / "stats"), load_file(place / "grids.safetensors")))
    return calls


def save_windows(folder: Path, effects: WindowEffects) -> None:
    """Write measured effects of windows into `folder`, which appears only when complete."""
    plain = {"timesteps": effects.timesteps, "starts": effects.starts, "matcher": effects.matcher}
    with written(folder) as part:
        arrays = {name: np.ascontiguousarray(getattr(effects, name)) for name in WINDOW_ARRAYS}
        save_file(arrays, part / "windows.safetensors", metadata={"windows": json.dumps(plain)})


def load_windows(folder: Path) -> WindowEffects:
    """What `save_windows` wrote. Raises DmqError if the file is damaged."""
    arrays, plain = opened(folder / "windows.safetensors", "windows")
    plain |= {name: tuple(plain[name]) for name in ("timesteps", "starts")}
    return WindowEffects(**plain, **arrays)


def opened(file: Path, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a file and its metadata called `name`. Raises DmqError if it is damaged."""
    try:
        with safe_open(file, "numpy") as opened:
            plain = json.loads(opened.metadata()[name])
        return load_file(file), plain
    except (OSError, KeyError, ValueError, TypeError, SafetensorError) as error:
        raise DmqError(f"{file}: damaged ({error}); delete the folder and do it again.") from None
