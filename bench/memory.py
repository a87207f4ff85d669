"""How much memory it takes to quantize a denoiser from its files: python -m bench.memory [--small |
--tiny]

Random bfloat16 weights of SDXL's U-Net, 2.6 billion of them (with --small, SD 1.5's 0.86 billion),
are written into a temporary folder; a process of its own then quantizes them shard by shard, and
says how much memory it held at most, everything included, and how much of that the libraries alone
take. Prints both beside the size of the bfloat16 files, the bytes that came out, and seconds of the
process's own computing. The bar is 1.3 times the files."""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

BAR = 1.3
FILE = 2_000_000_000  # bytes of each file of the source
TINY = "tiny"
BLOCK = (
    2**20
)  # random numbers, which are repeated: generating billions would take longer than all the rest


def peak() -> int:
    """The most memory that this process held so far, in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def make(name: str, folder: Path) -> int:
    """Write random weights of a published model; returns their bytes."""
    import torch

    from dmq.checkpoint.writing import Shards
    from dmq.models.published import build_published
    from dmq.models.quantizer import config_data
    from dmq.models.tiny import FAMILIES

    model = FAMILIES["scale-shift"]() if name == TINY else build_published(name)
    block = torch.randn(BLOCK, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    folder.mkdir()
    shards = Shards(folder, FILE, sealed=False)
    for tensor, place in model.state_dict().items():
        count = place.numel()
        shards.add(tensor, block.repeat(-(-count // BLOCK))[:count].view(place.shape).clone())
    shards.finish({})
    (folder / "config.json").write_text(json.dumps(config_data(model)), "utf-8")
    return shards.total


def quantize(folder: Path, target: Path, bits: int) -> dict[str, float]:
    """Quantize the model in `folder`, and say what that took."""
    from dmq.checkpoint import quantize_shards
    from dmq.progress import run_to_end
    from dmq.recipe import Activations, MinMax, PerGroup, Recipe, Weights

    libraries, start = peak(), time.process_time()
    recipe = Recipe(
        weights=Weights(bits=bits, range=MinMax(), granularity=PerGroup(size=64)),
        activations=Activations(bits=32),
    )
    made = run_to_end(quantize_shards(folder, recipe, target))
    return {
        "peak": peak(),
        "libraries": libraries,
        "bytes": made.stored,
        "seconds": time.process_time() - start,
    }


def alone(*arguments: str) -> dict[str, float]:
    """What this file prints when it is run with `arguments`, in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-m", "bench.memory", *arguments],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if run.returncode:
        sys.exit(run.stderr)
    return json.loads(run.stdout.splitlines()[-1])


def main(arguments: list[str] | None = None) -> None:
    given = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given.add_argument("--small", action="store_true", help="SD 1.5's U-Net instead of SDXL's")
    given.add_argument(
        "--tiny", action="store_true", help="a tiny U-Net, to see that everything runs"
    )
    given.add_argument("--bits", type=int, default=4)
    given.add_argument("--make", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    given.add_argument("--quantize", nargs=2, metavar=("FOLDER", "TARGET"), help=argparse.SUPPRESS)
    asked = given.parse_args(arguments)
    if asked.make:
        print(json.dumps({"bytes": make(asked.make[0], Path(asked.make[1]))}))
        return
    if asked.quantize:
        print(json.dumps(quantize(*map(Path, asked.quantize), asked.bits)))
        return
    name = TINY if asked.tiny else "sd-1.5" if asked.small else "sdxl"
    with tempfile.TemporaryDirectory() as place:
        source, target = Path(place) / "float", Path(place) / "it"
        size = alone("--make", name, str(source))["bytes"]
        found = alone("--quantize", str(source), str(target), "--bits", str(asked.bits))
    ratio = found["peak"] / size
    print(f"{name}, random weights in bfloat16   {size / 1e9:6.2f} GB, {size / 2e9:.2f} billion")
    print(
        f"{asked.bits} bits in groups of 64            {found['bytes'] / 1e9:6.2f} GB, "
        f"{found['bytes'] / size:.3f} of that"
    )
    print(
        f"most memory held, all included     {found['peak'] / 1e9:6.2f} GB, {ratio:.2f} times the "
        f"files (bar {BAR}: {'met' if ratio <= BAR else 'missed'})"
    )
    print(f"of which torch and diffusers alone {found['libraries'] / 1e9:6.2f} GB")
    print(f"computing                          {found['seconds']:6.0f} s")


if __name__ == "__main__":
    main()
