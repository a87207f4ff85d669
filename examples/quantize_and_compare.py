"""Quantize a model by several recipes and compare their images with those of the float model."""

import argparse

import dmq


def main(arguments: list[str] | None = None) -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument(
        "recipes", nargs="*", default=["W8A6, one range", "W8A6, 8 best groups"], metavar="RECIPE"
    )
    asked.add_argument("--prompt", default="pizza")
    given = asked.parse_args(arguments)
    report = dmq.compare(tuple(given.recipes), prompts=[given.prompt])
    print(f"float against float with another seed: PSNR {report.noise_floor['psnr']:.1f} dB")
    for score in report.scores:
        size = report.bytes[score.recipe] / report.bytes["float"]
        print(f"{score.recipe}: PSNR {score.psnr:.1f} dB, {100 * size:.0f} % of the bytes")
        print(f"  {report.coverage[score.recipe].quantized}")


if __name__ == "__main__":
    main()
