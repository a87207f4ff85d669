"""Where this process runs its models, and what a piece of work will need there, told before it
starts.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from ..progress import Progress
from ..recipe import Recipe, Sampling
from . import placement
from .libraries import import_libraries, load
from .placement import Placement


if TYPE_CHECKING:
    from .placement import Device

CAPTURING = 1.3  # times as long as sampling without being watched
MIN_TIMED_CALLS = 200  # denoiser calls above which a few are timed to tell how long all will take


@dataclass(frozen=True)
class WorkPlan(Progress):
    """The first thing that long work yields: what it needs, and about how long it takes."""

    needed: int = 0  # bytes on the device
    free: int = 0
    place: str = ""
    calls: int = 0  # of the denoiser
    seconds: float | None = None  # None where it takes too little to be worth measuring

    def __str__(self) -> str:
        took = "" if self.seconds is None else f", about {format_duration(self.seconds)}"
        return (
            f"{self.stage} on {self.place}: {self.calls:,} denoiser calls{took}; weights need "
            f"{self.needed / 1e9:.2f} GB, {self.free / 1e9:.1f} GB are free"
        )


def list_devices() -> "tuple[Device, ...]":
    """The devices of this machine; the one that is taken unless another is chosen comes first."""
    import_libraries()
    return placement.devices()


def get_placement(**instead: str) -> Placement:
    """Where models run in this process, as it was wished, but for what is given `instead`."""
    return placement.get_chosen(**instead)


def use_placement(wanted: Placement) -> None:
    """Run all models there from now on. Raises DmqError for a device that is not there."""
    import_libraries()
    placement.use(wanted)


def describe_memory(model: str, wanted: Placement | None = None) -> str:
    """What `model` needs beside what is free, in one sentence, before any weight is loaded."""
    import_libraries()
    from .loading import find_weights

    wanted = wanted or placement.get_chosen()
    weights = find_weights(model)
    if weights is None:
        return f"{model}: its size is known once it is fetched from the Hub."
    place = placement.resolve(wanted, weights, model)
    needed, free = placement.needs(place, weights), placement.free_memory(place.device)
    numbers = sum(sum(part.values()) for part in weights.values())
    return (
        f"{model}: {numbers / 1e6:,.0f} million parameters, {needed / 1e9:.2f} GB on "
        f"{place.line()}; {free / 1e9:.1f} GB are free."
    )


def plan_work(
    stage: str, model: str, sampling: Sampling, batches: list[int], slower: float = 1.0
) -> WorkPlan:
    """What it takes to run `model` on batches of so many images, each of all steps, `slower` times
    as slow as float.

    Loads the model. Where many calls lie ahead, a few of the float model's are timed.
    """
    loaded = load(model)
    weights = {"all": {loaded.place.dtype: loaded.info.pipeline_parameters}}
    calls = len(batches) * sampling.steps
    seconds = None
    if calls >= MIN_TIMED_CALLS:
        seconds = slower * sum(
            sampling.steps * time_step(model, sampling, batch) for batch in batches
        )
    return WorkPlan(
        stage,
        0,
        max(1, calls),
        needed=placement.needs(loaded.place, weights),
        calls=calls,
        seconds=seconds,
        free=placement.free_memory(loaded.place.device),
        place=loaded.place.line(),
    )


def plan_capture(recipe: Recipe) -> WorkPlan:
    """What it takes to capture for `recipe`."""
    samples, batch = recipe.calibration.samples, recipe.calibration.batch
    batches = [min(batch, samples - start) for start in range(0, samples, batch)]
    return plan_work("Capture", recipe.model, recipe.sampling, batches, slower=CAPTURING)


def time_step(model: str, sampling: Sampling, batch: int) -> float:
    """The float model's seconds for one step of a batch, where models run now."""
    return _time_call(model, sampling, batch, placement.get_chosen())


@lru_cache(maxsize=16)
def _time_call(model: str, sampling: Sampling, batch: int, _placement: Placement) -> float:
    from .generation import time_call

    return time_call(load(model), sampling, batch)


def format_duration(seconds: float) -> str:
    """A duration in the unit that people would use."""
    minutes = seconds / 60
    return (
        f"{seconds:.0f} s"
        if minutes < 2
        else f"{minutes:.0f} min"
        if minutes < 120
        else f"{minutes / 60:.1f} h"
    )
