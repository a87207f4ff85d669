"""`python -m training`: the stages in order, each going on from its checkpoint and skipped when it is done."""

import argparse
from pathlib import Path

from training import emoji_ddpm, emoji_sd
from training.loop import Schedule


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("stage", nargs="?")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--cache", type=Path, default=Path(".training"))
    parser.add_argument("--models", type=Path, default=Path("assets/models"))
    chosen = parser.parse_args()
    if chosen.stage == "emoji-ddpm":
        emoji_ddpm.run(chosen.cache, Schedule(steps=chosen.steps, rate=1e-3))
    else:
        emoji_sd.run(chosen.cache, Schedule(steps=chosen.steps, rate=6e-4), chosen.init)


if __name__ == "__main__":
    main()
