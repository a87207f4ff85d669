"""Features of the real emoji, by which benchmarks measure the gap to them: `python -m
training.reference`.

Run it after emoji-clip has changed: features of other weights are refused.
"""

import argparse
from pathlib import Path

from dmq.metrics.references import extract_features, load_feature_extractor, save_shipped
from dmq.store.folders import ASSETS
from training import pictures


CACHE = ASSETS.parent / ".training"
SIDES = {"emoji-sd": 64, "emoji-ddpm": 32}  # pixels that each model draws


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    given.add_argument("--cache", type=Path, default=CACHE, help="where drawn emoji are kept")
    real, _, _ = pictures.load(given.parse_args().cache)
    feature_extractor = load_feature_extractor("emoji-clip")
    made = {
        model: extract_features(
            feature_extractor, real if side == real.shape[1] else pictures.shrink(real, side)
        )
        for model, side in SIDES.items()
    }
    print(save_shipped(made, "emoji of the Noto font", feature_extractor))


if __name__ == "__main__":
    main()
