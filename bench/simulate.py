"""What simulation costs: the same denoiser calls with the float model and with W8A8, alternating in
one run.

    python -m bench.simulate [--subjects emoji-sd NAME ...] [--rounds 40] [--threads 1]

Weights are quantized per channel, activations per tensor with 8 groups of timesteps; first and last
layer stay in float, as by default. The calls are recorded from the pipeline, so that any model's
are right. Prints medians in milliseconds and their ratio, which should be at most 1.3. Threads that
wait for each other measure the machine's other work instead, hence 1 by default."""

import argparse
import statistics
import sys
import time

import numpy as np
import torch
from torch import nn

from dmq.capture.activations import calibration_images
from dmq.capture.replay import repeat, rows_of
from dmq.capture.trajectories import record_trajectory
from dmq.errors import DmqError
from dmq.models.loading import Loaded, is_embedded, load
from dmq.quantizers.apply import quantize_model
from dmq.quantizers.weights import weight_bytes
from dmq.recipe import EMBEDDED, FLOAT, Calibration, MseSearch, Sampling, Weights
from dmq.results import ActivationQParams, Layer, ModelInfo, Plan, PlannedLayer, Site, Trajectory


GROUPS = 8
STEPS = 8  # that calls are recorded at
COUNTS = (1, 8)  # images at a time


def plan_for(info: ModelInfo, timesteps: tuple[float, ...]) -> Plan:
    """W8A8 with ranges made up: they do not change the time."""
    return Plan(
        model=info.name,
        fingerprint=info.fingerprint,
        timesteps=timesteps,
        unknown_timestep="error",
        layers=tuple(planned(layer, len(timesteps)) for layer in info.layers),
        attention=(),
        attention_sites=0,
        vector_bits=FLOAT,
        vector_bytes=0,
        float_bytes=4 * info.parameters,
    )


def planned(layer: Layer, steps: int) -> PlannedLayer:
    kept = layer.role in ("first", "last")
    spec = Weights(bits=FLOAT if kept else 8, range=MseSearch())
    slot = np.arange(steps) * GROUPS // steps
    bank = ActivationQParams(
        site=Site(name=layer.name, point="input", kind=layer.kind),
        bits=np.full(GROUPS, 8, np.uint8),
        scale=np.linspace(0.03, 0.05, GROUPS, dtype=np.float32),
        zero=np.full(GROUPS, 120, np.int32),
        slot=slot,
    )
    return PlannedLayer(
        layer=layer,
        weights=spec,
        activation_bits=spec.bits,
        reason=f"{layer.role} layer" if kept else "",
        weight_bytes=weight_bytes(layer.shape, spec),
        bias_bytes=0,
        bank=None if kept else bank,
    )


def recorded(loaded: Loaded, sampling: Sampling) -> Trajectory:
    """The denoiser calls of a few steps, for as many images at a time as are measured at most."""
    jobs = calibration_images(loaded, Calibration(samples=max(COUNTS)))
    prompts, seeds = zip(*jobs, strict=True)
    return record_trajectory(loaded, prompts=prompts, seeds=seeds, sampling=sampling)[0]


@torch.no_grad()
def medians(
    models: dict[str, nn.Module], calls: Trajectory, images: int, rounds: int
) -> tuple[int, dict[str, float]]:
    """Rows of a call, and its milliseconds with each model; in every round each of them gets the
    same call.
    """
    spent: dict[str, list[float]] = {who: [] for who in models}
    for n in range(-2, rounds):  # two rounds to warm up
        order = list(models.items())[
            :: 1 if n % 2 else -1
        ]  # who comes first finds other things in the cache
        call = n % len(calls.step)
        rows = rows_of(calls, call, range(images))
        for who, model in order:
            begun = time.perf_counter()
            repeat(model, calls, call, rows)
            if n >= 0:
                spent[who].append(1000 * (time.perf_counter() - begun))
    return len(rows), {who: statistics.median(times) for who, times in spent.items()}


def measure(name: str, rounds: int, side: int) -> None:
    """Print the lines of one model."""
    loaded = load(name)
    published = EMBEDDED.get(name, Sampling())
    calls = recorded(loaded, Sampling(steps=STEPS, guidance=published.guidance, size=side))
    begun = time.perf_counter()
    quantized_model = quantize_model(
        loaded.denoiser, plan_for(loaded.info, calls.timesteps), loaded.adapter
    )
    made = time.perf_counter() - begun
    models = {"float": loaded.denoiser, "W8A8": quantized_model}
    for images in COUNTS:
        rows, at = medians(models, calls, images, max(1, rounds // images))
        ratio = at["W8A8"] / at["float"]
        print(
            f"{name.rpartition('/')[2]:<12}{images:>9}{rows:>6}{at['float']:>10.1f}{at['W8A8']:>10.1f}{ratio:>7.2f}"
            f"{made:>11.1f}",
            flush=True,
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--subjects",
        nargs="+",
        metavar="NAME",
        help="embedded models or folders; default: all that ship",
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument(
        "--side", type=int, default=0, help="of images, in pixels; 0: the model's own"
    )
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    print(
        f"{'model':<12}{'images':>9}{'rows':>6}{'float ms':>10}{'W8A8 ms':>10}{'ratio':>7}{'made in s':>11}"
    )
    try:
        for name in chosen.subjects or EMBEDDED:
            if name in EMBEDDED and name not in is_embedded():
                print(f"{name:<12} skipped: it is not in assets/models")
            else:
                measure(name, chosen.rounds, chosen.side)
    except DmqError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
