"""Errors along the steps: of temporal features, of samples, and of amplified errors."""

from dataclasses import dataclass

import numpy as np

from .model import TemporalBlock


@dataclass(frozen=True, kw_only=True, eq=False)
class TemporalErrors:
    """What quantization does to the temporal features; K projections, T steps in sampling order.

    "before" is the time embedding treated as all other layers, "computed" that of the recipe (learned
    rounding, ranges per step), "after" what the model really uses: computed, or from the cache
    where `cached` says so. Where more than t enters, cosines and shifts are those of the worst row
    of conditioning, errors are means over the rows."""

    block: TemporalBlock
    timesteps: tuple[float, ...]
    conditionings: int  # rows of conditioning that were tried; 1 where t is all that enters
    cosine_before: np.ndarray  # [K, T] float32: between a feature and the float one
    cosine_computed: np.ndarray
    cosine_after: np.ndarray
    shift_before: (
        np.ndarray
    )  # [K, T] int32: the step whose float feature is nearest, minus the step; 0 is right
    shift_after: np.ndarray
    error_before: np.ndarray  # [K, T] float32: squared error over squared length
    error_computed: np.ndarray
    error_cached: np.ndarray  # with the recipe's cache bits; nan without a cache
    cached: np.ndarray  # [K, T] bool: the selection; all False without a cache
    inputs: tuple[str, ...]  # a layer for each of the different activations in the block
    low: np.ndarray  # [inputs, T] float32: their ranges at each step
    high: np.ndarray
    cache_bits: np.ndarray  # [B] what a cache could have
    cache_errors: np.ndarray  # [B, K, T] float32
    cache_sizes: np.ndarray  # [B] bytes of a cache of everything, per row of conditioning
    computed_bytes: int  # of the time embedding's layers, which such a cache replaces where t is all that enters
    vectors: tuple[
        np.ndarray, ...
    ]  # K arrays [T, C_k] float32: the float features, of the first conditioning
    vectors_before: tuple[np.ndarray, ...]
    vectors_after: tuple[np.ndarray, ...]
    losses: np.ndarray  # [iterations] of the learned rounding; empty without one
    note: str = ""  # why its training ended before its time, if it did


@dataclass(frozen=True, kw_only=True)
class OverTime:
    """Errors along the steps, by recipe name; T steps, P images, all as squared distance over
    squared length.
    """

    timesteps: tuple[float, ...]
    coefficients: (
        np.ndarray
    )  # [T] |c_i|: how far the sampler moves for each unit of error in the answer
    accumulated: dict[
        str, np.ndarray
    ]  # [T, P] of the latents after each step, on the model's own trajectory
    predicted_x0: dict[
        str, np.ndarray
    ]  # [T, P] of the finished sample that each answer stands for; {} if unknown
    isolated: dict[str, np.ndarray]  # [T] of the noise prediction, on the float model's trajectory
    mean_bits: dict[str, float]  # of the activations
    watched: tuple[int, ...]  # steps whose predicted image is in the strips
    strips: dict[
        str, tuple[np.ndarray, ...]
    ]  # "float" included: one image at these steps, then finished


@dataclass(frozen=True, kw_only=True)
class ProbeImage:
    """What an amplified quantization error within one window of steps makes of an image."""

    start: int
    end: int  # behind the last step
    gain: float
    pixels: np.ndarray  # uint8 [H, W, 3]
    exact: np.ndarray  # the float model's image
    error: (
        float  # squared distance of the finished sample from the float one, over its squared length
    )
    psnr: float
    match: float  # 100 * cosine of image and prompt; nan where there is none
    match_float: float
