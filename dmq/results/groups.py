"""Groups of timesteps: their errors, the search for them, and windows of steps left in float."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from ..errors import DmqError
from ..recipe import FLOAT
from .model import Site


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The partition of the steps: `slot[s, i]` is the slot of site s at step i, numbered from 0
    without gaps.
    """

    sites: tuple[Site, ...]
    slot: np.ndarray  # [S, T] int16; equal rows when one partition serves all

    def boundaries(self, s: int = 0) -> tuple[int, ...]:
        """The first step of every group but the first one of site s, in order."""
        return tuple(int(i) + 1 for i in np.flatnonzero(np.diff(self.slot[s])))


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupErrors:
    """Quantization error of the activations under a partition, from statistics alone. Arrays [S, T]
    float64.

    `rounding + clipping` is the mean squared error at a step; `power` is the mean of x^2 there.
    """

    groups: Groups
    bits: np.ndarray  # [S, T] of each site at each step; FLOAT rows have no error
    low: np.ndarray  # [S, T] the range in force at each step
    high: np.ndarray
    rounding: np.ndarray
    clipping: np.ndarray
    power: np.ndarray

    @property
    def relative(self) -> np.ndarray:
        """Error over power [S, T]: 0.01 means 20 dB."""
        return (self.rounding + self.clipping) / np.maximum(self.power, 1e-30)

    def per_step(self) -> np.ndarray:
        """Mean over the quantized sites of the relative error [T]."""
        quantized = (self.bits < FLOAT).any(1)
        return (
            self.relative[quantized].mean(0) if quantized.any() else np.zeros(self.power.shape[1])
        )

    def per_site(self) -> np.ndarray:
        """Mean over the steps of the relative error [S]."""
        return self.relative.mean(1)

    @property
    def total(self) -> float:
        return float(self.per_step().mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowEffects:
    """What it does to images to leave activations in float within one window of the steps. W
    windows.

    Latent errors are mean |x^ - x|^2 / |x|^2 of the finished samples, paired by noise; matches are
    100 * cosine of image and prompt, nan where there are no prompts."""

    timesteps: tuple[float, ...]
    starts: tuple[int, ...]  # the first step of each window; the last one ends with the trajectory
    fidelity: np.ndarray  # [W, images] latent error with that window in float
    fidelity_all: np.ndarray  # [images] with all steps quantized
    clip_score: np.ndarray = field(metadata={"was": "text"})  # [W, images] match
    clip_score_all: np.ndarray = field(metadata={"was": "text_all"})  # [images]
    clip_score_float: np.ndarray = field(metadata={"was": "text_float"})  # [images]
    # What judged images and prompts; "" if nothing did.
    scorer: str = field(metadata={"was": "matcher"})

    @property
    def windows(self) -> tuple[tuple[int, int], ...]:
        """First step and last plus one of each window."""
        return tuple(pairwise([*self.starts, len(self.timesteps)]))

    @property
    def lengths(self) -> np.ndarray:
        """Steps in each window, [W]."""
        return np.diff([*self.starts, len(self.timesteps)])

    def gain_per_image(self, judge: str) -> np.ndarray:
        """What each window brings each image [W, images]: decibels of its latent error, or
        match.

        Decibels, so that every image counts alike: a few err a hundred times more than the
        others."""
        if judge == "text":
            return self.clip_score - self.clip_score_all
        smallest = np.finfo(np.float32).tiny
        return 10 * np.log10(
            np.maximum(self.fidelity_all, smallest) / np.maximum(self.fidelity, smallest)
        )

    def gains(self, judge: str) -> np.ndarray:
        """What each restored step brings, mean over the images [W]: decibels of error, or match
        that is won.

        Raises DmqError if `judge` is "text" and nothing judged that.
        """
        if judge == "text" and not np.isfinite(self.clip_score_all).any():
            raise DmqError(
                "relaxing.judge is 'text', but this model generates without prompts; set it to "
                "fidelity."
            )
        return self.gain_per_image(judge).mean(1) / self.lengths

    @property
    def typical_error(self) -> float:
        """Latent error with all steps quantized, geometric mean over the images."""
        return float(
            np.exp(np.log(np.maximum(self.fidelity_all, np.finfo(np.float32).tiny)).mean())
        )

    def step_gains(self, judge: str) -> np.ndarray:
        """`gains` of the window that each step is in, [T]."""
        return np.repeat(self.gains(judge), self.lengths)


@dataclass(frozen=True, kw_only=True)
class SearchSnapshot:
    """A search for groups as it stands; Q searched sites, T steps, G groups."""

    phase: str  # "Generate", "Start", "Search", "Measure", "Refit" or "Choose"
    done: int
    total: int  # of this phase
    step: int | None  # the step i of the last iteration
    error: float  # its relative noise-prediction error; nan before the first one
    # what the entropy added to the loss there; the error counts as a share of its step's first one
    penalty: float
    importance: np.ndarray  # [Q, T, G] float32: rows sum to 1
    entropy: (
        np.ndarray
    )  # [T]: mean over sites, 1 where all groups are alike, 0 where all have chosen
    visits: np.ndarray  # [T]: how often each step was used


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchResult:
    """Groups and ranges that a search found (ADP-DM), with what it takes to judge them. Q searched
    sites.

    `soft`, `hard` and `refitted` are relative noise-prediction errors per step on the images that
    were learned from: with mixed groups, with each step in one group, and with the groups and
    ranges that are kept: learned again, and chosen on images laid aside."""

    model: str
    fingerprint: str
    sampler: str
    timesteps: tuple[float, ...]
    sites: tuple[Site, ...]
    bits: np.ndarray  # [Q] uint8
    slot: (
        np.ndarray
    )  # [Q, T] int16, numbered from 0 without gaps; a group need not be a run of steps
    low: np.ndarray  # [Q, G] float32: of each group; 0 behind a site's last one
    high: np.ndarray
    importance: np.ndarray  # [Q, T, G] float16, before each step was given to one group
    visits: np.ndarray  # [T] int32: N, the chosen calibration steps
    steps: np.ndarray  # [n] int32: the step of every iteration
    errors: np.ndarray  # [n] float32: its relative noise-prediction error
    penalties: np.ndarray  # [n] float32: what the entropy added to the loss
    soft: np.ndarray  # [T] float64
    hard: np.ndarray
    refitted: np.ndarray
    local: dict[
        str, np.ndarray
    ]  # [T] relative error of the activations, mean over sites, by way of grouping
    note: str = ""  # why it ended before its time, if it did

    @property
    def scattered(self) -> np.ndarray:
        """[Q] bool: has the site a group that is no single run of steps?"""
        return (np.diff(self.slot, axis=1) != 0).sum(1) > self.slot.max(1)
