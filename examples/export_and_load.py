"""Export a quantized pipeline, and load it with plain diffusers: nothing of dmq is imported for
that.
"""

import argparse
import subprocess
import sys

import dmq


LOAD = """
import sys
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1])
assert "dmq" not in sys.modules
print(type(pipe).__name__, "loaded")
"""


def main(arguments: list[str] | None = None) -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("folder", help="where the pipeline is written")
    asked.add_argument(
        "--recipe", default="W8A8, one range", help="one that ships, or a .json file"
    )
    given = asked.parse_args(arguments)
    dmq.export(given.recipe, given.folder, form="dequantized")
    subprocess.run([sys.executable, "-c", LOAD, given.folder], check=True)


if __name__ == "__main__":
    main()
