"""What a search for groups knows and learns, and one step of it; see `active`."""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..capture.replay import precision, repeat, rows_of, select_wanted
from ..errors import DmqError
from ..models.loading import Loaded
from ..models.recompute import forget_and_recompute, measure_answered, pieces, too_large
from ..numerics.backward import backward
from ..quantizers.apply import quantize_model
from ..quantizers.mixture import CandidateGroups, SoftBank, banked_sites, soften
from ..quantizers.plan import make_plan, site_bits
from ..recipe import (
    LearnedGroups,
    MseSearch,
    OptimalGroups,
    PerStep,
    Recipe,
    SharedRange,
    UniformGroups,
)
from ..results import ActivationStats, GroupErrors, Groups, SearchSnapshot, Trajectory
from ..trajectory.errors import ErrorTable
from ..trajectory.grouping import group_timesteps
from ..trajectory.search import (
    SCORES,
    discrepancy_after,
    drop_empty_groups,
    next_step,
    similarity,
    start_groups,
    uncertainty,
)


class SearchState:
    """What a search knows and learns; Q sites are searched, T steps, G groups."""

    trajectory: Trajectory
    seen: range  # the images learned from
    unseen: range  # those laid aside

    def __init__(
        self, loaded: Loaded, recipe: Recipe, spec: LearnedGroups, stats: ActivationStats
    ) -> None:
        self.spec, self.stats = spec, stats
        # The time embedding is searched like the rest: what else is decided about it does not change its
        # inputs' steps.
        plain = dataclasses.replace(
            recipe, grouping=SharedRange(), unknown_timestep="error", temporal=None
        )
        activations = dataclasses.replace(recipe.activations, range=MseSearch())
        self.table = ErrorTable(stats, activations, site_bits(loaded.info, plain, stats))
        if not len(self.table.quantized):
            raise DmqError(
                "there is nothing to search: all activations stay in float. Set activations.bits "
                "below 32."
            )
        static = self.errors(SharedRange())
        plan = make_plan(loaded.info, plain, stats, static)
        self.sites = banked_sites(plan)
        self.rows = [stats.index[site.name, site.point] for site in self.sites]
        self.static = static
        inside = frozenset(loaded.info.temporal.layers) if loaded.info.temporal else frozenset()
        self.timed = np.array([site.name in inside for site in self.sites])
        self.start = self.clusters = start_groups(spec, self.errors(PerStep()), self.rows)
        self.model = quantize_model(loaded.denoiser, plan, loaded.adapter)
        self.candidates = CandidateGroups(
            self.start,
            *self._member_ranges(self.start),
            sites=self.sites,
            bits=self.table.bits[self.rows],
            symmetric=recipe.activations.symmetric,
            shared=not spec.per_layer,
            device=next(self.model.parameters()).device,
        )
        soften(self.model, self.candidates, vars(self.model)["clock"])
        self.precision, self.blocks = precision(self.model), loaded.adapter.blocks(self.model)
        self.forgotten: tuple[str, ...] | None = (
            None  # modules that are computed again for gradients; not known yet
        )
        self.random = np.random.default_rng(spec.seed)
        self.visits = np.zeros(stats.steps, np.int32)
        self.alike = similarity(_features(stats, self.rows))
        self.usual = np.ones(stats.steps)  # the error of the start at each step
        self.last: tuple[int | None, float, float] = (
            None,
            np.nan,
            np.nan,
        )  # step, error and penalty
        self.history: list[tuple[int, float, float]] = []
        self.slot: np.ndarray  # once it is hard
        self.note = ""

    def errors(self, grouping: Any) -> GroupErrors:
        """The layer-local errors of another way of grouping."""
        return self.table.errors(group_timesteps(grouping, self.table))

    def _cuts(self, kind: type[OptimalGroups] | type[UniformGroups]) -> np.ndarray:
        """The groups [Q, T] of another kind, as many."""
        how = {"per_layer": self.spec.per_layer} if kind is OptimalGroups else {}
        groups = group_timesteps(kind(count=self.spec.count, **how), self.table)
        return groups.slot[self.rows].astype(np.int64)

    def _groups(self, slot: np.ndarray) -> Groups:
        everywhere = np.zeros((len(self.stats.sites), self.stats.steps), np.int16)
        everywhere[self.rows] = slot
        return Groups(sites=self.stats.sites, slot=everywhere)

    def _member_ranges(self, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best range of every group's members [Q, G]; that of all steps for a group without
        any.
        """
        errors = self.table.errors(self._groups(drop_empty_groups(start)[0]))
        low, high = (
            np.repeat(end[self.rows, :1], self.spec.count, 1)
            for end in (self.static.low, self.static.high)
        )
        for q, (slot, s) in enumerate(zip(start, self.rows, strict=True)):
            used, first = np.unique(slot, return_index=True)
            low[q, used], high[q, used] = errors.low[s, first], errors.high[s, first]
        return low, high

    def _ranges(self) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            low, high = (end.cpu().numpy() for end in self.candidates.ranges())
        return low, high

    def _use(self, slot: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        """Quantize with the groups `slot` [Q, T] and ranges `low`, `high` [Q, G] from now on."""
        self.candidates.begin(slot, low, high)
        self.candidates.assign(slot)

    def _next(self) -> int:
        score = SCORES[self.spec.score](self._uncertainty(), self.visits)
        if self.spec.mmd:
            score = score - self.spec.mmd * discrepancy_after(self.alike, self.visits)
        return next_step(score, self.visits)

    def _uncertainty(self) -> np.ndarray:
        return uncertainty(torch.from_numpy(self.candidates.importance())).mean(0).numpy()

    def _weight(self) -> np.ndarray:
        """By how much the error of each step [T] counts: d log merit / d error at the start's
        errors, times T.
        """
        return (1 / self.usual + 1 / self.usual.mean()) / 2

    def _iterate(
        self,
        i: int,
        optimiser: torch.optim.Optimizer,
        good: list[Tensor],
        weight: float,
        entropy: float = 0.0,
    ) -> list[Tensor]:
        """One step down at step i, on weight * error + entropy * uncertainty; returns the state
        before it.

        What is not finite brings `good` back, and a note.
        """
        call, rows = self._sample(i)
        everything = [p for group in optimiser.param_groups for p in group["params"]]
        with forget_and_recompute(self.model, self._forgotten(call, rows)):
            answer = repeat(self.model, self.trajectory, call, rows)
            target = select_wanted(self.model, self.trajectory, call, rows).to(answer.device)
            error = (answer - target).square().mean() / target.square().mean().clamp(min=1e-30)
            penalty = (
                entropy * uncertainty(self.candidates.weights(i)).mean()
                if entropy
                else error.new_zeros(())
            )
            # Adam leaves alone what has no gradient: the rows of other steps.
            backward(weight * error + penalty, everything, self.precision)
        learned = [p for p in everything if p.grad is not None]
        if not (error.isfinite() and all(p.grad.isfinite().all() for p in learned)):
            where = f"step {i} (t = {self.stats.timesteps[i]:g})"
            self.note = f"{where}: {self._broken(call, rows)}; the state before is kept"
            self.candidates.restore(good)
            return good
        state = self.candidates.state()
        optimiser.step()
        self.last = i, error.item(), penalty.item()
        return state

    def _forgotten(self, call: int, rows: np.ndarray) -> tuple[str, ...]:
        """What is computed again on the way back of such calls: nothing, unless memory is short."""
        if self.forgotten is None:
            with torch.no_grad(), measure_answered(self.model) as count:
                answer = repeat(self.model, self.trajectory, call, rows)
            self.forgotten = (
                pieces(self.model, self.blocks) if too_large(count.bytes, answer.device) else ()
            )
        return self.forgotten

    def _sample(self, i: int) -> tuple[int, np.ndarray]:
        """A recorded call at step i, and the rows of some of its images."""
        call = int(self.random.choice(np.flatnonzero(self.trajectory.step == i)))
        chosen = self.random.choice(self.seen, min(self.spec.batch, len(self.seen)), replace=False)
        return call, rows_of(self.trajectory, call, chosen)

    def _broken(self, call: int, rows: np.ndarray) -> str:
        """Which site is the first that gets something not finite in this call."""
        found: list[str] = []

        def look(bank: SoftBank, args: tuple, made: Tensor) -> None:
            if not (args[0].isfinite().all() and made.isfinite().all()):
                found.append(self.sites[bank.q].label)

        hooks = [
            m.register_forward_hook(look) for m in self.model.modules() if isinstance(m, SoftBank)
        ]
        with torch.no_grad():
            repeat(self.model, self.trajectory, call, rows)
        for hook in hooks:
            hook.remove()
        return f"{found[0]} is not finite" if found else "the error or a gradient is not finite"

    def snapshot(self, phase: str, done: int, total: int) -> SearchSnapshot:
        step, error, penalty = self.last
        return SearchSnapshot(
            phase=phase,
            done=done,
            total=total,
            step=step,
            error=error,
            penalty=penalty,
            importance=self.candidates.importance(),
            entropy=self._uncertainty(),
            visits=self.visits.copy(),
        )


def _features(stats: ActivationStats, rows: list[int]) -> np.ndarray:
    """Mean and standard deviation of the activations at every step, [T, 2Q]."""
    return np.concatenate([stats.mean[rows], stats.std[rows]]).T
