"""What it costs to capture: plain sampling and capturing of the same batch, in turn, in one run.

    python bench/capture.py [--steps 4] [--repeats 5] [--subset 256]
"""

import argparse
import statistics
import time
from functools import partial

import torch

from dmq.capture.activations import SUBSET, calibration_pictures, capture_activations
from dmq.models.loading import embedded, load, sample
from dmq.models.stepping import stepping
from dmq.recipe import EMBEDDED, Calibration, Sampling


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--subset", type=int, default=SUBSET)
    options = parser.parse_args()
    calibration = Calibration(samples=8, batch=8)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch of 8, {options.steps} steps")
    for name, published in EMBEDDED.items():
        if name not in embedded():
            print(f"{name}: skipped, assets/models/{name} is not there")
            continue
        loaded = load(name)
        sampling = Sampling(steps=options.steps, guidance=published.guidance)
        prompts, seeds = zip(*calibration_pictures(loaded, calibration), strict=True)
        draw = partial(sample, loaded.pipe, loaded, prompts=prompts, seeds=seeds, sampling=sampling)
        stepped = partial(stepping, lambda on_step, draw=draw: draw(on_step=on_step))  # as a capture runs it
        watch = partial(capture_activations, loaded, sampling, calibration, subset=options.subset)
        plain, capture = [], []
        for _ in range(options.repeats + 1):  # the first one warms up
            plain.append(seconds(lambda stepped=stepped: list(stepped())))
            capture.append(seconds(lambda watch=watch: list(watch())))
        a, b = statistics.median(plain[1:]), statistics.median(capture[1:])
        best = min(capture[1:]) / min(plain[1:])
        print(f"{name}: plain {a:.2f} s, capture {b:.2f} s, ratio {b / a:.2f} (of the fastest runs: {best:.2f})")


if __name__ == "__main__":
    main()
