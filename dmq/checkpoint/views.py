"""Checkpoints for people without dmq: plain safetensors, those of SDNQ, and the Hub."""

import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import DmqError
from ..models.quantizer import push_folder
from ..quantizers.codes import WeightCodes
from .assembling import codes_in
from .content import quantized_layout
from .pipelines import check, denoiser_folder
from .sdnq import Forms
from .writing import Exported, Shards, check_target, sizes, write_plain, writing


DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FILE = 5_000_000_000  # bytes


def dequantized(
    folder: str | Path, target: str | Path, dtype: str = "float32"
) -> Generator[tuple[int, int], None, Exported]:
    """Write the checkpoint or pipeline in `folder` with its weights as plain numbers; yields (done, of) by tensor.

    Stock diffusers loads the result. Weights are what their codes stand for; activations are no longer quantized.
    Raises DmqError where a cache has taken the place of layers, which then are not there to be written.
    """
    if dtype not in DTYPES:
        raise DmqError(f"dtype is {dtype!r:.40}, not one of {', '.join(DTYPES)}.")

    def number(name: str, x: WeightCodes | Tensor) -> dict[str, Tensor]:
        value = x.dequantize() if isinstance(x, WeightCodes) else x
        return {name: value.to(DTYPES[dtype]) if value.is_floating_point() else value}

    return (yield from _view(folder, target, number, dict))


def for_sdnq(folder: str | Path, target: str | Path) -> Generator[tuple[int, int], None, Exported]:
    """Write the checkpoint or pipeline in `folder` with its weights as SDNQ stores them; yields (done, of) by tensor.

    diffusers loads the result where `sdnq` is installed, which is under the GPL and no part of dmq. Weights are the
    same but for the rounding of float32, activations are no longer quantized. Forms that SDNQ does not have are
    written as numbers. Raises DmqError as `dequantized` does.
    """
    forms = Forms()
    return (yield from _view(folder, target, forms.stored, lambda: {"quantization_config": forms.config()}))


@torch.no_grad()
def _view(
    folder: str | Path, target: str | Path, stored: Callable[[str, WeightCodes | Tensor], dict[str, Tensor]],
    settings: Callable[[], dict[str, Any]],
) -> Generator[tuple[int, int], None, Exported]:  # fmt: skip
    """Write what is in `folder` for others: `stored` makes tensors of each parameter, `settings` ends config.json."""
    checked, target = check(folder), Path(target).expanduser()
    check_target(target)
    content, files = checked.content, checked.files
    if any(row.dropped for row in content.plan.layers):
        raise DmqError(
            f"{folder}: a cache of temporal features has taken the place of layers, which others cannot do without. "
            "Export a recipe without temporal.cache."
        )
    names = [*content.codes, *sorted(set(files.places) - set(quantized_layout(content.settings)))]
    with writing(target) as part:
        place = part / checked.component if checked.component else part
        if checked.component:
            shutil.copytree(checked.folder, part, dirs_exist_ok=True, ignore=_only_others(checked.folder))
            place.mkdir(exist_ok=True)
        shards, taken = Shards(place, FILE, sealed=False), {"codes and scales": 0, "float": 0}
        for n, name in enumerate(names):
            x = codes_in(content, name, files.fetch) if name in content.codes else files.fetch(name)
            for own, y in stored(name, x).items():
                shards.add(own, y.contiguous())
                number = own == name and y.is_floating_point()
                taken["codes and scales" if name in content.codes and not number else "float"] += y.nbytes
            yield n + 1, len(names)
        shards.finish({})
        write_plain(place, content.config, settings(), denoiser_folder(checked))
    return Exported(folder=target, planned=shards.total, bytes=taken, files=sizes(target))


def push(folder: str | Path, name: str, *, private: bool = True) -> str:
    """Upload a checkpoint with its card to the Hugging Face Hub as `name`, "owner/model"; returns its address.

    Raises DmqError if nobody is logged in, or if the Hub refuses.
    """
    return push_folder(check(folder).folder, name, private)


def _only_others(folder: Path) -> Any:
    """What of a pipeline's folder is copied: everything but the denoiser and what speaks of its codes."""
    own = next((path.name for path in folder.iterdir() if (path / "plan.json").is_file()), "")

    def ignored(where: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(where) == folder and name in (own, "README.md", "report.json")]

    return ignored
