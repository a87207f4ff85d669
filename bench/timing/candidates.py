"""What is compared: the rows of every table, each a recipe with the function that makes its plan.

    grouping      shared, uniform, learned, exact cuts, per step; k-means and Lloyd as yardsticks without a recipe
    calibration   which steps decide on one shared range, all choices with equally many samples
    time          how the time embedding is rounded, ranged and kept; all other activations have one shared range
    alone         the same with everything outside of the time embedding in float

A row that another table has already is the same recipe, and so is measured once.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dmq.artifacts.model_info import get_info, get_temporal_block
from dmq.artifacts.of_recipe import search_spec
from dmq.calibration.selection import draw
from dmq.progress import run_to_end
from dmq.quantizers.plan import make_plan, site_bits
from dmq.quantizers.weights import QuantizedWeight
from dmq.recipe import (
    FLOAT,
    ActiveSteps,
    BlockReconstruction,
    Cache,
    LearnedGroups,
    NormalSteps,
    OptimalGroups,
    Override,
    PerStep,
    Recipe,
    SharedRange,
    Temporal,
    Tiar,
    UniformGroups,
    UniformSteps,
)
from dmq.reconstruction.temporal import from_arrays
from dmq.results import GroupErrors, Groups, Plan
from dmq.store.learned import load_rounding, search_key
from dmq.trajectory.errors import ErrorTable
from dmq.trajectory.grouping import group_timesteps
from dmq.trajectory.search import drop_empty_groups, lloyd, start_groups
from dmq.workflow.answers import (
    get_blocks,
    get_errors,
    get_plan,
    get_search,
    get_site_errors,
    get_statistics,
    has_blocks,
    has_search,
    has_time_rounding,
)
from dmq.workflow.learning import learn_blocks, learn_time_rounding, search_groups

from .measure import alone, timed_block


TABLES = ("grouping", "calibration", "time", "alone")


@dataclass(frozen=True, kw_only=True)
class Found:
    """A plan, the codes that were learned for it, and what it took."""

    plan: Plan
    seconds: float | None  # to find it, what it learned included; None: learned before, untimed
    local: float  # mean relative error of the activations, from statistics
    codes: Mapping[str, QuantizedWeight] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A row: `find` makes the plan of `recipe` and adds the seconds of what it learns to a dict."""

    name: str
    recipe: Recipe
    find: Callable[[Recipe, dict[str, float]], Found]

    @property
    def conditions(self) -> str:
        """What the row depends on beside its recipe, for the file of results."""
        return "" if self.find is planned else self.find.__name__


def candidates(table: str, recipe: Recipe, chosen: Any) -> Iterator[Candidate]:
    """The rows of a table for `recipe`, which has a shared range; `chosen` are the options of
    the command line.
    """
    makers = {
        "grouping": groupings,
        "calibration": calibrations,
        "time": time_embeddings,
        "alone": time_embeddings_alone,
    }
    yield from makers[table](recipe, chosen)


def searches(recipe: Recipe, chosen: Any) -> bool:
    """Is a search for groups wanted at the activation bits of `recipe`?"""
    return chosen.learned == "all" or (chosen.learned == "low" and recipe.activations.bits <= 6)


def reconstructs(recipe: Recipe) -> bool:
    """Is the rounding of blocks learned, and the time embedding looked at alone? Only at W4A8, where
    papers compare.
    """
    return recipe.weights.bits == 4 and recipe.activations.bits == 8


def _learned(recipe: Recipe, chosen: Any) -> Recipe:
    return replace(recipe, grouping=LearnedGroups(count=chosen.groups, **chosen.search))


def groupings(recipe: Recipe, chosen: Any) -> Iterator[Candidate]:
    """Coarse to fine; the yardsticks and the search only where a search is wanted."""
    count, learned = chosen.groups, _learned(recipe, chosen)
    yield Candidate(name="shared", recipe=recipe, find=planned)
    yield Candidate(
        name=f"uniform {count}",
        recipe=replace(recipe, grouping=UniformGroups(count=count)),
        find=planned,
    )
    if searches(recipe, chosen):
        yield Candidate(name=f"learned {count}", recipe=learned, find=planned)
    exact = replace(recipe, grouping=OptimalGroups(count=count, per_layer=True))
    yield Candidate(name=f"exact {count}", recipe=exact, find=planned)
    if searches(recipe, chosen):
        yield Candidate(name=f"k-means {count}", recipe=learned, find=clustered)
        yield Candidate(name=f"lloyd {count}", recipe=learned, find=improved)
    yield Candidate(name="per step", recipe=replace(recipe, grouping=PerStep()), find=planned)


def calibrations(recipe: Recipe, chosen: Any) -> Iterator[Candidate]:
    """As many samples for each choice; all steps, which is more of them, as the yardstick."""
    count = chosen.drawn or max(1, recipe.sampling.steps // 2)
    yield Candidate(name="all steps", recipe=recipe, find=planned)
    for name, spec in (
        ("uniform", UniformSteps(count=count)),
        ("normal", NormalSteps(count=count)),
    ):
        yield Candidate(
            name=f"{name} {count}", recipe=replace(recipe, calibration_steps=spec), find=planned
        )
    if searches(recipe, chosen):
        searched = replace(_learned(recipe, chosen), calibration_steps=ActiveSteps())
        yield Candidate(name=f"active {count}", recipe=searched, find=ActivelyDrawn(count))


def time_embeddings(recipe: Recipe, chosen: Any) -> Iterator[Candidate]:
    """From nearest codes to a cache; nothing if the model has no time embedding that dmq knows."""
    if timed_block(get_temporal_block(recipe.model)) is None:
        return
    tiar = Tiar(iterations=chosen.tiar_iterations)
    ways = {
        "TIAR": Temporal(rounding=tiar),
        "TIAR+FSC (tib)": Temporal(rounding=tiar, fsc="tib"),
        "TIAR+FSC (all)": Temporal(rounding=tiar, fsc="all"),
        "cache 8": Temporal(cache=Cache(bits=8)),
        **({"cache 16": Temporal(cache=Cache(bits=16))} if recipe.weights.bits <= 4 else {}),
        "selected": Temporal(rounding=tiar, fsc="tib", cache=Cache(bits=8, selection="row")),
    }
    yield Candidate(name="nearest", recipe=recipe, find=planned)
    if reconstructs(recipe) and chosen.iterations_of_blocks:
        spec = BlockReconstruction(
            time=True, iterations=chosen.iterations_of_blocks, images=chosen.block_images
        )
        yield Candidate(name="blocks", recipe=replace(recipe, reconstruction=spec), find=rebuilt)
    for name, temporal in ways.items():
        yield Candidate(name=name, recipe=replace(recipe, temporal=temporal), find=planned)


def time_embeddings_alone(recipe: Recipe, chosen: Any) -> Iterator[Candidate]:
    """The rows of `time_paths`, without what differs from others only outside of the time embedding."""
    for one in time_embeddings(recipe, chosen) if reconstructs(recipe) else ():
        if one.name != "TIAR+FSC (all)":
            yield replace(one, find=Alone(one.find))


# --- how plans are made ---------------------------------------------------------------------------


def planned(recipe: Recipe, learned: dict[str, float]) -> Found:
    """The plan of the recipe itself; a search or a rounding of the time embedding is learned if it is
    not there.
    """
    spent: list[float | None] = []
    if spec := search_spec(recipe):
        key = search_key(recipe, spec, get_info(recipe.model).fingerprint)
        if not has_search(recipe):
            _, learned[key] = timed(lambda: run_to_end(search_groups(recipe)))
        spent.append(learned.get(key))
    codes = {}
    if recipe.temporal and (folder := _time_rounding(recipe, learned)):
        codes = from_arrays(*load_rounding(folder)).codes
        spent.append(learned[folder.name])
    (plan, errors), seconds = timed(lambda: (get_plan(recipe), get_errors(recipe)))
    whole = None if None in spent else seconds + sum(spent)
    return Found(plan=plan, seconds=whole, local=errors.total, codes=codes)


def _time_rounding(recipe: Recipe, learned: dict[str, float]) -> Any:
    """The folder of the time embedding's rounding; learned again where nobody knows how long it took."""
    there = has_time_rounding(recipe)
    folder, seconds = timed(lambda: run_to_end(learn_time_rounding(recipe)))
    if folder and there and folder.name not in learned:
        folder, seconds = timed(lambda: run_to_end(learn_time_rounding(recipe, again=True)))
        there = False
    if folder and not there:
        learned[folder.name] = seconds
    return folder


def rebuilt(recipe: Recipe, learned: dict[str, float]) -> Found:
    """The time embedding's part of each block learned on the block's output, all else in float; in the
    recipe's own plan.

    Its embedding lies in no block and keeps its nearest codes.
    """
    inside = get_temporal_block(recipe.model).layers
    bits = {"weight_bits": recipe.weights.bits, "activation_bits": recipe.activations.bits}
    others = Override(layers="*", weight_bits=FLOAT, activation_bits=FLOAT)
    time_only = replace(
        recipe, overrides=(others, *(Override(layers=name, **bits) for name in inside))
    )
    there = has_blocks(time_only)
    folder, seconds = timed(lambda: run_to_end(learn_blocks(time_only)))
    if not there:
        learned[folder.name] = seconds
    found = planned(replace(recipe, reconstruction=None), learned)
    return replace(found, codes=get_blocks(time_only).codes, seconds=learned.get(folder.name))


@dataclass(frozen=True)
class Alone:
    """Another way of making a plan, with everything outside of the time embedding in float."""

    find: Callable[[Recipe, dict[str, float]], Found]

    @property
    def __name__(self) -> str:
        return f"{self.find.__name__} alone"

    def __call__(self, recipe: Recipe, learned: dict[str, float]) -> Found:
        found = self.find(recipe, learned)
        # Only a plan that knows its time embedding can be cut down to it; the banks are the same.
        named = replace(recipe, reconstruction=None, temporal=recipe.temporal or Temporal())
        return replace(found, plan=alone(get_plan(named)))


@dataclass(frozen=True)
class ActivelyDrawn:
    """One shared range from `count` samples of the steps that a search used."""

    count: int

    @property
    def __name__(self) -> str:
        return f"{self.count} active"

    def __call__(self, recipe: Recipe, learned: dict[str, float]) -> Found:
        spent = planned(recipe, learned).seconds
        drawn = draw(get_search(recipe).visits, self.count)
        stats = get_statistics(recipe)
        bits = site_bits(get_info(recipe.model), recipe, stats)
        table = ErrorTable(
            stats, recipe.activations, bits, np.bincount(drawn, minlength=stats.steps).astype(float)
        )
        errors = table.errors(group_timesteps(SharedRange(), table))
        return replace(_resolved(recipe, errors), seconds=spent)


def clustered(recipe: Recipe, learned: dict[str, float]) -> Found:
    """The search's start without the search: k-means of the steps by their own ranges, then the
    best range of each.
    """
    found, seconds = timed(lambda: _resolved(recipe, _members(recipe, _start(recipe))))
    return replace(found, seconds=seconds)


def improved(recipe: Recipe, learned: dict[str, float]) -> Found:
    """Lloyd's algorithm on the layer-local error, from k-means: scattered groups without a
    search by gradients.
    """

    def best() -> np.ndarray:
        table = get_site_errors(recipe)
        pairs = zip(table.quantized, _start(recipe), strict=True)
        return np.stack([lloyd(table.losses(s), slot) for s, slot in pairs])

    found, seconds = timed(lambda: _resolved(recipe, _members(recipe, best())))
    return replace(found, seconds=seconds)


def _start(recipe: Recipe) -> np.ndarray:
    table = get_site_errors(recipe)
    return start_groups(
        recipe.grouping, table.errors(group_timesteps(PerStep(), table)), table.quantized.tolist()
    )


def _members(recipe: Recipe, slot: np.ndarray) -> GroupErrors:
    """The errors of groups [Q, T] of the quantized sites, each with the best range of its
    members.
    """
    table = get_site_errors(recipe)
    slots = np.zeros((len(table.sites), table.steps), np.int16)
    slots[table.quantized] = drop_empty_groups(slot)[0]
    return table.errors(Groups(sites=table.sites, slot=slots))


def _resolved(recipe: Recipe, errors: GroupErrors) -> Found:
    plan = make_plan(get_info(recipe.model), recipe, get_statistics(recipe), errors)
    return Found(plan=plan, seconds=None, local=errors.total)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` returns, and its seconds."""
    begun = time.perf_counter()
    return work(), time.perf_counter() - begun
