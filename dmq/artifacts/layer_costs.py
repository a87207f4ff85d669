"""Tables of what each layer's weight costs as each of some choices: asked, kept part by part, found
again.

A table depends on the model, how it is run, and the question; of the recipe's weights only on how
grids are laid, and of its activations only if the question includes them. So recipes that differ in
bits share their tables."""

import dataclasses
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from .. import engine
from ..errors import DmqError
from ..metrics.references import load_scorer
from ..models.generation import generate_batch
from ..models.libraries import import_libraries, load
from ..models.work_plan import chosen_placement
from ..progress import Progress, progress_timer, run_to_end
from ..recipe import FLOAT, Recipe, Sensitivity, WeightFormat, format_name
from ..results import Layer, SensitivityTable
from ..store import folders
from ..store.learned import load_part, load_table, part_names, save_part, save_table
from .capturing import capture
from .changes import changes_of, forget_changes, format_of, splits_of, state_of, sweeps_of
from .known import statistics
from .planning import quantize
from .searches import denoiser_calls, search, searched
from .sensitivity_kept import folder_of, normal, subject_of
from .weights_kept import needs_inputs
from .weights_learned import weight_variants


if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..allocation.sensitivity import Agreement, Watched

KINDS = {"measure": "measured", "fisher": "estimated", "local": "local"}
TITLES = {
    "noise": "noise error",
    "image": "latent error of images",
    "text": "match with the prompt that is lost",
}
UNITS = {
    "noise": "part of the noise prediction's power",
    "image": "part of the float latents' power",
    "text": "points of the match",
}


@dataclass(frozen=True)
class Task:
    """A part of a table: some layers, each made into some choices; by gradients, at one of the
    steps looked at.
    """

    subject: Recipe  # the model with float weights that they are compared with
    ask: Sensitivity
    layers: tuple[str, ...]
    choices: tuple[WeightFormat, ...]
    step: int | None = None  # position among those that are looked at
    workers: int = 1  # that share the memory of a machine

    @property
    def name(self) -> str:
        """That of the folder in which the finished part is kept."""
        several = f"+{len(self.layers) - 1}" if len(self.layers) > 1 else ""
        which = "" if self.step is None else f"--step {self.step}"
        label = f"--{format_name(self.choices[0])}" if len(self.choices) == 1 else ""
        return f"{self.layers[0]}{several}{label}{which}"


# --- asked and answered ---------------------------------------------------------------------------


def sensitivity(
    recipe: Recipe, ask: Sensitivity, *, again: bool = False, scheduler: str = "", workers: int = 1
) -> Generator[Progress, None, SensitivityTable]:
    """Answer `ask` for the model of `recipe`; does nothing if that was done already, unless
    `again`.

    What is finished when the generator is closed, or when a worker dies, is kept: the next call
    goes on behind it. `scheduler` and `workers` are those of `engine.run`. Raises DmqError for what
    cannot be asked of this model."""
    ask, subject = normal(ask), subject_of(recipe, ask)
    _check(subject, ask)
    yield from capture(subject)
    if ask.activations and not searched(subject):
        yield from search(subject)  # its weights are in float: nothing else is to be learned
    folder = folder_of(subject, ask)
    if folder.is_dir() and not again:
        return load_table(folder)
    yield Progress("Load the model", 0, 1)
    import_libraries()
    from ..allocation.sensitivity import check_finite

    layers, left_out = _layers(recipe)
    check_finite(load(subject.model).denoiser)
    folder = folder_of(subject, ask, own=True)
    unfinished = folder.with_name(f"{folder.name}-parts")
    if again:
        folders.discard(unfinished)
    tasks = _tasks(subject, ask, layers, workers)
    for name in set(part_names(unfinished)) - {task.name for task in tasks}:
        folders.discard(
            unfinished / name
        )  # of another version of dmq, or from when there was less memory
    missing = [task for task in tasks if load_part(unfinished, task.name) is None]
    learned = [choice for choice in ask.choices if needs_inputs(choice.format)]
    if learned and missing:
        yield from weight_variants(
            subject, learned, dict.fromkeys(name for task in missing for name in task.layers)
        )
    if missing and not scheduler and workers == 1 and ask.measure == "noise":
        yield from _watching(subject, ask)  # generated once, and its progress told
        if ask.how != "measure":
            yield from changes_of(missing[0])
    sweeps = len({task.layers for task in tasks}) if ask.how != "measure" else 1
    more = f" in {sweeps} sweeps, for want of memory" if sweeps > 1 else ""
    at = progress_timer(f"Ask what layers cost{more}", len(tasks) - len(missing))
    work = engine.run(
        evaluate,
        missing,
        kept=lambda task, arrays: save_part(unfinished, task.name, arrays),
        scheduler=scheduler,
        workers=workers,
    )
    try:
        for done, _, _ in work:
            yield at(len(tasks) - len(missing) + done, len(tasks))
    finally:
        work.close()
        forget_changes()
    table = _joined(
        subject,
        ask,
        layers,
        left_out,
        [(task, load_part(unfinished, task.name)) for task in tasks],
    )
    save_table(folder, table)
    folders.discard(unfinished)
    return table


def agreement(a: SensitivityTable, b: SensitivityTable) -> "Agreement":
    """How alike two tables rank the layers and choices that both know: Spearman's and Kendall's
    correlation.
    """
    from ..allocation.sensitivity import agreement

    return agreement(a, b)


# --- its parts ------------------------------------------------------------------------------------


def _layers(recipe: Recipe) -> tuple[tuple[Layer, ...], list[str]]:
    """The layers that are called, and the names of the others."""
    layers = load(recipe.model).info.layers
    return tuple(layer for layer in layers if layer.macs), [
        layer.name for layer in layers if not layer.macs
    ]


def _check(subject: Recipe, ask: Sensitivity) -> None:
    if ask.activations and ask.how != "measure":
        raise DmqError(
            f"how {ask.how!r} knows float activations only; set how to 'measure', or activations "
            "to false."
        )
    if ask.measure == "text" and load_scorer(subject.model) is None:
        raise DmqError(
            f"{subject.model} generates without prompts in words, so no match can be lost; judge by "
            "'image'."
        )


def _tasks(
    subject: Recipe, ask: Sensitivity, layers: tuple[Layer, ...], workers: int = 1
) -> list[Task]:
    """The parts of a table: a step each where all layers are seen in one pass, otherwise a cell
    each.

    Where memory does not hold what all layers may be made into, not even as codes, they are seen in
    several passes."""
    if ask.how != "measure":
        from ..allocation.sensitivity import steps_between

        steps = range(len(steps_between(len(statistics(subject).timesteps), ask.steps)))
        runs_of_layers = sweeps_of(subject, ask, layers, workers)
        return [
            Task(subject, ask, names, ask.choices, k, workers)
            for names in runs_of_layers
            for k in steps
        ]
    cells = [(choice, layer) for choice in ask.choices for layer in layers]
    if ask.mode == "only":  # where all layers have a choice, those of all layers are held for it
        cells = [(choice, layer) for layer in layers for choice in ask.choices]
    return [Task(subject, ask, (layer.name,), (choice,)) for choice, layer in cells]


def _joined(
    subject: Recipe,
    ask: Sensitivity,
    layers: tuple[Layer, ...],
    left_out: list[str],
    parts: Sequence[tuple[Task, dict[str, np.ndarray]]],
) -> SensitivityTable:
    from ..allocation.sensitivity import steps_between, summary
    from ..quantizers.weights import weight_bytes

    row = {layer.name: n for n, layer in enumerate(layers)}
    seen, samples = parts[0][1]["values"].shape[2:]
    count = seen if parts[0][0].step is None else 1 + max(task.step for task, _ in parts)
    values = np.full((len(layers), len(ask.choices), count, samples), np.nan)
    local = np.full(values.shape[:2], np.nan)
    for task, arrays in parts:
        at = np.ix_(
            [row[name] for name in task.layers],
            [ask.choices.index(choice) for choice in task.choices],
        )
        local[at] = arrays["local"]
        values[(*at, slice(None) if task.step is None else slice(task.step, task.step + 1))] = (
            arrays["values"]
        )
    cost, spread, per_step = summary(values)
    over_time, splits = ask.measure == "noise", splits_of(subject)
    known = statistics(subject)
    steps = steps_between(len(known.timesteps), ask.steps) if over_time else []
    sizes = [
        [
            weight_bytes(layer.shape, format_of(subject, choice), splits.get(layer.name, 0))
            for choice in ask.choices
        ]
        for layer in layers
    ]
    return SensitivityTable(
        title=_title(ask),
        kind=KINDS[ask.how],
        unit="part of the output's power" if ask.how == "local" else UNITS[ask.measure],
        model=subject.model,
        fingerprint=known.fingerprint,
        layers=layers,
        choices=ask.choices,
        bytes=np.array(sizes, np.int64),
        cost=cost,
        spread=spread,
        timesteps=tuple(known.timesteps[i] for i in steps),
        per_step=per_step if over_time else None,
        local=local,
        note=f"never called, hence left out: {', '.join(left_out)}" if left_out else "",
    )


def _title(ask: Sensitivity) -> str:
    other = {"fisher": f"{TITLES['noise']} by gradients", "local": "error of its own output"}
    what = other.get(ask.how, TITLES[ask.measure])
    which = "only this layer" if ask.mode == "only" else "saved by restoring this layer"
    counts = ("step", "image") if ask.measure == "noise" else ("image",)
    seen = ((getattr(ask, f"{name}s"), name) for name in counts)
    parts = [what, which, *(f"{count} {name}{'s' if count > 1 else ''}" for count, name in seen)]
    return ", ".join(parts + (["quantized activations"] if ask.activations else []))


# --- one part: what a worker does -----------------------------------------------------------------

_one_at_a_time = threading.Lock()  # weights are exchanged in a model that all parts share
_watched: dict[tuple, "Watched"] = {}  # the last ones, by what they depend on


def evaluate(task: Task) -> dict[str, np.ndarray]:
    """A part of a table: `values` [layers, choices, T, samples], see `allocation.sensitivity`, and
    `local` errors.

    Runs anywhere: it loads the model by name, and generates or learns what is not in its run folder.
    """
    import_libraries()
    from ..allocation.sensitivity import local_changes, probe_changes, weight_error

    ask = task.ask
    with _one_at_a_time:
        if ask.how != "measure":
            watched, (deltas, local) = (
                run_to_end(_watching(task.subject, ask)),
                run_to_end(changes_of(task)),
            )
            values = (
                probe_changes(watched, deltas, ask.probes, ask.seed, [task.step])
                if ask.how == "fisher"
                else local_changes(watched, deltas, [task.step])
            )
            return {"values": values, "local": local}
        (name,), (choice,) = task.layers, task.choices
        if ask.mode == "all_but":
            weight = _all_made(task.subject, choice, state_of(task.subject))[name]
        else:
            weight = _made(task.subject, task.layers, task.choices)[name][0]
        local = weight_error(
            load(task.subject.model).denoiser.get_submodule(name).weight.detach(), weight
        )
        return {"values": _change(task, weight)[None, None], "local": np.array([[local]])}


def _made(
    subject: Recipe, layers: Sequence[str], choices: Sequence[WeightFormat]
) -> "dict[str, list[Tensor]]":
    """By layer its weight as each of the choices, in the model's precision."""
    from ..allocation.sensitivity import new_weight

    model, splits = load(subject.model).denoiser, splits_of(subject)
    learned = [choice for choice in choices if needs_inputs(choice.format)]
    codes = run_to_end(weight_variants(subject, learned, layers)) if learned else {}
    return {
        name: [
            new_weight(
                model.get_submodule(name).weight,
                format_of(subject, choice),
                splits.get(name, 0),
                codes.get((name, format_name(choice))),
            )
            for choice in choices
        ]
        for name in layers
    }


@lru_cache(maxsize=1)  # as large as the model; parts come choice by choice
def _all_made(subject: Recipe, choice: WeightFormat, _state: tuple) -> "dict[str, Tensor]":
    names = [layer.name for layer in _layers(subject)[0]]
    return {name: made for name, (made,) in _made(subject, names, (choice,)).items()}


def _change(task: Task, weight: "Tensor") -> np.ndarray:
    """What the model loses [T, samples] by the one layer of `task`, or wins by its restoration."""
    (name,), (choice,) = task.layers, task.choices
    if task.ask.mode == "only":
        return _loss(task, {name: weight})
    state = state_of(task.subject)
    others = {
        other: made
        for other, made in _all_made(task.subject, choice, state).items()
        if other != name
    }
    with np.errstate(invalid="ignore"):  # inf - inf: that layer alone does not make it finite
        return _all_lost(task.subject, task.ask, choice, state) - _loss(task, others)


@lru_cache(maxsize=1)
def _all_lost(subject: Recipe, ask: Sensitivity, choice: WeightFormat, state: tuple) -> np.ndarray:
    return _loss(Task(subject, ask, (), (choice,)), _all_made(subject, choice, state))


def _loss(task: Task, weights: "dict[str, Tensor]") -> np.ndarray:
    """How much worse the model is with these weights, [T, samples]."""
    from ..allocation.sensitivity import exchanged, noise_change
    from ..metrics.paired import relative_error

    if task.ask.measure == "noise":
        return noise_change(run_to_end(_watching(task.subject, task.ask)), weights)
    float_latents, float_match = _float_images(task.subject, task.ask, state_of(task.subject))
    model = _comparison(task.subject)
    with exchanged(model, weights):
        latents, match = _generate(task.subject, task.ask, model)
    if task.ask.measure == "text":
        return (float_match - match)[None].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        lost = relative_error(latents, float_latents)
    return np.where(np.isfinite(lost), lost, np.inf)[None]


def _watching(subject: Recipe, ask: Sensitivity) -> "Generator[Progress, None, Watched]":
    """The model with float weights on the recorded calls that are looked at; made once."""
    from ..allocation.sensitivity import watch

    key = subject, ask.steps, ask.images, state_of(subject), chosen_placement()
    if key not in _watched:
        trajectory = yield from denoiser_calls(subject, ask.images)
        blocks = load(subject.model).adapter.blocks(load(subject.model).denoiser)
        made = watch(_comparison(subject), trajectory, ask.steps, ask.images, blocks)
        while len(_watched) > 1:
            _watched.pop(next(iter(_watched)))
        _watched[key] = made
    return _watched[key]


def _comparison(subject: Recipe) -> "nn.Module":
    """A borrowed model with the weights in float, in which they may be exchanged."""
    from ..models.borrow import borrow

    plain = subject.activations.bits == FLOAT and subject.activations.attention_bits == FLOAT
    return (
        borrow(load(subject.model).denoiser)
        if plain and not subject.overrides
        else quantize(subject)
    )


@lru_cache(maxsize=2)
def _float_images(
    subject: Recipe, ask: Sensitivity, _state: tuple
) -> tuple[np.ndarray, np.ndarray]:
    return _generate(subject, ask, _comparison(subject))


def _generate(
    subject: Recipe, ask: Sensitivity, model: "nn.Module"
) -> tuple[np.ndarray, np.ndarray]:
    """The finished samples [P, ...] and the matches [P] of images with their prompts, nan
    unless asked for.
    """
    from ..capture.activations import calibration_images
    from ..numerics.threads import one_thread

    loaded, own = load(subject.model), subject.calibration
    own = dataclasses.replace(own, samples=ask.images, seed=own.seed + ask.seed)
    jobs = calibration_images(loaded, own)
    generated = run_to_end(generate_batch(loaded, model, jobs, subject.sampling))
    if ask.measure != "text":
        return generated.latents, np.full(len(jobs), np.nan)
    with one_thread():
        return generated.latents, load_scorer(subject.model).match(
            generated.images, [prompt for prompt, _ in jobs]
        )
