"""The search for groups of timesteps by gradients, with calibration steps picked on the way
(ADP-DM).

    draw      one run of the float pipeline; x[i] and what the denoiser answered are kept for all i; a quarter of the
              images is laid aside
    start     k-means on the ranges of every step, the exact cuts of least local error, or equal cuts, whichever
              predict noise best; so groups differ and each step leans towards one
    search    step i by its score; at every quantized site the mixture of the groups; loss = squared error of the
              denoiser's answer in units of the start's + weight * entropy; row i of the logits and all ranges move
    harden    each step to one group, unused groups dropped
    refit     a pass or two over the steps, ranges alone: of the groups found, and of those of the start
    choose    on the images laid aside: which of both, with ranges as learned or drawn back towards what is best for
              their members, in the time embedding as far as it costs little; equal cuts unless both means over the
              steps are as small

A way of grouping is judged by the error's mean and its geometric mean over the steps alike: the
last steps, a hundred times worse than others, decide the one alone and hardly count in the other.
Of a `SearchResult`, `soft` and `hard` are the errors before anything was chosen and `refitted`
those of what is kept. Nothing is saved here and no file is read."""

import dataclasses
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import numpy as np
import torch

from ..capture.activations import calibration_images
from ..capture.replay import images_in, noise_errors
from ..capture.trajectories import record_trajectory
from ..errors import DmqError
from ..models.loading import Loaded
from ..models.step_progress import yield_steps
from ..numerics.threads import few_threads, one_thread
from ..progress import relay
from ..recipe import (
    LearnedGroups,
    OptimalGroups,
    PerStep,
    Recipe,
    SharedRange,
    UniformGroups,
)
from ..results import ActivationStats, SearchResult, SearchSnapshot, Trajectory
from ..trajectory.search import (
    drop_empty_groups,
    harden,
    lloyd,
    measure_learned_groups,
)
from .search_state import SearchState


VISITS = 8  # iterations for each step, unless the recipe says how many in all
SHARES = (
    1.0,
    0.75,
    0.5,
)  # of the way from the best ranges of a group's members to those that were learned
DEAR = 1.05  # more than this, as a factor of the merit, is too much for straight temporal features
Way = tuple[np.ndarray, np.ndarray, np.ndarray]  # to quantize: slot [Q, T], low and high [Q, G]
Snapshots = Generator[SearchSnapshot, None, Any]


def _never() -> bool:
    return False


def search_groups(
    loaded: Loaded,
    recipe: Recipe,
    spec: LearnedGroups,
    stats: ActivationStats,
    *,
    trajectory: Trajectory | None = None,
    enough: Callable[[], bool] = _never,
) -> Generator[SearchSnapshot, None, SearchResult]:
    """Yield how the search stands after each iteration; return its groups and ranges.

    Weights are quantized as `recipe` says. `trajectory` holds the denoiser calls to learn from, if
    they were recorded before; otherwise the model draws images for it. Once `enough()`, what is
    there is hardened and returned. An error or a gradient that is not finite ends the search with
    the last good state and a `note`. Raises DmqError if nothing is quantized, if steps or sampler
    do not fit, or if the first iteration fails."""
    _check(recipe, spec, stats)
    with one_thread():
        search = _Search(loaded, recipe, spec, stats)
    search.trajectory = trajectory or (yield from search.draw(loaded, recipe))
    _check_trajectory(search.trajectory, stats)
    search.divide()
    yield from search.choose_start()
    yield from search.learn(enough)
    soft = np.full(stats.steps, np.nan) if search.note else (yield from search.measure())
    search.harden()
    hard = refitted = np.full(stats.steps, np.nan)
    if not search.note:
        hard = yield from search.measure()
        refitted = yield from search.choose((yield from search.refits(enough)))
    with one_thread():
        return search.result(soft, hard, refitted)


class _Search(SearchState):
    """The phases of a search."""

    def draw(self, loaded: Loaded, recipe: Recipe) -> Snapshots:
        """The denoiser calls of the first calibration images, drawn by the float model."""
        calibration = dataclasses.replace(recipe.calibration, samples=self.spec.trajectories)
        prompts, seeds = zip(*calibration_images(loaded, calibration), strict=True)
        run = yield_steps(
            lambda on_step: record_trajectory(
                loaded, prompts=prompts, seeds=seeds, sampling=recipe.sampling, on_step=on_step
            )[0]
        )
        return (
            yield from relay(
                run, lambda i, *_: self.snapshot("Generate", i + 1, recipe.sampling.steps)
            )
        )

    def divide(self) -> None:
        """Lay aside the last quarter of every call's images; of a single image, it serves
        for both.
        """
        images = min(images_in(self.trajectory, n) for n in range(len(self.trajectory.step)))
        aside = max(1, images // 4)
        self.seen, self.unseen = range(max(1, images - aside)), range(images - aside, images)

    def choose_start(self) -> Snapshots:
        """Start from exact or equal cuts if the noise is predicted better with them than with the
        clusters of ranges.

        What is alike in range is not alike in effect: where the time embedding is quantized, clusters
        that mix distant steps can double the error, which a search of a few visits a step does not
        make good."""
        slots = (self.clusters, self._cuts(OptimalGroups), self._cuts(UniformGroups))
        errors = yield from self._compare(
            "Start",
            [(slot, *self._member_ranges(slot)) for slot in slots],
            self.seen[: self.spec.batch],
        )
        usual, self.start = min(zip(errors, slots, strict=True), key=lambda pair: merit(pair[0]))
        self.usual = np.where(np.isfinite(usual), np.maximum(usual, 1e-30), 1.0)
        self.candidates.begin(self.start, *self._member_ranges(self.start))

    def learn(self, enough: Callable[[], bool]) -> Snapshots:
        """The iterations of the search, until there are enough or one fails."""
        spec, total = self.spec, self.spec.iterations or VISITS * self.stats.steps
        optimiser = torch.optim.Adam(
            [
                {"params": self.candidates.rows, "lr": spec.choice_rate},
                {"params": [self.candidates.shift, self.candidates.stretch], "lr": spec.rate},
            ]
        )
        good, weight = self.candidates.state(), self._weight()
        for n in range(total):
            # A rate that does not fall leaves ranges of little effect wherever chance took them.
            optimiser.param_groups[1]["lr"] = spec.rate * (1 - n / total)
            if enough():
                self.note = f"stopped after {n} of {total} iterations"
                return
            self.candidates.temperature = spec.temperature * (
                spec.final_temperature / spec.temperature
            ) ** (n / total)
            i = self._next()
            with few_threads(self.model.parameters()):
                good = self._iterate(i, optimiser, good, weight[i], spec.entropy_weight)
            if self.note:
                self.note = f"iteration {n + 1} of {total}, {self.note}"
                if n == 0:
                    raise DmqError(
                        f"search: {self.note}. Check the model and the recorded denoiser calls."
                    )
                return
            self.visits[i] += 1
            self.history.append((i, *self.last[1:]))
            yield self.snapshot("Search", n + 1, total)

    def measure(self, phase: str = "Measure") -> Snapshots:
        """The noise-prediction error per step as things stand, on a batch of the images that
        are learned from.
        """
        return (yield from self._measure_way(phase, self.seen[: self.spec.batch]))

    def _measure_way(self, phase: str, images: range) -> Snapshots:
        work = noise_errors(self.model, self.trajectory, images)
        return (yield from relay(work, partial(self.snapshot, phase)))

    def harden(self) -> None:
        """Give every step to one group."""
        self.weights = self.candidates.importance()
        self.slot = harden(self.weights, self.spec.contiguous)
        self.candidates.assign(self.slot)

    def refits(self, enough: Callable[[], bool]) -> Generator[SearchSnapshot, None, list[Way]]:
        """The groups of the start and those found, with ranges learned for them as they are."""
        found = self._draw_back(self.slot, *self._ranges())
        errors = yield from self._compare("Measure", found, self.seen[: self.spec.batch])
        best = min(range(len(found)), key=lambda n: merit(errors[n]))
        start = self.start, *self._member_ranges(self.start)
        made = []
        # Those of the start were never learned: they need twice as long.
        for way, before, passes in ((start, self.usual, 2), (found[best], errors[best], 1)):
            self._use(*way)
            yield from self.refit(before, passes * self.spec.refits, enough)
            made.append((way[0], *self._ranges()))
        return made

    def refit(self, before: np.ndarray, passes: int, enough: Callable[[], bool]) -> Snapshots:
        """Learn the ranges with groups fixed; they are kept only if the errors are no larger than
        `before`.

        A step is drawn as often as it counts, instead of weighed: the few that decide the mean are
        seen more often."""
        share = self._weight() * self.usual
        order = self.random.choice(len(share), passes * len(share), p=share / share.sum())
        begun = good = self.candidates.state()
        optimiser = torch.optim.Adam([self.candidates.shift, self.candidates.stretch])
        for n, i in enumerate(order.tolist()):
            optimiser.param_groups[0]["lr"] = self.spec.rate * (1 - n / len(order))
            with few_threads(self.model.parameters()):
                good = self._iterate(i, optimiser, good, 1 / self.usual[i])
            if self.note or enough():
                break
            yield self.snapshot("Refit", n + 1, len(order))
        if len(order) and not merit((yield from self.measure())) <= merit(before):
            self.candidates.restore(begun)

    def choose(self, made: list[Way]) -> Snapshots:
        """Keep what predicts the noise of the images laid aside best; return its errors on those
        learned from.

        Nothing is kept with which either mean over the steps is larger than with equal cuts.
        """
        equal = self._cuts(UniformGroups)
        ways = [
            (equal, *self._member_ranges(equal)),
            *(way for each in made for way in self._draw_back(*each)),
        ]
        errors = yield from self._compare("Choose", ways, self.unseen)
        best = better_than_first(errors)
        way = yield from self.straighten(ways[best], errors[best], errors[0])
        self._use(*way)
        self.slot = way[0]
        return (yield from self.measure())

    def straighten(
        self, way: Way, errors: np.ndarray, equal: np.ndarray
    ) -> Generator[SearchSnapshot, None, Way]:
        """`way` with ranges in the time embedding drawn back as far as it costs little of its `errors`;
        see `choose`.

        Ranges that are learned there let a bent temporal feature be made up for elsewhere, which
        ties the time embedding to what was learned around it. `equal` are the errors of equal cuts."""
        for share in (0.0, 0.5) if self.timed.any() else ():
            straight = self._between(*way, np.where(self.timed, share, 1.0)[:, None])
            [found] = yield from self._compare("Choose", [straight], self.unseen)
            if merit(found) <= DEAR * merit(errors) and better_than_first([equal, found]):
                return straight
        return way

    def _draw_back(self, slot: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[Way]:
        """The given ranges, and others between them and the best ranges of the groups' members."""
        return [self._between(slot, low, high, share) for share in SHARES]

    def _between(
        self, slot: np.ndarray, low: np.ndarray, high: np.ndarray, share: float | np.ndarray
    ) -> Way:
        """Ranges that lie `share` of the way from the best of the groups' members to those
        given.
        """
        pairs = zip(self._member_ranges(slot), (low, high), strict=True)
        return slot, *(best + share * (end - best) for best, end in pairs)

    def _compare(
        self, phase: str, ways: list[Way], images: range
    ) -> Generator[SearchSnapshot, None, list]:
        """The errors per step of each of `ways` on those images."""
        errors = []
        for way in ways:
            self._use(*way)
            errors.append((yield from self._measure_way(phase, images)))
        return errors

    def result(self, soft: np.ndarray, hard: np.ndarray, refitted: np.ndarray) -> SearchResult:
        slot, low, high = drop_empty_groups(self.slot, *self._ranges())
        steps, errors, penalties = zip(*self.history, strict=True) if self.history else ((), (), ())
        made = SearchResult(
            model=self.stats.model,
            fingerprint=self.stats.fingerprint,
            sampler=self.stats.sampler,
            timesteps=self.stats.timesteps,
            sites=self.sites,
            bits=self.table.bits[self.rows].astype(np.uint8),
            slot=slot.astype(np.int16),
            low=low,
            high=high,
            importance=self.weights.astype(np.float16),
            visits=self.visits,
            steps=np.array(steps, np.int32),
            errors=np.array(errors, np.float32),
            penalties=np.array(penalties, np.float32),
            soft=soft,
            hard=hard,
            refitted=refitted,
            local={},
            note=self.note,
        )
        return dataclasses.replace(made, local=self._local(made))

    def _local(self, made: SearchResult) -> dict[str, np.ndarray]:
        """The layer-local relative error per step of the learned groups and of what they must be
        compared with.
        """
        count = self.spec.count
        better = [
            lloyd(self.table.losses(s), slot)
            for s, slot in zip(self.rows, self.clusters, strict=True)
        ]
        errors = {
            "shared": self.errors(SharedRange()),
            "uniform": self.errors(UniformGroups(count=count)),
            "kmeans": self.table.errors(self._groups(drop_empty_groups(self.clusters)[0])),
            "lloyd": self.table.errors(self._groups(drop_empty_groups(np.stack(better))[0])),
            "optimal": self.errors(OptimalGroups(count=count, per_layer=self.spec.per_layer)),
            "learned": measure_learned_groups(made, self.table),
            "per step": self.errors(PerStep()),
        }
        return {name: found.per_step() for name, found in errors.items()}


def means(errors: np.ndarray) -> tuple[float, float]:
    """The mean and the geometric mean of errors per step [T]; in the latter all steps count
    alike.
    """
    return float(errors.mean()), float(np.exp(np.log(np.maximum(errors, 1e-30)).mean()))


def merit(errors: np.ndarray) -> float:
    """The geometric mean of both `means` of errors per step [T]: what one gains in share, the
    other may lose.
    """
    plain, typical = means(errors)
    return (plain * typical) ** 0.5


def better_than_first(errors: list[np.ndarray]) -> int:
    """Which errors per step have the smallest merit, of those neither of whose means is larger
    than the first's.
    """
    first = means(errors[0])
    able = [
        n
        for n, each in enumerate(errors)
        if all(a <= b for a, b in zip(means(each), first, strict=True))
    ]
    return min(able, key=lambda n: merit(errors[n]), default=0)


def _check(recipe: Recipe, spec: LearnedGroups, stats: ActivationStats) -> None:
    if spec.count > stats.steps:
        raise DmqError(
            f"grouping.count is {spec.count}, but there are only {stats.steps} steps; use "
            f"{stats.steps} or fewer."
        )
    if spec.batch > spec.trajectories:
        raise DmqError(
            f"grouping.batch is {spec.batch}, but only {spec.trajectories} images are drawn; use "
            "fewer or draw more."
        )


def _check_trajectory(trajectory: Trajectory, stats: ActivationStats) -> None:
    if tuple(trajectory.timesteps) != tuple(stats.timesteps):
        both = (trajectory.timesteps, stats.timesteps)
        ours, theirs = (f"{len(times)} steps from {times[0]:g} to {times[-1]:g}" for times in both)
        raise DmqError(
            f"the recorded calls have {ours}, the statistics {theirs}. Capture again with one "
            "sampler."
        )
