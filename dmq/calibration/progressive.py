"""Progressive calibration (PCR): each step's activation ranges come from the trajectory the
quantized model walks.

All images walk together through one call of diffusers' own pipeline; the denoiser answers in
parts:

    observe     every part of the call, answers thrown away; the step still runs with the ranges it had
    freeze      new ranges of the step's slots, for all sites at once
    recompute   every part again with the new ranges; the pipeline's scheduler goes on from these answers

Two denoiser calls a part and step, whatever the scheduler keeps between its steps. Nothing is saved
here."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..capture.activations import (
    SUBSET,
    calibration_images,
    join_steps,
    merge,
    sampler_line,
)
from ..capture.recorder import Recorder
from ..errors import DmqError
from ..models.loading import Loaded, sample, with_denoiser
from ..models.step_progress import OnStep, yield_steps
from ..models.tensor_parts import Call, Forward, join_parts, parts_of, take_over
from ..numerics.threads import one_thread
from ..quantizers.apply import quantize_model
from ..quantizers.bank import ActivationBank
from ..quantizers.codes import WeightCodes
from ..quantizers.plan import channel_ranges, slot_grid, split_ranges
from ..recipe import Recipe
from ..results import ActivationStats, GroupErrors, Plan, ProgressiveRanges, Site
from ..trajectory.errors import ErrorTable


Grids = dict[str, np.ndarray]


@dataclass(frozen=True)
class CallDone:
    """One denoiser call that was calibrated: what it saw at its step so far, and the grids it
    was answered with.
    """

    call: int
    stats: ActivationStats
    grids: Grids


def calibrate_progressively(
    loaded: Loaded,
    recipe: Recipe,
    plan: Plan,
    start: tuple[ActivationStats, GroupErrors],
    codes: Mapping[str, WeightCodes] | None = None,
    done: Sequence[tuple[ActivationStats, Grids]] = (),
) -> Generator[tuple[int, int] | CallDone, None, ProgressiveRanges]:
    """Yield (parts done, parts in all) and what each finished call gave; return the ranges.

    `plan` and `start` (statistics, ranges) are those of the float model's trajectory; `codes` were
    learned. Calls that were `done` before are answered with the grids they had, and not observed
    again. Raises DmqError if no activation is quantized, or if an activation is not finite."""
    model = quantize_model(loaded.denoiser, plan, loaded.adapter, codes)
    walk = _Walk(loaded, recipe, plan, start, model, done)
    prompts, seeds = zip(*calibration_images(loaded, recipe.calibration), strict=True)

    def run(report: OnStep) -> None:
        walk.report = report
        sample(
            with_denoiser(loaded, model),
            loaded,
            prompts=prompts,
            seeds=seeds,
            sampling=recipe.sampling,
            decoded=False,
        )

    work = yield_steps(run)
    try:
        for report in work:
            yield report[0] if isinstance(report[0], CallDone) else report
    finally:
        work.close()
    with one_thread():
        return walk.result(*start)


class _Walk:
    """The quantized denoiser on its way through the one pipeline call; what it has seen and set
    so far.
    """

    report: Callable[..., None]

    def __init__(
        self,
        loaded: Loaded,
        recipe: Recipe,
        plan: Plan,
        start: tuple[ActivationStats, GroupErrors],
        model: Any,
        done: Sequence[tuple[ActivationStats, Grids]],
    ) -> None:
        stats, before = start
        assert recipe.progressive is not None
        self.loaded, self.recipe, self.spec, self.model = loaded, recipe, recipe.progressive, model
        self.banks: dict[Site, ActivationBank] = {
            m.site: m for m in model.modules() if isinstance(m, ActivationBank)
        }
        if not self.banks:
            raise DmqError(
                "progressive: no activation is quantized, so there are no ranges to set. Lower "
                "their bits."
            )
        self.exact = _exact_sites(plan)
        # A range per step was searched among those of all steps; one step's own search is coarser.
        rows = {site: stats.index[site.name, site.point] for site in self.banks}
        self.candidates = {site: (before.low[s], before.high[s]) for site, s in rows.items()}
        self.done, self.calls, self.parts_done, self.steps = done, 0, 0, stats.steps
        self.seen: dict[int, ActivationStats] = {}  # by step
        self.ranges: dict[tuple[Site, int], tuple[float, float]] = {}  # by site and slot
        self.widest_change = 0.0
        self.recorder = Recorder(SUBSET)
        for site, bank in self.banks.items():
            bank.register_forward_pre_hook(self._hook(site))
        self.watching = False
        take_over(model, self.answer)

    def _hook(self, site: Site) -> Any:
        def before(module: Any, args: tuple) -> None:
            if self.watching:
                with torch._C.DisableTorchFunction():
                    self.recorder.see(site, args[0].detach())

        return before

    def answer(self, forward: Forward, args: tuple, kwargs: dict[str, Any]) -> Any:
        """What the pipeline gets for one denoiser call."""
        n, i = self.calls, self.model.clock.i
        self.calls += 1
        rows = len(self.loaded.adapter.sample_of(args, kwargs))
        at_once = self.recipe.calibration.batch * (rows // self.recipe.calibration.samples)
        parts = parts_of(forward, self.loaded.adapter, args, kwargs, max(1, at_once))
        passes = self.spec.inner + (self.spec.variant != "one_pass")
        self.total = self.steps * len(parts) * passes
        if n < len(self.done):
            self._restore(i, *self.done[n])
            self.parts_done += self.spec.inner * len(parts)
        else:
            answers = self._calibrate(i, forward, parts)
            self.report(CallDone(n, self.seen[i], self._grids(i)))
            if self.spec.variant == "one_pass":
                return join_parts(answers)
        return join_parts([self._forward(forward, part) for part in parts])

    def _calibrate(self, i: int, forward: Forward, parts: Sequence[Call]) -> list[Any]:
        """Observe and freeze, as often as the recipe says; the answers of the last time, with
        the ranges before it.
        """
        before = self.seen.get(
            i
        )  # a scheduler may visit a timestep twice: the ranges then cover both visits
        for _ in range(self.spec.inner):
            answers = self._observe(forward, parts)
            with one_thread():
                now = self._statistics()
                self.seen[i] = (
                    now if before is None else merge(before, now.only(_order(now, before.sites)))
                )
                self._freeze(i)
        return answers

    def _observe(self, forward: Forward, parts: Sequence[Call]) -> list[Any]:
        adapter, self.recorder, self.watching = self.loaded.adapter, Recorder(SUBSET), True
        self.model.clock.bypassed = self.spec.variant == "strict"
        answers = []
        try:
            for args, kwargs in parts:
                rows = len(adapter.sample_of(args, kwargs))
                self.recorder.begin(adapter.timestep(args, kwargs), rows, self.model.clock.i)
                answers.append(self._forward(forward, (args, kwargs)))
                self.recorder.end()
        finally:
            self.watching = self.model.clock.bypassed = False
        return answers

    def _forward(self, forward: Forward, part: Call) -> Any:
        answer = forward(*part[0], **part[1])
        self.parts_done += 1
        self.report(min(self.parts_done, self.total), self.total)
        return answer

    def _statistics(self) -> ActivationStats:
        info = self.loaded.info
        return ActivationStats(
            model=info.name,
            fingerprint=info.fingerprint,
            sampler=sampler_line(self.loaded, self.recipe.sampling),
            samples=self.recipe.calibration.samples,
            subset=SUBSET,
            **self.recorder.finished(),
        )

    # --- ranges -----------------------------------------------------------------------------------

    def _freeze(self, i: int) -> None:
        """Set the grids of the slots of step i by all that was seen of their members so far."""
        members: dict[tuple[int, ...], list[Site]] = {}
        for site, bank in self.banks.items():
            if site in self.seen[i].sites:
                group = tuple(sorted(j for j in self.seen if bank.slot[j] == bank.slot[i]))
                members.setdefault(group, []).append(site)
        for group, sites in members.items():
            part = join_steps([self.seen[j].only(_order(self.seen[j], sites)) for j in group])
            for s, site in enumerate(sites):
                self._set(site, i, part, s)

    def _set(self, site: Site, i: int, part: ActivationStats, s: int) -> None:
        bank, spec = self.banks[site], self.recipe.activations
        slot = bank.slot[i]
        if site in self.exact:
            low, high = part.minimum[s].min(keepdims=True), part.maximum[s].max(keepdims=True)
        else:
            table = ErrorTable(part.only([s]), spec, np.array([bank.bits[slot]]))
            low, high = table.one_range(0, *self.candidates[site])
            if low.ndim == 2:  # channels: the widest range stands for all
                low, high = low.min(1), high.max(1)
        self._note_change(site, slot, float(low[0]), float(high[0]))
        if bank.parts:
            low, high = split_ranges(s, part, np.zeros(part.steps, int), bank.parts[0], low, high)
        elif bank.axis is not None:
            low, high = channel_ranges(s, spec, part, np.zeros(part.steps, int))
        self._put(
            bank, slot, *slot_grid(site, low, high, np.array([bank.bits[slot]]), spec.symmetric)
        )

    def _note_change(self, site: Site, slot: int, low: float, high: float) -> None:
        if (site, slot) in self.ranges:
            was = self.ranges[site, slot]
            grown = abs(high - was[1]) + abs(low - was[0])
            self.widest_change = max(self.widest_change, grown / max(was[1] - was[0], 1e-30))
        self.ranges[site, slot] = low, high

    def _put(self, bank: ActivationBank, slot: int, scale: np.ndarray, zero: np.ndarray) -> None:
        device = bank.scale.device
        bank.set_grid(
            slot,
            torch.from_numpy(scale)[0].to(device),
            torch.from_numpy(zero)[0].float().to(device),
        )

    def _grids(self, i: int) -> Grids:
        """What sets every bank's slot at step i again, by the position of its site."""
        grids: Grids = {}
        for k, (site, bank) in enumerate(self.banks.items()):
            slot = bank.slot[i]
            if (site, slot) in self.ranges:
                grids[f"{k}.scale"] = bank.scale[slot][None].cpu().numpy()
                grids[f"{k}.zero"] = bank.zero[slot][None].cpu().numpy().astype(np.int32)
                grids[f"{k}.range"] = np.array(self.ranges[site, slot])
        return grids

    def _restore(self, i: int, stats: ActivationStats, grids: Grids) -> None:
        self.seen[i] = stats
        for k, (site, bank) in enumerate(self.banks.items()):
            if f"{k}.range" in grids:
                self._note_change(site, bank.slot[i], *map(float, grids[f"{k}.range"]))
                self._put(bank, bank.slot[i], grids[f"{k}.scale"], grids[f"{k}.zero"])

    def result(self, stats: ActivationStats, start: GroupErrors) -> ProgressiveRanges:
        """The ranges of all sites; those that no bank serves keep what they had."""
        sites = self.seen[0].sites
        seen = join_steps(
            [self.seen[i].only(_order(self.seen[i], sites)) for i in range(self.steps)]
        )
        low, high = start.low.astype(np.float32), start.high.astype(np.float32)
        for site, bank in self.banks.items():
            row = stats.index[site.name, site.point]
            for i in range(self.steps):
                if (site, bank.slot[i]) in self.ranges:
                    low[row, i], high[row, i] = self.ranges[site, bank.slot[i]]
        return ProgressiveRanges(
            stats=stats.updated(seen),
            low=low,
            high=high,
            calls=self.calls,
            widest_change=self.widest_change,
        )


def _exact_sites(plan: Plan) -> frozenset[Site]:
    """The sites whose ranges are exactly what was seen at each step (finite set calibration)."""
    if plan.temporal is None or plan.temporal.spec.fsc == "none":
        return frozenset()
    layers = set(plan.temporal.block.layers)
    return frozenset(row.bank.site for row in plan.layers if row.bank and row.layer.name in layers)


def _order(stats: ActivationStats, sites: Sequence[Site]) -> list[int]:
    return [stats.index[site.name, site.point] for site in sites]
