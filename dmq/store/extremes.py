"""The extremes of channels, made smaller before they are kept: never narrower than what was seen.

They are most of a capture. Ranges for whole tensors never read them, so a thousandth of width is
not missed; what is exact stays exact where something else depends on it: extremes of whole sites,
of each side of a split input and, over all steps, of each channel (what smoothing divides by)."""

from collections.abc import Mapping

import numpy as np

from ..results import ActivationStats


EXACT, ROUNDED, SIDES = "exact", "rounded", "sides"
# Bits of the fraction that are kept of 23. Inputs may get a range for each channel; outputs and
# operands of attention never do, their channels are only looked at. (float16 has 10, bfloat16 has
# 7.)
INPUT_BITS, OTHER_BITS = 10, 7


def find_kept_extremes(
    stats: ActivationStats, how: str, splits: Mapping[str, int]
) -> list[np.ndarray]:
    """Extremes of all channels as they are kept, [2, C, T] for each site (lowest, then highest).

    EXACT: as they are. ROUNDED: outward to fewer bits. SIDES: every channel has those of its side,
    which is the whole tensor unless `splits` tells how many channels of a layer's input are before
    a shortcut's."""
    return [_find_kept(stats, s, how, splits) for s in range(len(stats.sites))]


def _find_kept(stats: ActivationStats, s: int, how: str, splits: Mapping[str, int]) -> np.ndarray:
    site, low, high = stats.sites[s], stats.channel_min[s], stats.channel_max[s]
    split = splits.get(site.name, 0) if site.point == "input" else 0
    if how != EXACT and low.size and low.dtype == np.float32:
        sides = [0, split] if 0 < split < low.shape[1] else [0]
        own = np.diff([*sides, low.shape[1]])
        lowest = np.repeat(np.minimum.reduceat(low, sides, axis=1), own, axis=1)
        highest = np.repeat(np.maximum.reduceat(high, sides, axis=1), own, axis=1)
        if how == SIDES:
            low, high = lowest, highest
        else:
            bits = INPUT_BITS if site.point == "input" else OTHER_BITS
            low, high = (
                np.maximum(-round_up(-low, bits), np.maximum(lowest, low.min(0))),
                np.minimum(round_up(high, bits), np.minimum(highest, high.max(0))),
            )
    return np.stack([low, high]).transpose(
        0, 2, 1
    )  # neighbours in time are alike, neighbouring channels are not


def round_up(x: np.ndarray, bits: int) -> np.ndarray:
    """The smallest float32 with `bits` bits of fraction >= `x` float32; not finite ones stay."""
    step = 1 << (23 - bits)
    order = x.view(np.int32).astype(
        np.int64
    )  # floats are in the order of their bits, negative ones in reverse
    order = np.where(order < 0, -(2**31) - order, order)
    order = -(-order // step) * step
    up = np.where(order < 0, -(2**31) - order, order).astype(np.int32).view(np.float32)
    return np.where(np.isfinite(x), up, x)
