"""The phases of bench.device, each in a process of its own: python -m bench.sizes.phases NAME JOB

JOB is `Job` as JSON; the figures of the phase are the last line that is printed, as JSON. Where
models run is told by the environment ($DMQ_DEVICE and so on). Nothing of dmq is done anew here: its
stages are called, and timed."""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.memory import peak
from dmq.errors import DmqError
from dmq.models.libraries import import_libraries, load
from dmq.progress import run_to_end
from dmq.recipe import (
    FLOAT,
    Activations,
    Calibration,
    MinMax,
    OptimalGroups,
    PerGroup,
    Recipe,
    Sampling,
    Sensitivity,
    Weights,
    parse_format,
)
from dmq.workflow.answers import get_errors, get_model, get_plan
from dmq.workflow.export import write_export
from dmq.workflow.learning import capture_statistics, measure_costs


GROUPS = 8
PROMPT = "grinning cat"
Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is measured: the model in `work`/model, with images of `side` pixels made in `steps`
    steps.
    """

    size: str
    side: int
    steps: int
    rounds: int
    work: str

    @property
    def recipe(self) -> Recipe:
        """W8A8 with at most 8 groups of steps, as exact as the statistics tell."""
        # Searching ranges of random weights takes minutes and gains nothing.
        return Recipe(
            name="W8A8",
            model=str(Path(self.work) / "model"),
            sampling=Sampling(steps=self.steps, guidance=7.5, size=self.side),
            calibration=Calibration(samples=1, batch=1, prompts=(PROMPT,)),
            weights=Weights(bits=8, symmetric=True, range=MinMax()),
            grouping=OptimalGroups(count=min(GROUPS, self.steps)),
        )

    @property
    def small(self) -> Recipe:
        """W4 in groups of 64 weights, with float activations."""
        weights = Weights(bits=4, range=MinMax(), granularity=PerGroup(size=64))
        return replace(self.recipe, name="W4", weights=weights, activations=Activations(bits=FLOAT))


class _Enough(Exception):
    pass


# --- what a step takes ----------------------------------------------------------------------------


def now() -> float:
    """A clock that waits for what the device still has to do."""
    import torch

    for kind in (torch.cuda, torch.xpu, torch.mps):
        if kind.is_available():
            kind.synchronize()
    return time.perf_counter()


def drawing(job: Job, model: Any) -> list[float]:
    """The clock at the start and after each step of an image with `model`, which is not decoded."""
    from dmq.models.loading import sample, with_denoiser

    loaded, marks = load(job.recipe.model), [now()]

    def on_step(i: int, t: float, latents: Any) -> None:
        marks.append(now())
        if i + 1 == job.steps:
            raise _Enough

    try:
        sample(
            with_denoiser(loaded, model),
            loaded,
            prompts=[PROMPT],
            seeds=[0],
            sampling=job.recipe.sampling,
            on_step=on_step,
        )
    except _Enough:
        return marks
    raise DmqError(f"{job.steps} steps were asked for, {len(marks) - 1} were made.")


def watching(work: Any) -> list[float]:
    """The clock at the start and after each step of a capture, a stage or what is below it."""
    marks = [now()]
    for seen in work:
        if isinstance(seen, tuple) or (seen.stage == "Capture" and seen.done):
            marks.append(now())
        else:
            marks = [now()]  # the model is loaded, the work planned: what comes now is the capture
    return marks


def in_turn(ways: dict[str, Callable[[], list[float]]], rounds: int) -> Figures:
    """Seconds a step of each way, the median over all steps but the first, and as many times those
    of the first way.

    Who comes first in a round changes. "start": what went by before the first step began, in the
    first round."""
    steps: dict[str, list[float]] = {name: [] for name in ways}
    start = {}
    for n in range(rounds):
        for name, run in list(ways.items())[:: -1 if n % 2 else 1]:
            marks = run()
            gaps = [b - a for a, b in pairwise(marks)]
            steps[name] += gaps[1:]
            start.setdefault(name, max(0.0, gaps[0] - min(gaps[1:])))
    each = {name: statistics.median(gaps) for name, gaps in steps.items()}
    first = next(iter(each.values()))
    return {
        "step": each,
        "ratio": {name: took / first for name, took in each.items()},
        "start": start,
    }


# --- phases ---------------------------------------------------------------------------------------


def make(job: Job) -> Figures:
    """Random weights, saved as a folder in half precision."""
    from bench.sizes.made import write
    from dmq.store.folders import write_folder

    with write_folder(Path(job.work) / "model") as part:
        numbers = write(job.size, part)
        size = sum(file.stat().st_size for file in part.rglob("*.safetensors"))
    return {"numbers": numbers, "bytes": size}


def sampling(job: Job) -> Figures:
    """Loading, and plain sampling of one image, decoded."""
    from dmq.models.loading import sample

    begun = now()
    loaded = load(job.recipe.model)
    marks = [now()]
    opened = marks[0] - begun
    sample(
        loaded.pipe,
        loaded,
        prompts=[PROMPT],
        seeds=[0],
        sampling=job.recipe.sampling,
        on_step=lambda *step: marks.append(now()),
    )
    decoded = now() - marks[-1]
    return in_turn({"plain": lambda: marks}, 1) | {
        "load": opened,
        "decode": decoded,
        "place": loaded.place.line(),
    }


def capture(job: Job) -> Figures:
    """A step of capture beside one of plain sampling; the statistics, and the calls that
    gradients are taken at.
    """
    from dmq.capture.activations import capture_activations

    recipe = job.recipe
    loaded = load(recipe.model)
    ways = {
        "plain": lambda: drawing(job, loaded.denoiser),
        "without attention": lambda: watching(
            capture_activations(loaded, recipe.sampling, recipe.calibration, attention=False)
        ),
        "capture": lambda: watching(capture_statistics(recipe, again=True, trajectories=1)),
    }
    return in_turn(ways, job.rounds)


def groups(job: Job) -> Figures:
    """Groups of steps, searched in the statistics, and the plan."""
    begun = time.perf_counter()
    errors = get_errors(job.recipe)
    made = get_plan(job.recipe)
    return {
        "seconds": time.perf_counter() - begun,
        "sites": len(errors.groups.sites),
        "W8A8 bytes": made.bytes,
        "W4 bytes": get_plan(job.small).bytes,
        "float bytes": made.float_bytes,
    }


def simulate(job: Job) -> Figures:
    """A step of the simulated W8A8 model beside one of the float model."""
    return _quantized(job, job.recipe)


def execute(job: Job) -> Figures:
    """A step of the executed W8A8 model beside one of the float model, and what runs its layers."""
    from dmq.describe import describe_kernels
    from dmq.runtime.convert import count_kernels

    recipe = replace(job.recipe, engine="executed")
    return _quantized(job, recipe) | {"layers": describe_kernels(*count_kernels(get_model(recipe)))}


def _quantized(job: Job, recipe: Recipe) -> Figures:
    loaded = load(recipe.model)
    begun = now()
    model = get_model(recipe)
    made = now() - begun
    ways = {
        "plain": lambda: drawing(job, loaded.denoiser),
        recipe.engine: lambda: drawing(job, model),
    }
    return in_turn(ways, job.rounds) | {"made": made}


def fisher(job: Job) -> Figures:
    """Sensitivities of all layers by gradients: one step, one image, one random direction, two
    choices.
    """
    ask = Sensitivity(
        how="fisher",
        steps=1,
        images=1,
        probes=1,
        choices=(parse_format("UAQ-4"), parse_format("UAQ-3")),
    )
    begun = now()
    table = run_to_end(measure_costs(job.recipe, ask, again=True))
    return {"seconds": now() - begun, "layers": len(table.layers), "choices": len(table.choices)}


def export(job: Job) -> Figures:
    """W4 written as a pipeline that diffusers loads."""
    begun = now()
    made = run_to_end(write_export(job.small, Path(job.work) / "w4"))
    return {"seconds": now() - begun, "bytes": made.stored, "files": sum(made.files.values())}


def reload(job: Job) -> Figures:
    """What was exported, checked, loaded and sampled from, without decoding."""
    from dmq.checkpoint import load_pipeline
    from dmq.models import placement

    begun = now()
    pipe = load_pipeline(Path(job.work) / "w4")
    if (device := placement.resolve(placement.get_chosen(), {}).device) != "cpu":
        pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    marks = [now()]

    def stepped(pipe: Any, i: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
        marks.append(now())
        return given

    latents = pipe(
        PROMPT,
        num_inference_steps=job.steps,
        height=job.side,
        width=job.side,
        output_type="latent",
        callback_on_step_end=stepped,
    ).images
    if not latents.isfinite().all():
        raise DmqError("the sample of the exported model is not finite.")
    return in_turn({"W4": lambda: marks}, 1) | {"load": marks[0] - begun}


PHASES: dict[str, Callable[[Job], Figures]] = {
    "make": make,
    "sample": sampling,
    "capture": capture,
    "groups": groups,
    "simulate": simulate,
    "execute": execute,
    "fisher": fisher,
    "export": export,
    "reload": reload,
}


def device_peak() -> int | None:
    """The most memory of the device that this process held so far, in bytes; None without one
    that tells.
    """
    import torch

    for kind in (torch.cuda, torch.xpu):
        if kind.is_available():
            return kind.max_memory_allocated()
    return None


def main(name: str, job: str) -> None:
    import_libraries()
    begun = time.perf_counter()
    try:
        found = PHASES[name](Job(**json.loads(job)))
    except DmqError as error:
        print(json.dumps({"failed": str(error)}))
        return
    print(
        json.dumps(
            found
            | {"took": time.perf_counter() - begun, "peak": peak(), "device peak": device_peak()}
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
