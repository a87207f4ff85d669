"""What was measured or calibrated along quantized trajectories: progressive ranges, effects of
windows.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from .. import jsonio
from ..errors import DmqError
from ..results import ActivationStats, ProgressiveRanges, WindowEffects
from . import folders
from .arrays import open_arrays, save_arrays
from .captures import load_stats, save_stats
from .extremes import EXACT, ROUNDED, SIDES
from .folders import home, own_home, written


PROMPTED = ("over-time", "probe")  # kinds that are listed, and show the prompts that somebody wrote
WINDOW_ARRAYS = ("fidelity", "fidelity_all", "text", "text_all", "text_float")


def trajectory_folder(kind: str, *asked: Any, own: bool = False) -> Path:
    """Where what `kind` ("progressive", "windows", …) gave for `asked` is kept: plain data and
    specs it depends on.

    The user's place for it, unless only one that ships is there and the user's `own` is not
    insisted on."""
    data = json.dumps([jsonio.to_data(one, as_key=True) for one in asked], sort_keys=True)
    name = f"{kind}-{hashlib.sha256(data.encode()).hexdigest()[:16]}"
    root = own_home() if kind in PROMPTED else home()
    place, shipped = root / "trajectories" / name, folders.ASSETS / "runs" / name
    return shipped if shipped.is_dir() and not (own or place.is_dir()) else place


def save_progressive(
    folder: Path,
    made: ProgressiveRanges,
    base: ActivationStats,
    *,
    by_channel: bool,
    splits: Mapping[str, int] | None = None,
) -> None:
    """Write ranges, and what else was seen than in the capture `base`, into `folder`, once it is
    complete.

    Extremes of channels are kept only `by_channel`, where ranges are of channels or groups of them;
    else those of each side of the inputs that `splits` names."""
    seen = made.stats.only(made.stats.unlike(base))
    with written(folder) as part:
        save_stats(part / "stats", seen, channels=ROUNDED if by_channel else SIDES, splits=splits)
        plain = {"version": 2, "calls": made.calls, "widest_change": made.widest_change}
        arrays = {name: getattr(made, name) for name in ("low", "high")}
        save_arrays(part / "ranges.safetensors", "progressive", plain, arrays)


def load_progressive(folder: Path, base: ActivationStats) -> ProgressiveRanges:
    """What `save_progressive` wrote, the rest of the statistics from their capture `base`.

    Raises DmqError if the folder is damaged or belongs to another capture.
    """
    arrays, plain = open_arrays(folder / "ranges.safetensors", "progressive")
    seen = load_stats(folder / "stats")
    if plain.pop("version", 1) == 1:
        return ProgressiveRanges(stats=seen, low=arrays["low"], high=arrays["high"], **plain)
    for name in ("fingerprint", "sampler", "timesteps", "subset"):
        if getattr(seen, name) != getattr(base, name):
            raise DmqError(
                f"{folder}: of a capture with another {name}; delete the folder and do it again."
            )
    try:
        return ProgressiveRanges(
            stats=base.updated(seen), low=arrays["low"], high=arrays["high"], **plain
        )
    except KeyError as error:
        raise DmqError(
            f"{folder}: damaged (no site {error}); delete the folder and do it again."
        ) from None


def save_call(folder: Path, n: int, stats: ActivationStats, grids: dict[str, np.ndarray]) -> None:
    """Keep what denoiser call `n` of an unfinished calibration saw, and the grids that it was
    answered with.
    """
    with written(folder / f"{n:05d}") as part:
        save_stats(part / "stats", stats, channels=EXACT)  # so that an interruption changes nothing
        save_file(
            {name: np.ascontiguousarray(x) for name, x in grids.items()}, part / "grids.safetensors"
        )


def load_calls(folder: Path) -> list[tuple[ActivationStats, dict[str, np.ndarray]]]:
    """The calls kept of an unfinished calibration, in order, as far as there is no gap."""
    calls = []
    while (place := folder / f"{len(calls):05d}").is_dir():
        calls.append((load_stats(place / "stats"), load_file(place / "grids.safetensors")))
    return calls


def save_windows(folder: Path, effects: WindowEffects) -> None:
    """Write measured effects of windows into `folder`, which appears only when complete."""
    plain = {"timesteps": effects.timesteps, "starts": effects.starts, "matcher": effects.scorer}
    with written(folder) as part:
        arrays = {name: getattr(effects, name) for name in WINDOW_ARRAYS}
        save_arrays(part / "windows.safetensors", "windows", plain, arrays)


def load_windows(folder: Path) -> WindowEffects:
    """What `save_windows` wrote. Raises DmqError if the file is damaged."""
    arrays, plain = open_arrays(folder / "windows.safetensors", "windows")
    plain |= {name: tuple(plain[name]) for name in ("timesteps", "starts")}
    return WindowEffects(scorer=plain.pop("matcher"), **plain, **arrays)
