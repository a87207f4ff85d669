"""Made-up tables of costs whose layers, bytes and costs look like real ones."""

import numpy as np

from dmq.recipe import parse_format
from dmq.results import Layer, SensitivityTable


LABELS = ("UAQ-4", "KMC-4", "KMA-4", "UAQ-3", "KMC-3", "KMA-3", "UAQ-2", "KMC-2", "KMA-2")


def random_table(
    count: int, seed: int, labels: tuple[str, ...] = LABELS, **changes
) -> SensitivityTable:
    """`count` layers of different sizes; fewer bits cost more, mostly, and much more in some
    layers than in others.
    """
    rng = np.random.default_rng(seed)
    inputs, outputs = rng.integers(4, 65, (2, count))
    layers = tuple(
        Layer(
            name=f"blocks.{n // 4}.{'qkvo'[n % 4]}",
            kind="linear",
            role="attention",
            block=f"blocks.{n // 4}",
            shape=(int(outputs[n]), int(inputs[n])),
            bias=False,
        )
        for n in range(count)
    )
    choices = tuple(map(parse_format, labels))
    bits = np.array([choice.bits for choice in choices])
    tables = np.stack(
        [
            {"UAQ": 4 * outputs, "KMC": 2 * outputs * 2**b, "KMA": 2 * 2**b + 0 * outputs}[
                label[:3]
            ]
            for label, b in zip(labels, bits, strict=True)
        ],
        1,
    )
    fragile = np.exp(rng.normal(0, 2, count)) * 1e-3
    cost = fragile[:, None] * 4.0 ** (2 - bits) * np.exp(rng.normal(0, 0.4, (count, len(labels))))
    values = {
        "title": "noise error, only this layer",
        "kind": "measured",
        "unit": "part of the noise prediction's power",
        "model": "made up",
        "fingerprint": "0" * 16,
        "layers": layers,
        "choices": choices,
        "cost": cost,
        "bytes": -(-((inputs * outputs)[:, None] * bits) // 8) + tables,
        "spread": cost / 10,
    }
    return SensitivityTable(**values | changes)
