"""Tiny real models with statistics written by hand, so that ranges and groups are known."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from diffusers import DiffusionPipeline
from torch import nn

from dmq.models.adapter import AbstractAdapter
from dmq.models.attention import POINTS, make_products_explicit
from dmq.models.borrow import borrow
from dmq.models.loading import describe
from dmq.models.tiny import tiny_ddpm, tiny_sd
from dmq.quantizers.plan import make_plan, site_bits
from dmq.recipe import MinMax, Recipe, Sampling, Weights
from dmq.results import ActivationStats, GroupErrors, Groups, ModelInfo, Plan, Site


TIMESTEPS = (901.0, 701.0, 501.0, 301.0, 101.0, 1.0)


@dataclass
class Subject:
    """A float model with what is needed to plan for it; ranges widen from step to step."""

    model: nn.Module
    adapter: AbstractAdapter
    info: ModelInfo
    stats: ActivationStats

    def recipe(self, **changes: Any) -> Recipe:
        """W8A8 with the fast range for weights."""
        return Recipe(
            **(
                {"sampling": Sampling(steps=len(TIMESTEPS)), "weights": Weights(range=MinMax())}
                | changes
            )
        )

    def errors(self, recipe: Recipe, slot: list[int] | None = None) -> GroupErrors:
        """The partition `slot` of all sites with the range that covers each group."""
        stats = self.stats
        slots = np.tile(np.array(slot or [0] * stats.steps, dtype=np.int16), (len(stats.sites), 1))
        low, high = np.empty(slots.shape), np.empty(slots.shape)
        for s, row in enumerate(slots):
            for k in set(row.tolist()):
                low[s, row == k] = stats.minimum[s, row == k].min()
                high[s, row == k] = stats.maximum[s, row == k].max()
        nothing = np.zeros(slots.shape)
        bits = np.repeat(site_bits(self.info, recipe, stats)[:, None], stats.steps, 1)
        return GroupErrors(
            groups=Groups(sites=stats.sites, slot=slots),
            bits=bits,
            low=low,
            high=high,
            rounding=nothing,
            clipping=nothing,
            power=nothing + 1,
        )

    def plan(self, slot: list[int] | None = None, **changes: Any) -> Plan:
        recipe = self.recipe(**changes)
        return make_plan(self.info, recipe, self.stats, self.errors(recipe, slot))


def statistics(fingerprint: str, sites: list[Site], channels: list[int]) -> ActivationStats:
    s, t = len(sites), len(TIMESTEPS)
    size = np.where([site.point == "probs" for site in sites], 0.2, 1.0)[:, None] * (
        1 + 0.25 * np.arange(t)
    )
    size = size * (1 + 0.01 * np.arange(s)[:, None])
    low = np.where([[site.point == "probs"] for site in sites], 0, -size).astype(np.float32)
    share = [np.linspace(0.5, 1, c, dtype=np.float32) for c in channels]
    return ActivationStats(
        model="tiny",
        fingerprint=fingerprint,
        sampler="",
        timesteps=TIMESTEPS,
        sites=tuple(sites),
        samples=1,
        subset=0,
        exponent=np.zeros(s, np.int16),
        first=np.zeros(s, np.int32),
        counts=(np.ones((t, 1), np.int64),) * s,
        elements=np.ones((s, t), np.int64),
        minimum=low,
        maximum=(1.5 * size).astype(np.float32),
        power_sums=np.ones((s, t, 4)),
        channel_min=tuple(low[k][:, None] * share[k] for k in range(s)),
        channel_max=tuple((1.5 * size[k]).astype(np.float32)[:, None] * share[k] for k in range(s)),
    )


@pytest.fixture(params=[tiny_sd, tiny_ddpm], ids=["sd", "ddpm"])
def subject(request) -> Subject:
    return make_subject(request.param())


@pytest.fixture
def ddpm() -> Subject:
    return make_subject(tiny_ddpm())


@pytest.fixture
def sd() -> Subject:
    return make_subject(tiny_sd())


def make_subject(pipe: DiffusionPipeline) -> Subject:
    loaded = describe("tiny", pipe)
    model, layers = loaded.denoiser, loaded.info.layers
    points = ("input", "output")
    sites = [
        Site(name=row.name, point=p, kind=row.kind, block=row.block)
        for row in layers
        for p in points
    ]
    channels = [row.shape[1 if site == 0 else 0] for row in layers for site in (0, 1)]
    attentions = make_products_explicit(borrow(model))
    sites += [Site(name=name, point=p, kind="attention") for name in attentions for p in POINTS]
    channels += [4] * (len(sites) - len(channels))
    return Subject(
        model, loaded.adapter, loaded.info, statistics(loaded.info.fingerprint, sites, channels)
    )
