"""From a recipe to statistics, a plan, a quantized model, pictures and a report: what pages, CLI and Python call.

What only reads finished statistics returns at once (`errors`, `plan`); what runs a model is a generator that yields
`Progress` (and `Picture`s), whose value comes with its end (`finish`), and which can be closed at any time.
"""

import dataclasses
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial, singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from . import runs
from .errors import DmqError
from .recipe import (
    EMBEDDED,
    FLOAT,
    ActiveSteps,
    Cache,
    Calibration,
    Comparison,
    LearnedGroups,
    ManualGroups,
    NoCache,
    PerStep,
    Recipe,
    Sampling,
    Temporal,
    Tiar,
)
from .results import (
    ActivationStats,
    GroupErrors,
    ModelInfo,
    PictureScore,
    Plan,
    Report,
    SearchResult,
    TemporalBlock,
    TemporalErrors,
    Trajectory,
)


# torch and diffusers take most of the app's start: the rooms that need them are imported where they are used, so that
# the page is up, and shows what was captured before, while they load.
if TYPE_CHECKING:
    from torch import Tensor, nn

    from .models.loading import Loaded
    from .quantizers.weights import QuantizedWeight
    from .reconstruction.block import LearnedBlocks
    from .reconstruction.temporal import LearnedRounding
    from .trajectory.errors import ErrorTable


FLOAT_NAME = "float"
BATCH = 8  # pictures drawn at a time when comparing
CONDITIONINGS = 64  # calibration pictures whose prompts the time path is learned from, where they enter
SHOWN_STEPS = 8  # intermediate pictures of a trajectory
Value = TypeVar("Value")


@dataclass(frozen=True)
class Progress:
    """How far a stage is; `seconds_left` is None until there is something to estimate from."""

    stage: str
    done: int
    total: int
    seconds_left: float | None = None
    snapshot: Any = field(default=None, compare=False, repr=False)  # what there is to see by now, in some stages

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", about {self.seconds_left:.0f} s left"
        return f"{self.stage}: {self.done} of {self.total}{left}"


@dataclass(frozen=True)
class Picture:
    """A picture that has been drawn: finished, or seen on the way at `step` (a position in sampling order)."""

    recipe: str  # FLOAT_NAME for the float model
    index: int  # position among the comparison's (prompt, seed) pairs, prompts outermost
    prompt: str
    seed: int
    pixels: np.ndarray  # uint8 [H, W, 3]
    step: int | None = None


def finish(work: Generator[Any, None, Value]) -> Value:
    """Run a generator of this file to its end and return its value."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def clocked(stage: str, already: int = 0) -> Callable[[int, int], Progress]:
    """A function (done, total) -> Progress whose estimate extends the speed so far; `already` was done before."""
    start = time.monotonic()

    def at(done: int, total: int) -> Progress:
        spent, new = time.monotonic() - start, done - already
        return Progress(stage, done, total, spent / new * (total - done) if new else None)

    return at


# --- models and statistics -----------------------------------------------------------------------------------------


def info(model: str) -> ModelInfo:
    """What is known of a model: an embedded name, a folder or a Hub id. Raises DmqError if it cannot be loaded.

    An embedded model need not be loaded for that: its description ships with its capture.
    """
    shipped = _shipped_info(model) if model in EMBEDDED else None
    return shipped or load(model).info


@lru_cache
def _shipped_info(model: str) -> ModelInfo | None:
    folder = runs.ASSETS / "runs" / runs.capture_key(for_model(Recipe(), model))
    return runs.load_info(folder)


def load(model: str) -> "Loaded":
    """The float pipeline itself, cached and never to be changed, with its adapter and description."""
    from .models import loading

    return loading.load(model)


def for_model(recipe: Recipe, model: str, sampling: Sampling | None = None) -> Recipe:
    """`recipe` for another model, with that model's sampling unless another is given.

    Boundaries set by hand keep their places in time, and there are no more groups than steps.
    """
    sampling = sampling or EMBEDDED.get(model, recipe.sampling)
    grouping, old, new = recipe.grouping, recipe.sampling.steps, sampling.steps
    if isinstance(grouping, ManualGroups):
        moved = {round(b * new / old) for b in grouping.boundaries}
        grouping = ManualGroups(boundaries=tuple(sorted(b for b in moved if 0 < b < new)))
    elif hasattr(grouping, "count"):
        grouping = dataclasses.replace(grouping, count=min(grouping.count, new))
    return dataclasses.replace(recipe, model=model, sampling=sampling, grouping=grouping)


def captured(recipe: Recipe) -> bool:
    """Are there statistics for `recipe`, so that `errors` and `plan` answer at once?"""
    return runs.find_capture(recipe) is not None


def statistics(recipe: Recipe) -> ActivationStats:
    """The activation statistics that `recipe` stands on. Raises DmqError if nothing was captured yet."""
    folder = runs.find_capture(recipe)
    if folder is None:
        raise DmqError(
            f"nothing captured yet for {recipe.model} with {recipe.sampling.steps} steps and "
            f"{recipe.calibration.samples} pictures; press Capture, or run `dmq capture`."
        )
    return _load_stats(folder, (folder / "capture.json").stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _load_stats(folder: Path, _changed: int) -> ActivationStats:
    return runs.load_stats(folder)


def capture(recipe: Recipe, *, again: bool = False, trajectories: int = 0) -> Generator[Progress, None, Path]:
    """Watch the float model draw the calibration pictures; returns the folder of the statistics.

    Does nothing if there are such statistics already, unless `again`. The denoiser calls of the first `trajectories`
    pictures are saved beside them (`runs.load_trajectory`). Closing the generator leaves no trace.
    """
    folder = runs.find_capture(recipe)
    if folder is not None and not again:
        return folder
    yield Progress("Load the model", 0, 1)
    from .capture.activations import capture_activations

    loaded = load(recipe.model)
    at = clocked("Capture")
    work = capture_activations(loaded, recipe.sampling, recipe.calibration, trajectories=trajectories)
    try:
        while True:
            yield at(*next(work))
    except StopIteration as end:
        seen = end.value
    finally:
        work.close()
    folder = runs.home() / "captures" / runs.capture_key(recipe)
    runs.save_stats(folder, seen.stats, loaded.info, seen.trajectory)
    return folder


# --- searches for groups -------------------------------------------------------------------------------------------


def search_spec(recipe: Recipe) -> LearnedGroups | None:
    """The search that `recipe` stands on, by its groups or by its choice of calibration steps; None if on none.

    ActiveSteps say how steps are scored, whatever the groups say.
    """
    grouping, chosen = recipe.grouping, recipe.calibration_steps
    spec = grouping if isinstance(grouping, LearnedGroups) else None
    if isinstance(chosen, ActiveSteps):
        return dataclasses.replace(spec or LearnedGroups(), score=chosen.score, mmd=chosen.mmd)
    return spec


def searched(recipe: Recipe) -> bool:
    """Is what `recipe` must know of a search there? True if it needs none."""
    return search_spec(recipe) is None or _find_search(recipe) is not None


def search_result(recipe: Recipe) -> SearchResult:
    """What the search that `recipe` stands on has found.

    Raises DmqError if it was not run yet, or with another sampler than the statistics.
    """
    folder = _find_search(recipe)
    if folder is None:
        raise DmqError(
            f"no groups were learned yet for {recipe.model} with this recipe. Run the search first: "
            "press Search, or run `dmq search`."
        )
    result, stats = _load_search(folder, _changed(folder)), statistics(recipe)
    for name in ("sampler", "timesteps"):
        ours, theirs = getattr(result, name), getattr(stats, name)
        if ours != theirs:
            raise DmqError(f"the search was run with {name} {ours}, the capture with {theirs}. Search again.")
    return result


def search(
    recipe: Recipe, *, again: bool = False, enough: Callable[[], bool] = lambda: False
) -> Generator[Progress, None, SearchResult]:
    """Learn the groups that `recipe` stands on (ADP-DM); each Progress has a `results.SearchSnapshot`.

    Does nothing if that was done already, unless `again`. Once `enough()`, what is there by then is finished and kept.
    Closing the generator leaves no trace. Raises DmqError if the recipe needs no search.
    """
    spec = search_spec(recipe)
    if spec is None:
        raise DmqError("nothing to search: set grouping to LearnedGroups, or calibration_steps to ActiveSteps.")
    if searched(recipe) and not again:
        return search_result(recipe)
    yield from capture(recipe)
    yield Progress("Load the model", 0, 1)
    from .calibration.active import search_groups

    work = search_groups(
        load(recipe.model), recipe, spec, statistics(recipe), enough=enough,
        trajectory=_recorded(recipe, spec.trajectories),
    )
    at: dict[str, Callable[[int, int], Progress]] = {}
    try:
        while True:
            seen = next(work)
            clock = at.setdefault(seen.phase, clocked(seen.phase))
            yield dataclasses.replace(clock(seen.done, seen.total), snapshot=seen)
    except StopIteration as end:
        result = end.value
    finally:
        work.close()
    runs.save_search(recipe, spec, result)
    return result


def _recorded(recipe: Recipe, pictures: int) -> Trajectory | None:
    """The denoiser calls saved with the capture, if they are of enough pictures to learn from."""
    folder = runs.find_capture(recipe)
    if folder is None or not (folder / "trajectory.safetensors").is_file():
        return None
    trajectory = runs.load_trajectory(folder)
    guided = 2 if recipe.sampling.guidance and any((half >= 0).any() for half in trajectory.half) else 1
    rows = sum(len(half) for half, i in zip(trajectory.half, trajectory.step, strict=True) if i == 0)
    return trajectory if rows >= guided * pictures else None


def _find_search(recipe: Recipe) -> Path | None:
    return runs.find_search(recipe, search_spec(recipe), info(recipe.model).fingerprint)


def _changed(folder: Path) -> int:
    return (folder / "search.safetensors").stat().st_mtime_ns


@lru_cache(maxsize=4)
def _load_search(folder: Path, _changed: int) -> SearchResult:
    return runs.load_search(folder)


# --- what only reads statistics ------------------------------------------------------------------------------------


def table(recipe: Recipe) -> "ErrorTable":
    """The error table of `recipe`'s activations: made once per choice of bits and range, cheap to ask after that."""
    from .calibration.selection import step_counts
    from .quantizers.plan import site_bits

    stats = statistics(recipe)
    bits = site_bits(info(recipe.model), recipe, stats)
    counts = step_counts(recipe.calibration_steps, stats.steps, lambda: search_result(recipe))
    which = runs.find_capture(recipe), stats.fingerprint, recipe.activations
    return _table(*which, tuple(bits.tolist()), tuple(counts.tolist()), _Held(stats))


@dataclass(frozen=True)
class _Held:
    """Carries what was loaded past a cache's key: the key already names its folder."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=6)
def _table(
    _folder: Path, _fingerprint: str, activations: Any, bits: tuple[int, ...], counts: tuple[int, ...], held: _Held
) -> "ErrorTable":
    from .trajectory.errors import ErrorTable

    return ErrorTable(held.value, activations, np.array(bits), np.array(counts, float))


def errors(recipe: Recipe) -> GroupErrors:
    """The activations' quantization error under `recipe`'s partition, per site and step, without running a model."""
    everything_per_step = recipe.temporal is not None and recipe.temporal.fsc == "all"
    return _partitioned(PerStep() if everything_per_step else recipe.grouping, recipe)


@singledispatch
def _partitioned(grouping: Any, recipe: Recipe) -> GroupErrors:
    """The errors under `recipe`'s grouping, which is `grouping`."""
    return _errors(table(recipe), grouping)


@_partitioned.register
def _learned(grouping: LearnedGroups, recipe: Recipe) -> GroupErrors:
    """Groups and ranges are those of the search; nothing is chosen anew."""
    result = search_result(recipe)
    return _learned_errors(table(recipe), _find_search(recipe), _changed(_find_search(recipe)), _Held(result))


@lru_cache(maxsize=8)
def _learned_errors(made: "ErrorTable", _folder: Path, _changed: int, held: _Held) -> GroupErrors:
    from .trajectory.search import learned_errors

    return learned_errors(held.value, made)


@lru_cache(maxsize=32)
def _errors(made: "ErrorTable", grouping: Any) -> GroupErrors:
    from .trajectory.grouping import group_timesteps

    return made.errors(group_timesteps(grouping, made))


def error_curves(recipe: Recipe, counts: tuple[int, ...]) -> dict[str, list[float]]:
    """Total relative error against the number of groups, for uniform and for optimal cuts."""
    return _curves(table(recipe), counts)


@lru_cache(maxsize=8)
def _curves(made: "ErrorTable", counts: tuple[int, ...]) -> dict[str, list[float]]:
    from .trajectory.grouping import error_against_count

    return error_against_count(made, counts)


def plan(recipe: Recipe) -> Plan:
    """The recipe resolved for its model: what every layer gets, and the exact bytes."""
    from .quantizers.plan import make_plan

    known = _timed_info(recipe)
    spec = recipe.temporal
    chosen = spec is not None and isinstance(spec.cache, Cache) and spec.cache.selection != "none"
    # Without such a block, or if more than t enters, the plan says why there can be no selection.
    possible = chosen and known.temporal is not None and known.temporal.finite
    cached = temporal_errors(recipe).cached if possible else None
    made = make_plan(known, recipe, statistics(recipe), errors(recipe), cached)
    how = _learned_layers(recipe, made)
    rows = tuple(dataclasses.replace(row, learned=how.get(row.layer.name, "")) for row in made.layers)
    return dataclasses.replace(made, layers=rows)


def _learned_layers(recipe: Recipe, made: Plan) -> dict[str, str]:
    """How the codes of each layer are learned that does not take its nearest ones."""
    time = set(made.temporal.block.layers) if _learns(recipe) else set()
    how = {row.layer.name: "TIAR" for row in made.layers if row.layer.name in time and row.weights.bits < FLOAT}
    if recipe.reconstruction is None:
        return how
    if reconstructed(recipe):  # it may have ended before its time
        return how | dict.fromkeys(blocks_result(recipe).codes, "block")
    from .reconstruction.block import trained_layers

    loaded = load(recipe.model)
    blocks = trained_layers(loaded.denoiser, loaded.adapter, made, recipe.reconstruction)
    return how | {name: "block" for formats in blocks.values() for name in formats}


def quantize(recipe: Recipe) -> "nn.Module":
    """The quantized denoiser of `recipe`: a new model with a clock of its own; the float one stays as it was."""
    from .models.borrow import borrow

    folder = runs.find_capture(recipe)
    changed = folder and (folder / "capture.json").stat().st_mtime_ns
    learned = _find_search(recipe) if search_spec(recipe) else None
    changes = (changed, learned and _changed(learned), _rounding_changed(recipe), _blocks_changed(recipe))
    return borrow(_quantized(dataclasses.replace(recipe, name=""), folder, changes))


@lru_cache(maxsize=3)  # searching the weights' ranges takes seconds, drawing again with the same recipe is common
def _quantized(recipe: Recipe, _folder: Path | None, _changes: tuple) -> "nn.Module":
    from .quantizers.apply import quantized

    loaded = load(recipe.model)
    learned, blocks = _learned_rounding(recipe), blocks_result(recipe)
    codes = (learned.codes if learned else {}) | (blocks.codes if blocks else {})
    made = quantized(loaded.denoiser, plan(recipe), loaded.adapter, codes)
    if learned and learned.note:
        made.clock.notes.append(f"rounding of the time path: {learned.note}")
    if blocks and blocks.note:
        made.clock.notes.append(f"rounding of the blocks: {blocks.note}")
    return made


# --- the time path -------------------------------------------------------------------------------------------------


def temporal_learned(recipe: Recipe) -> bool:
    """Has the rounding of the time path been learned, or is there none to be learned?"""
    folder = _rounding_folder(recipe)
    return folder is None or folder.is_dir()


def learn_temporal(recipe: Recipe, *, again: bool = False) -> Generator[Progress, None, Path | None]:
    """Learn the rounding of the time path (TIAR); returns the folder where it is kept, None if `recipe` needs none.

    Does nothing if it was learned already, unless `again`. Needs no pictures; where more than t enters, the
    prompts, classes or sizes of the calibration pictures. Closing the generator leaves no trace.
    """
    if not _learns(recipe):
        return None
    yield Progress("Load the model", 0, 1)
    folder = _rounding_folder(recipe)
    if folder is None or (folder.is_dir() and not again):
        return folder
    from .models.temporal import every_pair
    from .reconstruction.temporal import learn_rounding, to_arrays

    loaded, spec = load(recipe.model), recipe.temporal.rounding
    t, given = every_pair(statistics(recipe).timesteps, _conditioning(recipe))
    block, formats = _timed_info(recipe).temporal, _temporal_formats(recipe)
    at = clocked("Learn the rounding of the time path")
    work = learn_rounding(loaded.denoiser, loaded.adapter, block, formats, spec, t, given)
    try:
        while True:
            yield at(*next(work))
    except StopIteration as end:
        learned = end.value
    finally:
        work.close()
    folder = _rounding_folder(recipe, own=True)  # never where those are that ship
    runs.save_rounding(folder, *to_arrays(learned))
    return folder


def temporal_errors(recipe: Recipe) -> TemporalErrors:
    """What `recipe` does to the temporal features, beside treating the time path as all other layers.

    Runs the time path alone, which takes seconds. Raises DmqError if the model has no temporal block that dmq
    knows, or if its rounding was not learned yet, by itself or with the blocks.
    """
    if not _learned_with_blocks(recipe):
        recipe = dataclasses.replace(recipe, reconstruction=None)  # which leaves the time path alone
    changes = _rounding_changed(recipe), _blocks_changed(recipe)
    return _temporal_errors(dataclasses.replace(recipe, name=""), changes)


@lru_cache(maxsize=8)
def _temporal_errors(recipe: Recipe, _changes: tuple) -> TemporalErrors:
    from .metrics.temporal import measure_time_path

    codes, losses, note = _time_codes(recipe)
    spec = recipe.temporal or Temporal()
    recipe = dataclasses.replace(recipe, temporal=spec, reconstruction=None)
    before, computed = (_uncached(recipe, each) for each in (Temporal(), spec))
    computed = dataclasses.replace(computed, temporal=dataclasses.replace(computed.temporal, spec=spec))
    loaded = load(recipe.model)
    return measure_time_path(
        loaded.denoiser, loaded.adapter, before, computed, statistics(recipe), _conditioning(recipe), codes, losses,
        note,
    )  # fmt: skip


def _time_codes(recipe: Recipe) -> "tuple[dict[str, QuantizedWeight], np.ndarray, str]":
    """Codes learned for the time path among others, the loss of each iteration if learned alone, and a note."""
    blocks = blocks_result(recipe) if _learned_with_blocks(recipe) else None
    learned = blocks or _learned_rounding(recipe)
    losses = np.zeros(0, np.float32) if blocks or not learned else learned.losses
    return (learned.codes, losses, learned.note) if learned else ({}, losses, "")


def _learned_with_blocks(recipe: Recipe) -> bool:
    """Is the rounding of the time path learned with the blocks instead of by itself?"""
    return recipe.reconstruction is not None and recipe.reconstruction.time


def temporal_block(model: str) -> TemporalBlock | None:
    """The part of `model` that sees the time only; None if dmq knows none in it."""
    # Descriptions that were kept with a capture may be older than dmq's knowledge of such blocks.
    return info(model).temporal or load(model).info.temporal


def deviation(recipe: Recipe, *, pictures: int = 2) -> Generator[Progress, None, dict[str, np.ndarray]]:
    """1 - cosine between the latents of runs with the time path alone quantized and float ones, after each step [T].

    Mean over the first calibration `pictures`, all from the same noise. "before" treats the time path as all other
    layers, "after" as `recipe` says. Raises DmqError where `temporal_errors` does.
    """
    temporal_errors(recipe)  # what is missing is said before anything is drawn
    yield Progress("Load the model", 0, 1)
    from .capture.activations import calibration_pictures

    loaded = load(recipe.model)
    jobs = calibration_pictures(loaded, dataclasses.replace(recipe.calibration, samples=pictures))
    models = {"float": loaded.denoiser} | dict(_time_paths(loaded, recipe))
    drawn = {}
    for name, model in models.items():
        work = _latents(loaded, model, jobs, recipe, clocked(f"Draw {name}"))
        drawn[name] = yield from work
    wanted = drawn.pop("float")
    return {name: _cosine_errors(made, wanted) for name, made in drawn.items()}


def _time_paths(loaded: "Loaded", recipe: Recipe) -> Iterator[tuple[str, "nn.Module"]]:
    """Models whose time path alone is quantized: as all other layers, and as the recipe says if it says anything."""
    from .quantizers.apply import quantized
    from .quantizers.temporal import time_path_only

    alone = time_path_only(_uncached(recipe, Temporal()))
    yield "before", quantized(loaded.denoiser, alone, loaded.adapter)
    codes, _, _ = _time_codes(recipe)
    if recipe.temporal is not None:
        whole = plan(recipe)
        alone = dataclasses.replace(time_path_only(whole), temporal=whole.temporal)
    if recipe.temporal is not None or codes:
        yield "after", quantized(loaded.denoiser, alone, loaded.adapter, codes)


def _latents(
    loaded: "Loaded",
    model: "nn.Module",
    jobs: list[tuple[str, int]],
    recipe: Recipe,
    at: Callable[[int, int], Progress],
) -> Generator[Progress, None, np.ndarray]:
    """What each step of one run leaves behind, [T, pictures, values]."""
    from .models import loading
    from .models.stepping import stepping

    prompts, seeds = zip(*jobs, strict=True)
    run = stepping(
        lambda on_step: loading.sample(
            loading.with_denoiser(loaded, model), loaded, prompts=prompts, seeds=seeds, sampling=recipe.sampling,
            on_step=on_step,
        )
    )  # fmt: skip
    seen: list[np.ndarray] = []
    for i, _, latents in run:
        seen.append(latents.detach().double().cpu().flatten(1).numpy())
        yield at(i + 1, recipe.sampling.steps)
    return np.stack(seen)


def _cosine_errors(made: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Mean over pictures of 1 - cosine, [T, pictures, values] twice to [T]."""
    lengths = np.linalg.norm(made, axis=2) * np.linalg.norm(wanted, axis=2)
    return (1 - (made * wanted).sum(2) / np.maximum(lengths, 1e-30)).mean(1)


def _timed_info(recipe: Recipe) -> ModelInfo:
    """The description of the model, with its temporal block if `recipe` needs it and dmq knows one."""
    known = info(recipe.model)
    # Descriptions that were kept with a capture may be older than dmq's knowledge of such blocks.
    return load(recipe.model).info if recipe.temporal is not None and known.temporal is None else known


def _uncached(recipe: Recipe, spec: Temporal) -> Plan:
    """The plan of `recipe` with the time path kept as by `spec`, but without a cache."""
    from .quantizers.plan import make_plan

    own = dataclasses.replace(spec, cache=NoCache())
    recipe = dataclasses.replace(recipe, temporal=own, reconstruction=None)
    return make_plan(_timed_info(recipe), recipe, statistics(recipe), errors(recipe))


def _learns(recipe: Recipe) -> bool:
    """Is there rounding to be learned? Not if a cache takes the place of everything."""
    spec = recipe.temporal
    if spec is None or not isinstance(spec.rounding, Tiar):
        return False
    return isinstance(spec.cache, NoCache) or spec.cache.selection != "none"


def _temporal_formats(recipe: Recipe) -> dict[str, Any]:
    """The weight format of every layer of the time path that is not in float."""
    plan = _uncached(recipe, recipe.temporal)
    rows = [row for row in plan.layers if row.layer.name in plan.temporal.block.layers]
    return {row.layer.name: row.weights for row in rows if row.weights.bits < FLOAT}


def _rounding_folder(recipe: Recipe, *, own: bool = False) -> Path | None:
    """Where the learned rounding of `recipe` is or will be; None if nothing is to be learned."""
    if not _learns(recipe):
        return None
    formats = tuple(_temporal_formats(recipe).items())
    stats, block = statistics(recipe), _timed_info(recipe).temporal
    # The conditioning that is learned from comes from the capture.
    source = "" if block.finite else runs.capture_key(recipe)
    asked = stats.fingerprint, stats.timesteps, formats, recipe.temporal.rounding, source
    return runs.rounding_folder(*asked, own=own)


def _rounding_changed(recipe: Recipe) -> int | None:
    folder = _rounding_folder(recipe)
    file = folder and folder / "rounding.safetensors"
    return file.stat().st_mtime_ns if file and file.is_file() else None


def _learned_rounding(recipe: Recipe) -> "LearnedRounding | None":
    """What `learn_temporal` found; None if there is nothing to be learned. Raises DmqError if it did not run yet."""
    from .reconstruction.temporal import from_arrays

    folder = _rounding_folder(recipe)
    if folder is None:
        return None
    if not folder.is_dir():
        raise DmqError(
            "recipe.temporal.rounding: the rounding of the time path was not learned yet; press Learn, or run "
            "`dmq run` with this recipe."
        )
    return from_arrays(*runs.load_rounding(folder))


def _conditioning(recipe: Recipe) -> "dict[str, Tensor]":
    """What enters the time path beside t for the calibration pictures; nothing where t is all."""
    block = _timed_info(recipe).temporal
    if block is None or block.finite:
        return {}
    return _conditioning_rows(recipe.model, recipe.sampling, recipe.calibration)


@lru_cache(maxsize=8)
def _conditioning_rows(model: str, sampling: Sampling, calibration: Calibration) -> "dict[str, Tensor]":
    from .capture.activations import calibration_pictures
    from .capture.conditioning import conditioning_of
    from .models.temporal import conditioning_rows

    loaded = load(model)
    pictures = calibration_pictures(loaded, calibration)[:CONDITIONINGS]
    calls = conditioning_of(loaded, pictures, sampling, calibration.batch)
    return conditioning_rows(calls, info(model).temporal)


# --- the rounding of blocks ----------------------------------------------------------------------------------------


def reconstructed(recipe: Recipe) -> bool:
    """Has the rounding of the blocks been learned, or is there none to be learned?"""
    folder = _blocks_folder(recipe)
    return folder is None or folder.is_dir()


def reconstruct(recipe: Recipe, *, again: bool = False) -> Generator[Progress, None, Path | None]:
    """Learn the rounding of the blocks, after that of the time path; returns the folder where it is kept.

    None if `recipe` needs none. Does nothing if it was learned already, unless `again`. Blocks that are finished when
    the generator is closed are kept: the next call goes on behind them. A Progress after a block has all that was
    learned by then as its snapshot, `blocks_result` tells what was found.
    """
    if recipe.reconstruction is None:
        return None
    yield from learn_temporal(recipe)
    yield Progress("Load the model", 0, 1)
    folder = _blocks_folder(recipe)
    if folder.is_dir() and not again:
        return folder
    folder, unfinished = _blocks_folder(recipe, own=True), _unfinished(recipe)  # never where those are that ship
    if again:
        runs.discard(unfinished)
    learned = yield from _reconstruct(recipe, unfinished)
    from .reconstruction.block import to_arrays

    runs.save_rounding(folder, *to_arrays(learned))
    runs.discard(unfinished)
    return folder


def blocks_result(recipe: Recipe) -> "LearnedBlocks | None":
    """What `reconstruct` found; None if there is nothing to be learned. Raises DmqError if it did not run yet."""
    folder = _blocks_folder(recipe)
    if folder is None:
        return None
    if not folder.is_dir():
        raise DmqError(
            "recipe.reconstruction: the rounding of the blocks was not learned yet; press Learn, or run "
            "`dmq reconstruct` or `dmq run` with this recipe."
        )
    return _load_blocks(folder, _blocks_changed(recipe))


@lru_cache(maxsize=4)
def _load_blocks(folder: Path, _changed: int) -> "LearnedBlocks":
    from .reconstruction.block import from_arrays

    return from_arrays(*runs.load_rounding(folder))


def blocks_so_far(recipe: Recipe) -> "LearnedBlocks | None":
    """What there is of the rounding of the blocks, finished or interrupted; None if there is nothing yet."""
    from .reconstruction.block import from_arrays, joined

    if recipe.reconstruction is None or reconstructed(recipe):
        return blocks_result(recipe)
    kept = _unfinished(recipe)
    names = [name for name in load(recipe.model).adapter.blocks(load(recipe.model).denoiser) if (kept / name).is_dir()]
    found = [from_arrays(*runs.load_rounding(kept / name)) for name in names]
    return joined(found) if found else None


def _unfinished(recipe: Recipe) -> Path:
    """Where finished blocks are kept until all are."""
    folder = _blocks_folder(recipe, own=True)
    return folder.with_name(f"{folder.name}-blocks")


def _reconstruct(recipe: Recipe, kept: Path) -> Generator[Progress, None, "LearnedBlocks"]:
    """Learn one block after another, each saved in a folder of `kept`; those that are there are not learned again."""
    from .calibration.selection import step_counts
    from .reconstruction.block import (
        from_arrays,
        joined,
        reconstruct_block,
        to_arrays,
        trained_layers,
        training_model,
    )

    loaded, spec, made = load(recipe.model), recipe.reconstruction, plan(recipe)
    blocks = trained_layers(loaded.denoiser, loaded.adapter, made, spec)
    found = {name: from_arrays(*runs.load_rounding(kept / name)) for name in blocks if (kept / name).is_dir()}
    time_path = _learned_rounding(recipe)
    codes = (time_path.codes if time_path else {}) | joined(list(found.values())).codes
    counts = step_counts(recipe.calibration_steps, len(made.timesteps), lambda: search_result(recipe))
    trajectory = _recorded(recipe, spec.pictures) or (yield from _draw_calls(recipe, spec.pictures))
    twin = training_model(loaded.denoiser, loaded.adapter, made, codes)
    at = clocked("Reconstruct the blocks", len(found) * spec.iterations)
    for name, formats in blocks.items():
        if any(part.note for part in found.values()):
            break  # what comes behind a failure would be learned from its answers
        if name in found:
            continue
        work = reconstruct_block(loaded.denoiser, twin, name, formats, spec, trajectory, counts)
        try:
            while True:
                done, _ = next(work)
                yield at(len(found) * spec.iterations + done, len(blocks) * spec.iterations)
        except StopIteration as end:
            found[name] = end.value
        finally:
            work.close()
        runs.save_rounding(kept / name, *to_arrays(found[name]))
        made_by_now = joined([found[name] for name in blocks if name in found])
        progress = at(len(found) * spec.iterations, len(blocks) * spec.iterations)
        yield dataclasses.replace(progress, snapshot=made_by_now)
    return joined([found[name] for name in blocks if name in found])


def _draw_calls(recipe: Recipe, pictures: int) -> Generator[Progress, None, Trajectory]:
    """The denoiser calls of the first calibration pictures, drawn by the float model."""
    from .capture.activations import calibration_pictures
    from .capture.trajectories import record_trajectory
    from .models.stepping import stepping

    loaded = load(recipe.model)
    jobs = calibration_pictures(loaded, dataclasses.replace(recipe.calibration, samples=pictures))
    prompts, seeds = zip(*jobs, strict=True)
    work = stepping(
        lambda on_step: record_trajectory(
            loaded, prompts=prompts, seeds=seeds, sampling=recipe.sampling, on_step=on_step
        )[0]
    )
    at = clocked("Draw pictures to learn from")
    try:
        while True:
            yield at(next(work)[0] + 1, recipe.sampling.steps)
    except StopIteration as end:
        return end.value
    finally:
        work.close()


def _blocks_folder(recipe: Recipe, *, own: bool = False) -> Path | None:
    """Where the learned rounding of `recipe`'s blocks is or will be; None if none is to be learned."""
    if recipe.reconstruction is None:
        return None
    # Inputs come from the whole quantized model, so all that the recipe says matters.
    asked = dataclasses.replace(recipe, name="", on_miss="error")
    stats = statistics(recipe)
    return runs.rounding_folder("blocks", asked, stats.fingerprint, stats.sampler, stats.timesteps, own=own)


def _blocks_changed(recipe: Recipe) -> int | None:
    folder = _blocks_folder(recipe)
    file = folder and folder / "rounding.safetensors"
    return file.stat().st_mtime_ns if file and file.is_file() else None


# --- pictures ------------------------------------------------------------------------------------------------------


def compare(
    comparison: Comparison, recipes: tuple[Recipe, ...], *, name: str | None = None
) -> Generator[Progress | Picture, None, Report]:
    """Draw the comparison with the float model, then with each recipe, from the same noise; returns the report.

    Pictures are yielded as they come. With a `name`, the finished run is saved under it.
    """
    _check(recipes)
    warnings = [f"{r.name}: {line}" for r in recipes for line in check_sampling(r, comparison.sampling)]
    yield Progress("Load the model", 0, 1)
    loaded = load(recipes[0].model)
    _check_sampler(loaded, recipes)
    jobs = [(prompt, seed) for prompt in comparison.prompts for seed in comparison.seeds]
    drawn: dict[str, list[np.ndarray]] = {}
    on_the_way: dict[str, dict[tuple[int, int], np.ndarray]] = {}
    seconds, plans = {}, {}
    floor_jobs = [(prompt, comparison.seeds[0] + 1) for prompt in comparison.prompts[:BATCH]]
    for who, recipe in [(FLOAT_NAME, None), *((recipe.name, recipe) for recipe in recipes)]:
        model = loaded.denoiser
        if recipe is not None:
            yield from learn_temporal(recipe)
            yield from reconstruct(recipe)
            yield Progress(f"Quantize {who}", 0, 1)
            plans[who], model = plan(recipe), quantize(recipe)
        on_the_way[who] = {}
        work = _draw(loaded, model, who, jobs, comparison)
        drawn[who], seconds[who] = yield from _keeping(work, on_the_way[who])
        warnings += [f"{who}: {note}" for note in getattr(getattr(model, "clock", None), "notes", ())]
    others, _ = yield from _draw(loaded, loaded.denoiser, "noise floor", floor_jobs, comparison, shown=False)
    report = Report(
        scores=tuple(_scores(jobs, drawn)),
        seconds=seconds,
        bytes={FLOAT_NAME: next(iter(plans.values())).float_bytes} | {who: p.bytes for who, p in plans.items()},
        coverage={who: p.coverage_line() for who, p in plans.items()},
        noise_floor=_floor(drawn[FLOAT_NAME][:: len(comparison.seeds)], others),
        samples=len(jobs),
        warnings=tuple(warnings),
    )
    if name is not None:
        runs.save_run(name, recipes, comparison, report, drawn, on_the_way)
    return report


def _keeping(
    work: Generator[Any, None, Value], kept: dict[tuple[int, int], np.ndarray]
) -> Generator[Any, None, Value]:
    """`work`, with its pictures on the way put into `kept` as they pass."""
    try:
        while True:
            item = next(work)
            if isinstance(item, Picture) and item.step is not None:
                kept[item.index, item.step] = item.pixels
            yield item
    except StopIteration as end:
        return end.value
    finally:
        work.close()


def run(recipe: Recipe, comparison: Comparison, *, name: str) -> Generator[Progress | Picture, None, Report]:
    """Carry a recipe out from nothing: capture if that was not done yet, quantize, compare, save under `name`."""
    runs.folder_of(name)  # a name that cannot be saved is better refused before the work than after it
    yield from capture(recipe)
    if not searched(recipe):
        yield from search(recipe)
    return (yield from compare(comparison, (recipe,), name=name))


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two pictures differ, four times brighter than it is, uint8 [H, W, 3]."""
    from .metrics import pixel

    return pixel.difference(a, b)


def _check(recipes: tuple[Recipe, ...]) -> None:
    if not recipes:
        raise DmqError("nothing to compare: choose at least one recipe.")
    if len({recipe.model for recipe in recipes}) > 1:
        raise DmqError(f"recipes of different models ({', '.join(r.model for r in recipes)}) cannot be compared.")
    seen = [FLOAT_NAME, *(recipe.name for recipe in recipes)]
    if len(set(seen)) < len(seen):
        raise DmqError(f"every recipe needs a name of its own other than {FLOAT_NAME!r}; got {', '.join(seen[1:])}.")
    for recipe in recipes:
        statistics(recipe)  # what is missing is said before anything is drawn
        if search_spec(recipe):
            search_result(recipe)


def check_sampling(recipe: Recipe, sampling: Sampling) -> list[str]:
    """How `sampling` differs from what the ranges of `recipe` were captured with, a line for each difference.

    Raises DmqError for the first one unless the recipe accepts the nearest step, `on_miss="nearest"`.
    """
    spec, lines = recipe.activations, []
    if spec.bits == spec.attention_bits == FLOAT and recipe.temporal is None and not recipe.overrides:
        return []  # nothing was learned from the captured steps
    prompted = info(recipe.model).prompted
    for name, said in (("steps", "{} steps"), ("guidance", "guidance {:g}"), ("size", "a picture side of {}")):
        asked, known = getattr(sampling, name), getattr(recipe.sampling, name)
        if asked == known or (name == "guidance" and not prompted):
            continue
        if recipe.on_miss == "error":
            raise DmqError(
                f"{said.format(asked)}, but the ranges were captured for {said.format(known)}; draw with {known:g}, "
                f"capture for {asked:g}, or set on_miss of the recipe to nearest."
            )
        lines.append(f"drawn with {said.format(asked)}, the ranges were captured for {said.format(known)}")
    return lines


def _check_sampler(loaded: "Loaded", recipes: tuple[Recipe, ...]) -> None:
    from .capture.activations import sampler_line

    for recipe in recipes:
        then, now = statistics(recipe).sampler, sampler_line(loaded, recipe.sampling)
        if then != now:
            raise DmqError(f"the statistics were captured with {then}; the pipeline has {now}. Capture again.")


def _draw(
    loaded: "Loaded",
    model: "nn.Module",
    who: str,
    jobs: list[tuple[str, int]],
    comparison: Comparison,
    *,
    shown: bool = True,
) -> Generator[Progress | Picture, None, tuple[list[np.ndarray], float]]:
    """All pictures of `jobs` in batches, and the seconds that sampling took without decoding pictures on the way."""
    from .models.stepping import stepping

    at, steps = clocked(f"Draw {who}"), comparison.sampling.steps
    watched = set(np.linspace(0, steps - 1, min(SHOWN_STEPS, steps)).round().astype(int).tolist()) if shown else set()
    pictures: list[np.ndarray] = []
    spent = 0.0
    for start in range(0, len(jobs), BATCH):
        part = jobs[start : start + BATCH]

        def seen(pixels: list[np.ndarray], step: int | None, start: int = start, part: list = part) -> list[Picture]:
            return [Picture(who, start + n, *part[n], made, step) for n, made in enumerate(pixels)]

        work = stepping(partial(_sample, loaded, model, part, comparison, watched))
        try:
            while True:
                i, pixels = next(work)
                yield from seen(pixels, i)
                yield at(start * steps + (i + 1) * len(part), len(jobs) * steps)
        except StopIteration as end:
            made, seconds = end.value
        finally:
            work.close()
        pictures += made
        spent += seconds
        if shown:
            yield from seen(made, None)
    return pictures, spent


def _sample(
    loaded: "Loaded",
    model: "nn.Module",
    part: list[tuple[str, int]],
    comparison: Comparison,
    watched: set[int],
    report: Callable[[int, list[np.ndarray]], None],
) -> tuple[list[np.ndarray], float]:
    """One batch, each step reported, with pictures if it is `watched`; returns pictures, and seconds without those."""
    from .models import loading

    aside = 0.0

    def on_step(i: int, t: float, latents: Any) -> None:
        nonlocal aside
        paused = time.monotonic()
        # Some pipelines step both halves of guidance, the pictures' own rows first.
        report(i, loading.decode(loaded, latents[: len(part)]) if i in watched else [])
        aside += time.monotonic() - paused

    begun = time.monotonic()
    made = loading.sample(
        loading.with_denoiser(loaded, model), loaded, prompts=[prompt for prompt, _ in part],
        seeds=[seed for _, seed in part], sampling=comparison.sampling, on_step=on_step,
    )  # fmt: skip
    return made, time.monotonic() - begun - aside


def _scores(jobs: list[tuple[str, int]], drawn: dict[str, list[np.ndarray]]) -> Iterator[PictureScore]:
    from .metrics import pixel

    for who, pictures in drawn.items():
        if who == FLOAT_NAME:
            continue
        for (prompt, seed), ours, floats in zip(jobs, pictures, drawn[FLOAT_NAME], strict=True):
            quality = {"psnr": pixel.psnr(ours, floats), "ssim": pixel.ssim(ours, floats)}
            yield PictureScore(recipe=who, prompt=prompt, seed=seed, **quality)


def _floor(ours: list[np.ndarray], others: list[np.ndarray]) -> dict[str, float]:
    """Mean PSNR and SSIM of float pictures against float pictures of the same prompts with another seed."""
    from .metrics import pixel

    pairs = list(zip(ours, others, strict=False))
    return {
        "psnr": float(np.mean([pixel.psnr(a, b) for a, b in pairs])),
        "ssim": float(np.mean([pixel.ssim(a, b) for a, b in pairs])),
    }
