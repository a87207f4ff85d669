"""See a model's activations: which layers have ranges that drift most over the timesteps."""

import argparse

import numpy as np

import dmq


def main(arguments: list[str] | None = None) -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument(
        "--recipe", default="W8A8, one range", help="one that ships, or a .json file"
    )
    asked.add_argument("--top", type=int, default=5, metavar="N", help="layers to print")
    given = asked.parse_args(arguments)
    stats = dmq.capture(
        given.recipe, progress=print
    )  # at once for what ships; else the model is run
    widths = stats.maximum - stats.minimum  # [sites, steps]
    drift = widths.max(axis=1) / widths.min(axis=1).clip(1e-12)
    for site in np.argsort(-drift)[: given.top]:
        print(f"{stats.sites[site].name:60} widest over narrowest range: {drift[site]:.1f}")


if __name__ == "__main__":
    main()
