"""Made-up statistics that look like real ones: ranges drift over time, tails are heavy, some
channels are outliers.
"""

import numpy as np

from dmq.results import ActivationStats, Site


KINDS = ("two-sided", "silu", "softmax", "outliers")
PARTS = ("conv1", "attn1.to_q", "attn1.to_out.0", "ff.net.2")


def draw(
    kind: str, rng: np.random.Generator, elements: int, channels: int, drift: float
) -> np.ndarray:
    """Values [elements, channels] of one site at one step; `drift` is in 0..1."""
    x = rng.standard_normal((elements, channels))
    if kind == "softmax":
        return 1 / (1 + np.exp(4 - 2 * x - 2 * drift)) ** 2
    if kind == "silu":
        x = x * (0.5 + 2 * drift) + 0.3
        return x / (1 + np.exp(-x))
    x *= 0.2 * 10**drift
    if kind == "outliers":
        x[:, 0] *= 12
        return x + 0.05
    return x * np.exp(0.4 * rng.standard_normal((elements, channels)))


def values(
    sites: int, steps: int, seed: int, elements: int = 400, channels: int = 8
) -> list[list[np.ndarray]]:
    """`values[s][i]` is what site s saw at step i, float32 [elements, channels]."""
    rng = np.random.default_rng(seed)
    out = []
    for s in range(sites):
        phase = rng.uniform(0, 0.5)
        drifts = (1 - np.cos(np.linspace(0, 3, steps) + phase)) / 2
        out.append(
            [draw(KINDS[s % 4], rng, elements, channels, d).astype(np.float32) for d in drifts]
        )
    return out


def site(s: int) -> Site:
    block = f"down_blocks.{s // 4}"
    return Site(name=f"{block}.attentions.{s}.{PARTS[s % 4]}", point="input", block=block)


def stats_of(seen: list[list[np.ndarray]], bins: int = 512) -> ActivationStats:
    """Statistics of given values, straight from their definitions."""
    exponent, first, counts = [], [], []
    for rows in seen:
        low, high = min(x.min() for x in rows), max(x.max() for x in rows)
        k = int(np.ceil(np.log2(max(high - low, 1e-6) / (bins - 1))))
        start = int(np.floor(low / 2.0**k))
        stop = int(np.floor(high / 2.0**k)) + 1
        edges = np.arange(start, stop + 1) * 2.0**k
        exponent.append(k)
        first.append(start)
        counts.append(np.stack([np.histogram(x.astype(np.float64), edges)[0] for x in rows]))
    steps = len(seen[0])
    powers = [
        [[(x.astype(np.float64) ** p).sum() for p in (1, 2, 3, 4)] for x in rows] for rows in seen
    ]
    return ActivationStats(
        model="made-up",
        fingerprint="0",
        sampler="DDIMScheduler",
        samples=1,
        subset=0,
        timesteps=tuple(int(t) for t in np.linspace(981, 1, steps)),
        sites=tuple(site(s) for s in range(len(seen))),
        exponent=np.array(exponent, np.int16),
        first=np.array(first, np.int32),
        counts=tuple(counts),
        elements=np.array([[x.size for x in rows] for rows in seen]),
        minimum=np.array([[x.min() for x in rows] for rows in seen], np.float32),
        maximum=np.array([[x.max() for x in rows] for rows in seen], np.float32),
        power_sums=np.array(powers),
        channel_min=tuple(np.stack([x.min(0) for x in rows]) for rows in seen),
        channel_max=tuple(np.stack([x.max(0) for x in rows]) for rows in seen),
    )


def random_stats(sites: int = 8, steps: int = 12, seed: int = 0, **how: int) -> ActivationStats:
    """Statistics of `values(sites, steps, seed, ...)`."""
    return stats_of(values(sites, steps, seed, **how))
