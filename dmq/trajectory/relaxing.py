"""Activation relaxing (PCR): which steps get more bits, and what that makes of a partition of
the steps.
"""

import numpy as np

from ..errors import DmqError
from ..recipe import Relaxing
from ..results import GroupErrors, Groups, WindowEffects


def choose_relaxed_steps(
    spec: Relaxing, steps: int, effects: WindowEffects | None = None
) -> tuple[int, ...]:
    """The positions in sampling order that `spec` relaxes: exactly round(fraction * steps) of them.

    The `released` index set is range(int(T*s), int(T*e) + 1) of the interval [s, e], which is one
    more or none. "auto" needs the measured `effects` of windows. Raises DmqError for listed steps
    that do not exist. Source: pcr."""
    if spec.where == "list":
        if spec.steps[-1] >= steps:
            raise DmqError(
                f"relaxing.steps names step {spec.steps[-1]}, but {steps} steps end with "
                f"{steps - 1}."
            )
        return spec.steps
    count = round(spec.fraction * steps)
    if spec.where == "auto":
        if effects is None:
            raise ValueError("relaxing.where is 'auto': measure the windows first")
        start = best_run(effects, count, spec.judge)
    elif spec.match_reference_code:
        low, high = (0.0, spec.fraction) if spec.where == "first" else (1 - spec.fraction, 1.0)
        return tuple(
            i for i in range(int(steps * low + 1e-9), int(steps * high + 1e-9) + 1) if i < steps
        )
    else:
        start = 0 if spec.where == "first" else steps - count
    return tuple(range(start, start + count))


def best_run(effects: WindowEffects, count: int, judge: str) -> int:
    """The first of `count` neighbouring steps that gain most; the later run if two gain the same.

    Each step gains what its window does, spread evenly over the window.
    """
    gain = effects.step_gains(judge)
    sums = np.convolve(gain, np.ones(count), "valid") if count else np.zeros(len(gain) + 1)
    return int(np.flatnonzero(np.isclose(sums, sums.max(), rtol=1e-9, atol=0))[-1])


def mean_bits(bits: int, relaxed_bits: int, relaxed: tuple[int, ...], calls: np.ndarray) -> float:
    """Mean activation bits over the denoiser `calls` [T] of each step.

    >>> mean_bits(8, 10, tuple(range(10)), np.ones(50))
    8.4
    """
    inside = float(np.asarray(calls)[list(relaxed)].sum())
    return bits + (relaxed_bits - bits) * inside / float(np.sum(calls))


def split_groups(groups: Groups, relaxed: tuple[int, ...]) -> Groups:
    """The partition with relaxed steps in groups of their own: no group has two numbers of bits.

    Slots are numbered anew in the order of their first step, so runs of steps stay runs.
    """
    inside = np.zeros(groups.slot.shape[1], bool)
    inside[list(relaxed)] = True
    slot = np.empty_like(groups.slot)
    for s, row in enumerate(groups.slot):
        numbers: dict[tuple[int, bool], int] = {}
        slot[s] = [
            numbers.setdefault((int(k), bool(wide)), len(numbers))
            for k, wide in zip(row, inside, strict=True)
        ]
    return Groups(sites=groups.sites, slot=slot)


def combine_errors(plain: GroupErrors, wide: GroupErrors, relaxed: tuple[int, ...]) -> GroupErrors:
    """The errors of one partition with `wide` bits at the relaxed steps and `plain` ones
    elsewhere.
    """
    inside = np.zeros(plain.bits.shape[1], bool)
    inside[list(relaxed)] = True
    parts = {
        name: np.where(inside, getattr(wide, name), getattr(plain, name))
        for name in ("bits", "low", "high", "rounding", "clipping")
    }
    return GroupErrors(groups=wide.groups, power=plain.power, **parts)
