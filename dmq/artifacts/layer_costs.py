"""What each layer's weight costs as each of some choices: a table, asked part by part."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import engine, jsonio
from ..errors import DmqError
from ..metrics.references import load_scorer
from ..models.libraries import import_libraries
from ..models.libraries import load as load_model
from ..progress import Progress, progress_timer, relay
from ..recipe import Sensitivity
from ..results import ActivationStats, SearchResult, SensitivityTable
from ..store import folders, learned
from ..store.artifact import compute, load, places
from .cost_changes import forget_changes, format_of, load_changes, splits_of, sweeps_of
from .cost_part import Part, called_layers, evaluate, uncalled_layers, watch_calls
from .questions import LayerCosts


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


@places.register(LayerCosts)
def _(question: LayerCosts, statistics: ActivationStats) -> Sequence[Path]:
    asked = jsonio.key_data(question.subject), jsonio.key_data(question.ask)
    run = statistics.fingerprint, statistics.sampler, statistics.timesteps
    return folders.answer_places("sensitivity", *asked, *run)


@load.register(LayerCosts)
def _(question: LayerCosts, folder: Path) -> SensitivityTable:
    return learned.load_table(folder)


def check_question(question: LayerCosts) -> None:
    """Raise DmqError for what cannot be asked of this model."""
    subject, ask = question.subject, question.ask
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


@compute.register(LayerCosts)
def _(
    question: LayerCosts,
    partial: Path,
    statistics: ActivationStats,
    search: SearchResult | None = None,
    codes: Any = None,
    *,
    scheduler: str = "",
    workers: int = 1,
) -> Generator[Progress, None, SensitivityTable]:
    """What is finished when the generator is closed, or when a worker dies, is kept.

    `scheduler` and `workers` are those of `engine.run`; they look `search` and `codes` up."""
    check_question(question)
    yield Progress("Load the model", 0, 1)
    import_libraries()
    from ..allocation.sensitivity import check_finite

    subject, ask = question.subject, question.ask
    check_finite(load_model(subject.model).denoiser)
    parts = _split(question, statistics, workers)
    for name in set(learned.part_names(partial)) - {part.name for part in parts}:
        # Of another version of dmq, or from when there was less memory.
        folders.discard(partial / name)
    missing = [part for part in parts if learned.load_part(partial, part.name) is None]
    if missing and not scheduler and workers == 1 and ask.measure == "noise":
        yield from watch_calls(subject, ask)  # generated once, and its progress told
        if ask.how != "measure":
            yield from load_changes(missing[0])
    sweeps = len({part.layers for part in parts}) if ask.how != "measure" else 1
    more = f" in {sweeps} sweeps, for want of memory" if sweeps > 1 else ""
    at = progress_timer(f"Ask what layers cost{more}", len(parts) - len(missing))
    work = engine.run(
        evaluate,
        missing,
        kept=lambda part, arrays: learned.save_part(partial, part.name, arrays),
        scheduler=scheduler,
        workers=workers,
    )
    there = len(parts) - len(missing)
    try:
        yield from relay(work, lambda done, *_: at(there + done, len(parts)))
    finally:
        forget_changes()
    answers = [(part, learned.load_part(partial, part.name) or {}) for part in parts]
    return _join(question, statistics, answers)


def _split(question: LayerCosts, statistics: ActivationStats, workers: int) -> list[Part]:
    """The parts of a table: a step each where all layers are seen in one pass, otherwise a cell
    each.

    Where memory does not hold what all layers may be made into, not even as codes, they are seen in
    several passes."""
    subject, ask, layers = question.subject, question.ask, called_layers(question.subject.model)
    if ask.how != "measure":
        from ..allocation.sensitivity import steps_between

        steps = range(len(steps_between(len(statistics.timesteps), ask.steps)))
        runs_of_layers = sweeps_of(subject, ask, layers, workers)
        return [
            Part(subject, ask, names, ask.choices, k, workers)
            for names in runs_of_layers
            for k in steps
        ]
    cells = [(choice, layer) for choice in ask.choices for layer in layers]
    if ask.mode == "only":  # where all layers have a choice, those of all layers are held for it
        cells = [(choice, layer) for layer in layers for choice in ask.choices]
    return [Part(subject, ask, (layer.name,), (choice,)) for choice, layer in cells]


def _join(
    question: LayerCosts,
    statistics: ActivationStats,
    answers: Sequence[tuple[Part, dict[str, np.ndarray]]],
) -> SensitivityTable:
    from ..allocation.sensitivity import steps_between, summary
    from ..quantizers.weights import weight_bytes

    subject, ask, layers = question.subject, question.ask, called_layers(question.subject.model)
    left_out = uncalled_layers(subject.model)
    row = {layer.name: n for n, layer in enumerate(layers)}
    seen, samples = answers[0][1]["values"].shape[2:]
    steps_seen = {part.step for part, _ in answers if part.step is not None}
    count = 1 + max(steps_seen) if steps_seen else seen
    values = np.full((len(layers), len(ask.choices), count, samples), np.nan)
    local = np.full(values.shape[:2], np.nan)
    for part, arrays in answers:
        at = np.ix_(
            [row[name] for name in part.layers],
            [ask.choices.index(choice) for choice in part.choices],
        )
        local[at] = arrays["local"]
        values[(*at, slice(None) if part.step is None else slice(part.step, part.step + 1))] = (
            arrays["values"]
        )
    cost, spread, per_step = summary(values)
    over_time, splits = ask.measure == "noise", splits_of(subject)
    steps = steps_between(len(statistics.timesteps), ask.steps) if over_time else []
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
        fingerprint=statistics.fingerprint,
        layers=layers,
        choices=ask.choices,
        bytes=np.array(sizes, np.int64),
        cost=cost,
        spread=spread,
        timesteps=tuple(statistics.timesteps[i] for i in steps),
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
