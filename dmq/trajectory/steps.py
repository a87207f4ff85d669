"""From the scheduler's t to the step i: by value, never by counting calls (contract 2)."""

import math
from functools import lru_cache
from itertools import pairwise
from numbers import Integral

import torch

from ..errors import DmqError


MAX_LISTED_STEPS = 9  # recorded timesteps that an error prints before it leaves out the middle


def index_of(
    t: float, timesteps: tuple[float, ...], unknown_timestep: str = "error"
) -> tuple[int, float]:
    """The step i whose recorded timestep is `t`, and how far away that one is: 0.0 unless `unknown_timestep`
    found the nearest.

    An integer must be equal. A float may also be a recorded value after rounding to float32,
    float16 or bfloat16, as pipelines in low precision cast it, if that is less than half the way to
    the neighbouring timestep. The other way round, a recorded float may be what such a cast made of
    `t`: the calibration then ran in low precision. Raises DmqError for any other `t`, unless
    `unknown_timestep` is "nearest"; the caller then shows the distance. Source: adp_dm, "Rules of index_of".

    >>> index_of(500, (999, 500, 1)), index_of(980.0, (981, 961)), index_of(510, (999, 500, 1), "nearest")
    ((1, 0.0), (0, 0.0), (1, 10.0))
    """
    exact, rounded = _lookup(timesteps)
    i = exact.get(t if isinstance(t, Integral) else float(t))
    if i is None and not isinstance(t, Integral):
        i = rounded.get(float(t))
    if i is None and math.isfinite(t):
        i = _find_recorded_rounding(t, timesteps, exact)
    if i is not None:
        return i, 0.0
    if unknown_timestep == "nearest" and math.isfinite(t):
        i = min(range(len(timesteps)), key=lambda j: abs(timesteps[j] - t))
        return i, abs(float(timesteps[i]) - float(t))
    raise DmqError(
        f"timestep {float(t):g} was not calibrated; recorded were {_list_steps(timesteps)}. Sample "
        "with the scheduler and "
        "the number of steps of the calibration, calibrate anew for these, or set unknown_timestep to "
        '"nearest".'
    )


def _find_recorded_rounding(
    t: float, timesteps: tuple[float, ...], exact: dict[float, int]
) -> int | None:
    """The step whose recorded float is `t` in some low precision, if no other recorded one is as
    near.
    """
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        cast = torch.tensor(float(t), dtype=torch.float64).to(dtype).item()
        i = exact.get(cast)
        if i is not None and isinstance(timesteps[i], float):
            others = [abs(other - cast) for other in timesteps if other != cast]
            return i if abs(cast - t) < min(others, default=math.inf) / 2 else None
    return None


@lru_cache(maxsize=64)
def _lookup(timesteps: tuple[float, ...]) -> tuple[dict[float, int], dict[float, int]]:
    """Step of every recorded value, and of every value that rounding makes of one."""
    exact = {t: i for i, t in enumerate(timesteps)}
    ordered = sorted(exact)
    gap = dict.fromkeys(ordered, math.inf)
    for low, high in pairwise(ordered):
        gap[low], gap[high] = min(gap[low], high - low), high - low
    rounded: dict[float, int] = {}
    for dtype in (torch.bfloat16, torch.float16, torch.float32):  # the finest last: it wins
        cast = torch.tensor([float(t) for t in timesteps], dtype=torch.float64).to(dtype).tolist()
        rounded |= {
            c: i
            for i, (t, c) in enumerate(zip(timesteps, cast, strict=True))
            if abs(c - t) < gap[t] / 2
        }
    return exact, rounded


def _list_steps(timesteps: tuple[float, ...]) -> str:
    texts = [f"{t:g}" for t in timesteps]
    if len(texts) > MAX_LISTED_STEPS:
        texts[MAX_LISTED_STEPS // 2 : -(MAX_LISTED_STEPS // 2)] = ["…"]
    return f"{', '.join(texts)} ({len(timesteps)} steps)"
