"""`python -m training`: the stages in order. Each goes on from its checkpoint, and a finished one
is skipped.

Interrupt it at any time; the same command goes on where it stopped.
`python -m training STAGE --steps N` runs one stage.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from training import (
    cards,
    clip,
    clip_lessons,
    emoji_ddpm,
    emoji_dit,
    emoji_sd,
    pack,
    score,
    score_clip,
    vae,
)
from training.captions import CLDR
from training.loop import Schedule
from training.pictures import FONT


SCHEDULES = {
    "vae": Schedule(steps=4000, rate=6e-4, muon_rate=0.004),
    "emoji-sd": Schedule(steps=5000, rate=6e-4, muon_rate=0.006),
    "emoji-dit": Schedule(steps=3000, rate=6e-4, muon_rate=0.006),
    "emoji-ddpm": Schedule(steps=8300, rate=6e-4, muon_rate=0.006),
    "emoji-clip": Schedule(steps=2150, rate=1e-3, muon_rate=0.01, average=0.998, weight_decay=0.01),
}
STAGES = (
    "vae",
    "emoji-sd",
    "pack",
    "emoji-dit",
    "pack-dit",
    "emoji-ddpm",
    "pack-ddpm",
    "score",
    "emoji-clip",
    "score-clip",
    "cards",
)


def missing_packages() -> list[str]:
    """The Debian packages the images and keywords need and this machine lacks."""
    needed = {"fonts-noto-color-emoji": FONT, "unicode-cldr-core": CLDR / "annotations" / "en.xml"}
    return [package for package, path in needed.items() if not path.exists()]


def scheduled(stage: str, chosen: argparse.Namespace) -> Schedule:
    """A stage's schedule, with the number of steps and the part of the learning rates that were
    asked for.
    """
    schedule = SCHEDULES[stage]
    return replace(
        schedule,
        steps=chosen.steps or schedule.steps,
        rate=chosen.rates * schedule.rate,
        muon_rate=chosen.rates * schedule.muon_rate,
    )


def run_stage(stage: str, chosen: argparse.Namespace) -> None:
    """Run one stage to its end."""
    cache, models, start = chosen.cache, chosen.models, chosen.init
    if stage == "vae":
        lessons = emoji_sd.Lessons(cache)
        vae.run(cache, scheduled(stage, chosen), (lessons.pictures, lessons.composed), start)
    elif stage == "emoji-sd":
        emoji_sd.run(cache, scheduled(stage, chosen), start)
    elif stage == "pack":
        pack.pack_emoji_sd(cache, models / "emoji-sd")
    elif stage == "emoji-dit":
        emoji_dit.run(cache, models, scheduled(stage, chosen))
    elif stage == "pack-dit":
        pack.pack_emoji_dit(cache, models)
    elif stage == "emoji-ddpm":
        emoji_ddpm.run(cache, scheduled(stage, chosen))
    elif stage == "pack-ddpm":
        pack.pack_emoji_ddpm(cache, models / "emoji-ddpm")
    elif stage == "score":
        score.score(cache, models, chosen.only)
    elif stage == "emoji-clip":
        clip_lessons.run(cache, models, scheduled(stage, chosen), score_clip.score_held_out)
        clip.pack(cache, models)
    elif stage == "score-clip":
        score_clip.score_packed(cache, models)
    elif stage == "cards":
        cards.write(cache, models, chosen.origin, chosen.only)


def main() -> int:
    """Parse the arguments and run the stages; 1 after one clear line when something is missing
    or was interrupted.
    """
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "stage", nargs="?", choices=STAGES, help="one stage only; all of them by default"
    )
    parser.add_argument("--steps", type=int, help="another number of steps for the one stage")
    parser.add_argument(
        "--rates", type=float, default=1.0, help="multiply the learning rates; less than 1 refines"
    )
    parser.add_argument(
        "--init", type=Path, metavar="FOLDER", help="start vae and emoji-sd from a saved pipeline"
    )
    parser.add_argument(
        "--origin", default="random weights", help="what --init's weights are, for the model card"
    )
    parser.add_argument(
        "--only", choices=score.MEASURES, help="the one model that score and cards are about"
    )
    parser.add_argument(
        "--cache", type=Path, default=Path(".training"), help="checkpoints and latents"
    )
    parser.add_argument(
        "--models", type=Path, default=Path("assets/models"), help="where the pipelines are written"
    )
    chosen = parser.parse_args()
    if missing := missing_packages():
        print(
            f"training: missing Debian packages, run: sudo apt-get install {' '.join(missing)}",
            file=sys.stderr,
        )
        return 1
    torch.manual_seed(0)
    np.seterr(all="raise", under="ignore")
    try:
        for stage in (chosen.stage,) if chosen.stage else STAGES:
            run_stage(stage, chosen)
    except KeyboardInterrupt as stopped:
        print(
            f"training: {stopped or 'interrupted'}; the same command goes on from there",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
