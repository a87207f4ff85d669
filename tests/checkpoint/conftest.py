"""Tiny models of all kinds with plans of all kinds, for the tests of checkpoints."""

import dataclasses

import numpy as np
import pytest

from dmq.models.tiny import tiny_ddpm, tiny_sd
from dmq.models.tiny_pipelines import tiny_pipeline
from dmq.quantizers.plan import make_plan
from dmq.recipe import (
    FLOAT,
    Activations,
    Cache,
    Hqq,
    KMeans,
    LowRank,
    MinMax,
    Override,
    PerChannel,
    PerGroup,
    PowerOfTwo,
    Protection,
    Temporal,
    Uaq,
    Weights,
)
from dmq.results import Plan
from tests.quantizers.conftest import TIMESTEPS, Subject, make_subject


SLOT = [0, 0, 1, 1, 1, 2]
EVERYTHING = Protection(first_last=False, norms_and_biases=False)
MODELS = {
    "sd": tiny_sd,
    "ddpm": tiny_ddpm,
    "PixArt": lambda: tiny_pipeline("PixArt-alpha"),
    "DiT": lambda: tiny_pipeline("DiT"),
    "SD3": lambda: tiny_pipeline("SD3"),
}


def weights(bits=4, form=None, **changes):
    return Weights(
        **{"bits": bits, "range": MinMax()} | ({"format": form} if form else {}) | changes
    )


RECIPES = {
    "W8A8": {"weights": weights(8)},
    "everything, groups": {
        "weights": weights(4, granularity=PerGroup(size=5)),
        "protection": EVERYTHING,
        "activations": Activations(bits=6, attention_bits=8),
    },
    "channels": {
        "weights": weights(4, symmetric=True),
        "activations": Activations(bits=8, granularity=PerChannel(), range=MinMax()),
    },
    "UAQ": {"weights": weights(3, Uaq()), "activations": Activations(bits=FLOAT)},
    "KMA": {"weights": weights(3, KMeans(shared="tensor", iterations=2))},
    "KMC, HQQ and shifts": {
        "weights": weights(4, KMeans(iterations=2)),
        "overrides": (
            Override(layers="*attn1*", format=Hqq(group=8, iterations=2)),
            Override(layers="*ff*", format=PowerOfTwo(), weight_bits=3),
        ),
    },
    "split shortcuts": {
        "weights": weights(4),
        "split_shortcuts": True,
        "overrides": (Override(layers="up_blocks.1*", format=KMeans(iterations=2)),),
    },
    "low rank": {
        "weights": weights(4, LowRank(rank=2, group=8, rounds=1)),
        "activations": Activations(bits=8, dynamic="token"),
    },
}
CACHES = {
    "8 bits": Cache(bits=8),
    "half": Cache(bits=16),
    "5 bits by row": Cache(bits=5, selection="row"),
    "by block": Cache(bits=12, selection="block"),
}


def subject_of(model: str) -> Subject:
    return make_subject(MODELS[model]())


@pytest.fixture(scope="session")
def sd() -> Subject:
    return subject_of("sd")


@pytest.fixture(scope="session")
def ddpm() -> Subject:
    return subject_of("ddpm")


def plan_for(subject: Subject, recipe: str) -> Plan:
    return subject.plan(SLOT, **RECIPES[recipe])


def cached_plan(subject: Subject, cache: str, **changes) -> Plan:
    """A plan with a cache of the time embedding, part of it computed where the cache leaves a choice."""
    spec = CACHES[cache]
    recipe = subject.recipe(temporal=Temporal(cache=spec, fsc="tib"), weights=weights(8), **changes)
    cached = None
    if spec.selection != "none":
        shape = (len(subject.info.temporal.projections), len(TIMESTEPS))
        cached = np.random.default_rng(0).random(shape) < 0.6
        cached = np.repeat(cached[:, :1], shape[1], 1) if spec.selection == "block" else cached
        cached[0] = True
    return make_plan(subject.info, recipe, subject.stats, subject.errors(recipe, SLOT), cached)


def same_plan(a: Plan, b: Plan) -> bool:
    """Are two plans equal, their arrays bit for bit?"""

    def equal(x, y):
        if isinstance(x, np.ndarray):
            return (
                isinstance(y, np.ndarray)
                and x.dtype == y.dtype
                and x.shape == y.shape
                and np.array_equal(x, y)
            )
        if dataclasses.is_dataclass(x):
            return type(x) is type(y) and all(
                equal(getattr(x, f.name), getattr(y, f.name)) for f in dataclasses.fields(x)
            )
        if isinstance(x, tuple):
            return isinstance(y, tuple) and len(x) == len(y) and all(map(equal, x, y))
        return x == y

    return equal(a, b)
