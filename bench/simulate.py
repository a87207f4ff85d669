"""What simulation costs: the same denoiser calls with the float model and with W8A8, alternating in one run.

    python -m bench.simulate [--rounds 40] [--threads 1]

Weights are quantized per channel, activations per tensor with 8 groups of timesteps; first and last layer stay in
float, as by default. Prints medians in milliseconds and their ratio, which should be at most 1.3. Threads that
wait for each other measure the machine's other work instead, hence 1 by default.
"""

import argparse
import inspect
import statistics
import time

import numpy as np
import torch
from torch import Tensor, nn

from dmq.models.loading import embedded, load
from dmq.quantizers.apply import quantized
from dmq.quantizers.weights import weight_bytes
from dmq.recipe import EMBEDDED, FLOAT, MseSearch, Weights
from dmq.results import Bank, Layer, ModelInfo, Plan, PlannedLayer, Site


TIMESTEPS = tuple(float(t) for t in range(981, 0, -20))
GROUPS = 8
TOKENS = 24


def plan_for(info: ModelInfo) -> Plan:
    """W8A8 with ranges made up: they do not change the time."""
    return Plan(
        model=info.name, fingerprint=info.fingerprint, timesteps=TIMESTEPS, on_miss="error",
        layers=tuple(planned(layer) for layer in info.layers), attention=(), attention_sites=0,
        vector_bits=FLOAT, vector_bytes=0, float_bytes=4 * info.parameters,
    )


def planned(layer: Layer) -> PlannedLayer:
    kept = layer.role in ("first", "last")
    spec = Weights(bits=FLOAT if kept else 8, range=MseSearch())
    slot = np.arange(len(TIMESTEPS)) * GROUPS // len(TIMESTEPS)
    bank = Bank(
        site=Site(name=layer.name, point="input", kind=layer.kind), bits=np.full(GROUPS, 8, np.uint8),
        scale=np.linspace(0.03, 0.05, GROUPS, dtype=np.float32), zero=np.full(GROUPS, 120, np.int32), slot=slot,
    )
    return PlannedLayer(
        layer=layer, weights=spec, activation_bits=spec.bits, reason=f"{layer.role} layer" if kept else "",
        weight_bytes=weight_bytes(layer.shape, spec), bias_bytes=0, bank=None if kept else bank,
    )


def arguments(model: nn.Module, batch: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Random inputs of one call, without t."""
    generator = torch.Generator().manual_seed(0)
    size = model.config.sample_size
    x = torch.randn(batch, model.config.in_channels, size, size, generator=generator)
    if "encoder_hidden_states" not in inspect.signature(model.forward).parameters:
        return x, {}
    width = model.config.cross_attention_dim
    return x, {"encoder_hidden_states": torch.randn(batch, TOKENS, width, generator=generator)}


@torch.no_grad()
def medians(models: dict[str, nn.Module], batch: int, rounds: int) -> dict[str, float]:
    """Milliseconds of one call of each model; every round calls each of them at the same t."""
    spent: dict[str, list[float]] = {who: [] for who in models}
    x, words = arguments(models["float"], batch)
    for n in range(-2, rounds):  # two rounds to warm up
        order = list(models.items())[:: 1 if n % 2 else -1]  # who comes first finds other things in the cache
        for who, model in order:
            begun = time.perf_counter()
            model(x, TIMESTEPS[n % len(TIMESTEPS)], **words)
            if n >= 0:
                spent[who].append(1000 * (time.perf_counter() - begun))
    return {who: statistics.median(times) for who, times in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print(f"{'model':<12}{'pictures':>9}{'rows':>6}{'float ms':>10}{'W8A8 ms':>10}{'ratio':>7}{'made in s':>11}")
    for name in EMBEDDED:
        if name not in embedded():
            print(f"{name:<12} skipped: it is not in assets/models")
            continue
        loaded = load(name)
        begun = time.perf_counter()
        twin = quantized(loaded.denoiser, plan_for(loaded.info), loaded.adapter)
        made = time.perf_counter() - begun
        models = {"float": loaded.denoiser, "W8A8": twin}
        for pictures in (1, 8):
            rows = 2 * pictures if EMBEDDED[name].guidance else pictures
            at = medians(models, rows, max(6, chosen.rounds // pictures))
            ratio = at["W8A8"] / at["float"]
            print(f"{name:<12}{pictures:>9}{rows:>6}{at['float']:>10.1f}{at['W8A8']:>10.1f}{ratio:>7.2f}{made:>11.1f}")


if __name__ == "__main__":
    main()
