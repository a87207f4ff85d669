"""See the activations of a model: run its pipeline on calibration images and keep statistics
of every site.
"""

import contextlib
import copy
import json
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import DmqError
from ..models.attention import POINTS, watch_products
from ..models.borrow import borrow
from ..models.checks import refuse_caches
from ..models.loading import Loaded, sample, with_denoiser
from ..models.memory import OutOfMemory, release_memory
from ..models.sampling_arguments import has_class_prompts
from ..models.step_progress import OnStep, yield_steps
from ..numerics.mergeable import BINS, coarsen
from ..numerics.mergeable import merge as merge_counts
from ..numerics.threads import few_threads, is_small, process_threads
from ..places import ASSETS
from ..recipe import Calibration, Sampling
from ..results import ActivationStats, Site, Trajectory
from .recorder import Recorder, _cut
from .trajectories import TrajectoryRecorder
from .watching import watch_modules


PROMPTS = ASSETS / "prompts" / "default.txt"
SUBSET = 256  # histogram elements of a site in each row of a denoiser call
# batches of a small model, each in a thread: with many more Python itself is what they wait for
MAX_IMAGES_AT_ONCE = 4


class Captured(NamedTuple):
    """What one capture saw."""

    stats: ActivationStats
    trajectory: Trajectory | None


def capture_activations(
    loaded: Loaded,
    sampling: Sampling,
    calibration: Calibration,
    *,
    attention: bool = True,
    subset: int = SUBSET,
    trajectories: int = 0,
    images: Sequence[tuple[str, int]] | None = None,
) -> Generator[tuple[int, int], None, Captured]:
    """Yield (steps done, steps in all) while the pipeline generates the calibration images; return
    what was seen.

    Sites: input and output of every layer, and q, k, v, probs of every attention if `attention`.
    Ranges are of every element, moments too except at outputs and probs; these and all histograms
    are of `subset` elements a row (0: all). `images`, pairs of prompt and seed, are generated
    instead if they are given. The first `trajectories` images are recorded call by
    call. The loaded model is not touched; closing the generator ends the run after the current
    step. On a GPU with too little memory for a batch, the rest comes in halves of it. Raises
    OutOfMemory if these are too large as well, and DmqError for a step-skipping cache, mixed
    timesteps or activations that are not finite."""
    refuse_caches(loaded.denoiser)
    images = images or calibration_images(loaded, calibration)
    recorder, calls = Recorder(subset), TrajectoryRecorder(loaded.adapter, trajectories)
    todo = [
        list(images[n : n + calibration.batch]) for n in range(0, len(images), calibration.batch)
    ]
    copies = [_Copy(loaded, attention) for _ in range(_batches_at_once(loaded, len(todo)))]
    steps, done, halved = sampling.steps, 0, False
    while todo:
        wanted = calls.drawn + calls.batch < trajectories
        batches = todo[: 1 if wanted else len(copies)]  # calls are recorded in order
        # On a CPU nothing is raised when memory runs out, so nothing need be remembered.
        before = {} if loaded.place.kind == "cpu" else copy.deepcopy(vars(calls))
        seen = [Recorder(subset) for _ in batches]
        try:
            work = _watch_batches(
                loaded, copies, batches, seen, sampling, calls if wanted else None
            )
            with contextlib.closing(work):
                for n in work:
                    yield done * steps + n, (done + len(todo)) * steps
        except OutOfMemory:
            if halved or not before or len(todo[0]) < 2:
                raise
            vars(calls).update(before)  # as if this batch had not begun
            release_memory()
            size, rest, halved = (
                (len(todo[0]) + 1) // 2,
                [image for batch in todo for image in batch],
                True,
            )
            todo = [rest[n : n + size] for n in range(0, len(rest), size)]
            continue
        for one in seen:
            recorder.add(one)
        del todo[: len(batches)]
        done += len(batches)
    stats = ActivationStats(
        model=loaded.info.name,
        fingerprint=loaded.info.fingerprint,
        sampler=sampler_line(loaded, sampling),
        samples=len(images),
        subset=subset,
        made_on=loaded.place.line(),
        **recorder.finished(),
    )
    return Captured(stats, calls.finished() if trajectories else None)


class _Copy:
    """A copy of the model whose sites can be watched, in a pipeline of its own."""

    def __init__(self, loaded: Loaded, attention: bool) -> None:
        self.denoiser = borrow(loaded.denoiser)
        self.sites = sites_of(loaded, self.denoiser, attention)
        self.pipe = with_denoiser(loaded, self.denoiser)


def _batches_at_once(loaded: Loaded, batches: int) -> int:
    """How many batches are generated side by side.

    Several threads gain little in the small operations of a small model, and nothing in its
    statistics; a thread for each batch does, and does not mind what else the processor has to do.
    """
    return (
        min(batches, process_threads(), MAX_IMAGES_AT_ONCE)
        if is_small(loaded.denoiser.parameters())
        else 1
    )


def _watch_batches(
    loaded: Loaded,
    copies: Sequence[_Copy],
    batches: Sequence[list[tuple[str, int]]],
    seen: Sequence[Recorder],
    sampling: Sampling,
    calls: TrajectoryRecorder | None,
) -> Generator[int, None, None]:
    """Generate batches side by side, each told to a recorder of its own; yields how many steps
    are done in all.
    """
    done = 0
    with ExitStack() as stack:
        runs = []
        for copied, batch, recorder in zip(copies, batches, seen, strict=False):
            if calls is not None:
                calls.next_batch(len(batch))
            stack.enter_context(_recording(copied, loaded, recorder, calls))
            run = yield_steps(partial(_generate, loaded, copied.pipe, batch, sampling))
            runs.append(stack.enter_context(contextlib.closing(run)))
        for reports in zip_longest(*runs):  # they run by themselves, whoever is asked first
            for _ in filter(None, reports):
                done += 1
                yield done


def _generate(
    loaded: Loaded,
    pipe: Any,
    batch: list[tuple[str, int]],
    sampling: Sampling,
    on_step: OnStep,
) -> None:
    prompts, seeds = zip(*batch, strict=True)
    with few_threads(loaded.denoiser.parameters()):
        sample(pipe, loaded, prompts=prompts, seeds=seeds, sampling=sampling, on_step=on_step)


def _recording(
    copied: _Copy, loaded: Loaded, recorder: Recorder, calls: TrajectoryRecorder | None
) -> ExitStack:
    """Hooks on the denoiser that tell the recorders of its calls, for as long as the stack is
    open.
    """
    adapter, denoiser = loaded.adapter, copied.denoiser

    def begin(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        recorder.begin(adapter.timestep(args, kwargs), len(adapter.sample_of(args, kwargs)))

    def end(module: nn.Module, args: tuple, kwargs: dict[str, Any], answer: Any) -> None:
        recorder.end()
        if calls is not None:
            calls.see(args, kwargs, answer)

    stack = ExitStack()
    stack.enter_context(watch_modules(denoiser, copied.sites, recorder.see))
    stack.callback(denoiser.register_forward_pre_hook(begin, with_kwargs=True).remove)
    stack.callback(denoiser.register_forward_hook(end, with_kwargs=True).remove)
    return stack


def sites_of(loaded: Loaded, denoiser: nn.Module, attention: bool) -> tuple[Site, ...]:
    """Every site of a borrowed `denoiser`; with `attention`, its products are opened up in
    place.
    """
    sites = [
        Site(name=layer.name, point=point, kind=layer.kind, block=layer.block)
        for layer in loaded.info.layers
        for point in ("input", "output")
    ]
    blocks = loaded.adapter.blocks(denoiser)
    for name in watch_products(denoiser) if attention else ():
        block = next((b for b in blocks if name.startswith(f"{b}.")), name.partition(".")[0])
        sites += [Site(name=name, point=point, kind="attention", block=block) for point in POINTS]
    return tuple(sites)


def calibration_images(loaded: Loaded, calibration: Calibration) -> list[tuple[str, int]]:
    """(prompt, seed) of each calibration image: prompts in turn, seeds counting up; "" where
    none is taken.
    """
    seeds = range(calibration.seed, calibration.seed + calibration.samples)
    if not loaded.info.prompted:
        return [("", seed) for seed in seeds]
    prompts = calibration.prompts or has_class_prompts(loaded.pipe)
    prompts = prompts or tuple(
        filter(None, map(str.strip, PROMPTS.read_text("utf-8").splitlines()))
    )
    return [(prompts[n % len(prompts)], seed) for n, seed in enumerate(seeds)]


def sampler_line(loaded: Loaded, sampling: Sampling) -> str:
    """The scheduler with its settings, steps and guidance, as one line that is equal if and only
    if they are.
    """
    scheduler = loaded.pipe.scheduler
    config = {
        key: value for key, value in sorted(scheduler.config.items()) if not key.startswith("_")
    }
    guidance = f", guidance {sampling.guidance:g}" if loaded.info.prompted else ""
    size = f", {sampling.size} pixels" if sampling.size else ""
    return f"{type(scheduler).__name__}, {sampling.steps} steps{guidance}{size}, {json.dumps(config, default=str)}"


def merge(a: ActivationStats, b: ActivationStats) -> ActivationStats:
    """The statistics of both captures together, as if they had been one; counts and extremes
    exactly.

    Raises DmqError if they are of different models, samplers or settings.
    """
    for name in ("fingerprint", "sampler", "timesteps", "subset", "sites"):
        if getattr(a, name) != getattr(b, name):
            raise DmqError(
                f"two captures differ in {name} and cannot be merged. Capture both with one recipe."
            )
    merged = [_merge_site(a, b, s) for s in range(len(a.sites))]
    return replace(
        a,
        samples=a.samples + b.samples,
        counts=tuple(counts for counts, _, _ in merged),
        first=np.array([first for _, first, _ in merged], np.int32),
        exponent=np.array([k for _, _, k in merged], np.int16),
        elements=a.elements + b.elements,
        power_sums=a.power_sums + b.power_sums,
        minimum=np.minimum(a.minimum, b.minimum),
        maximum=np.maximum(a.maximum, b.maximum),
        channel_min=tuple(map(np.minimum, a.channel_min, b.channel_min)),
        channel_max=tuple(map(np.maximum, a.channel_max, b.channel_max)),
    )


def join_steps(parts: Sequence[ActivationStats]) -> ActivationStats:
    """The statistics of several runs of steps, one behind the other; sites and their order are
    those of the first.
    """
    rows = [[part.index[site.name, site.point] for site in parts[0].sites] for part in parts]
    parts = [part.only(chosen) for part, chosen in zip(parts, rows, strict=True)]
    joined = [_join_site(parts, s) for s in range(len(parts[0].sites))]
    return replace(
        parts[0],
        timesteps=tuple(t for part in parts for t in part.timesteps),
        counts=tuple(counts for counts, _, _ in joined),
        first=np.array([first for _, first, _ in joined], np.int32),
        exponent=np.array([k for _, _, k in joined], np.int16),
        elements=np.concatenate([part.elements for part in parts], 1),
        power_sums=np.concatenate([part.power_sums for part in parts], 1),
        minimum=np.concatenate([part.minimum for part in parts], 1),
        maximum=np.concatenate([part.maximum for part in parts], 1),
        channel_min=_join_steps([part.channel_min for part in parts]),
        channel_max=_join_steps([part.channel_max for part in parts]),
    )


def _join_steps(parts: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(map(np.concatenate, zip(*parts, strict=True)))


def _join_site(parts: Sequence[ActivationStats], s: int) -> tuple[np.ndarray, int, int]:
    k = max(int(part.exponent[s]) for part in parts)
    counts = torch.cat([coarsen(_all_bins(part, s), k - int(part.exponent[s])) for part in parts])
    cut, first = _cut(counts)
    return cut.astype(np.promote_types(parts[0].counts[s].dtype, np.int32)), first, k


def _merge_site(a: ActivationStats, b: ActivationStats, s: int) -> tuple[np.ndarray, int, int]:
    counts, k = merge_counts(
        _all_bins(a, s), int(a.exponent[s]), _all_bins(b, s), int(b.exponent[s])
    )
    cut, first = _cut(counts)
    return cut.astype(np.promote_types(a.counts[s].dtype, np.int32)), first, k


def _all_bins(stats: ActivationStats, s: int) -> Tensor:
    start, counts = int(stats.first[s]) + BINS // 2, stats.counts[s]
    full = torch.zeros(len(counts), BINS, dtype=torch.int64)
    full[:, start : start + counts.shape[1]] = torch.tensor(
        counts
    )  # what was loaded may be read-only
    return full
