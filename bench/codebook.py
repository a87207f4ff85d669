"""k-means of all weights of a U-Net: ours for all channels at once, and scikit-learn's in a loop
over channels.

    python -m bench.codebook [--model emoji-sd] [--channels 3] [--starts 10] [--threads 1]

Both make a codebook for each output channel of every Linear and Conv layer (KMC). scikit-learn does
so for a sample of each layer's channels, as its loop over all of them takes long; its seconds are
scaled to all channels, layer by layer. Errors are compared on the very same channels. Needs
scikit-learn: pip install -r requirements-bench.txt"""

import argparse
import sys
import time
import warnings
from importlib.util import find_spec

import numpy as np
import torch

from dmq.models.adapter import LAYERS
from dmq.models.loading import load
from dmq.numerics.codebook import kmeans, look_up


def loop(rows: np.ndarray, k: int, starts: int) -> float:
    """The squared error that scikit-learn ends with, channel by channel."""
    from sklearn.cluster import KMeans

    return sum(
        KMeans(n_clusters=k, n_init=starts, random_state=0).fit(row[:, None]).inertia_
        for row in rows
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="emoji-sd")
    parser.add_argument("--channels", type=int, default=3, help="of each layer, for scikit-learn")
    parser.add_argument(
        "--starts", type=int, nargs="+", default=[1, 10], help="of scikit-learn (n_init)"
    )
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args(arguments)
    if find_spec("sklearn") is None:
        sys.exit("error: scikit-learn is not installed: pip install -r requirements-bench.txt")
    torch.set_num_threads(chosen.threads)
    warnings.simplefilter("ignore")  # scikit-learn's, where a channel has few different values
    modules = load(chosen.model).denoiser.modules()
    layers = [m.weight.detach().flatten(1) for m in modules if isinstance(m, LAYERS)]
    random = np.random.default_rng(0)
    samples = [np.sort(random.permutation(len(rows))[: chosen.channels]) for rows in layers]
    channels, sampled = sum(map(len, layers)), sum(map(len, samples))
    print(
        f"{chosen.model}: {len(layers)} layers, {channels} channels, "
        f"{sum(r.numel() for r in layers)} weights; "
        f"scikit-learn on {sampled} channels, its seconds scaled to all; CPU seconds"
    )
    print(
        f"{'bits':>4}{'n_init':>8}{'loop s':>10}{'ours s':>8}{'ratio':>7}{'error of loop':>15}{'ours':>12}"
    )
    loop(layers[0].numpy()[:1], 4, 1)  # imports, and the first call of each, are not timed
    kmeans(layers[0], 4, 1)
    for bits in (3, 4):
        begun = time.process_time()
        made = [kmeans(rows, 2**bits, 30) for rows in layers]
        ours = time.process_time() - begun
        error = sum(
            float((look_up(codes[some], centroids[some]) - rows[some]).double().square().sum())
            for rows, (codes, centroids), some in zip(layers, made, samples, strict=True)
        )
        for starts in chosen.starts:
            seconds, theirs = 0.0, 0.0
            for rows, some in zip(layers, samples, strict=True):
                k = min(2**bits, rows.shape[1])  # as the release has it
                begun = time.process_time()
                theirs += loop(rows.numpy()[some], k, starts)
                seconds += (time.process_time() - begun) * len(rows) / len(some)
            told = (
                f"{seconds:>10.1f}{ours:>8.2f}{seconds / ours:>7.0f}{theirs:>15.5f}{error:>12.5f}"
            )
            print(f"{bits:>4}{starts:>8}{told}", flush=True)


if __name__ == "__main__":
    main()
