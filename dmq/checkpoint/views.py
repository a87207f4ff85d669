"""Checkpoints for people without dmq: plain safetensors, those of SDNQ, and the Hub."""

import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import jsonio
from ..errors import DmqError
from ..models.quantizer import push_folder
from ..quantizers.codes import WeightCodes
from .build_model import codes_in
from .card import view_card
from .pipelines import Checked, check, denoiser_folder
from .sdnq import Forms
from .settings import quantized_layout
from .writing import CARD, Exported, Shards, check_target, is_view, sizes, write_plain, writing


DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FILE = 5_000_000_000  # bytes


def write_dequantized(
    folder: str | Path, target: str | Path, dtype: str = "float32"
) -> Generator[tuple[int, int], None, Exported]:
    """Write the checkpoint or pipeline in `folder` with its weights as plain numbers; yields (done,
    of) by tensor.

    Stock diffusers loads the result. Weights are what their codes stand for; activations are no
    longer quantized. Raises DmqError where a cache has taken the place of layers, which then are
    not there to be written."""
    if dtype not in DTYPES:
        raise DmqError(f"dtype is {dtype!r:.40}, not one of {', '.join(DTYPES)}.")

    def number(name: str, x: WeightCodes | Tensor) -> dict[str, Tensor]:
        value = x.dequantize() if isinstance(x, WeightCodes) else x
        return {name: value.to(DTYPES[dtype]) if value.is_floating_point() else value}

    return (yield from _view(folder, target, "", number, dict))


def for_sdnq(folder: str | Path, target: str | Path) -> Generator[tuple[int, int], None, Exported]:
    """Write the checkpoint or pipeline in `folder` with its weights as SDNQ stores them; yields
    (done, of) by tensor.

    diffusers loads the result where `sdnq` is installed, which is under the GPL and no part of dmq.
    Weights are the same but for the rounding of float32, activations are no longer quantized. Forms
    that SDNQ does not have are written as numbers. Raises DmqError as `write_dequantized` does."""
    forms = Forms()
    return (
        yield from _view(
            folder, target, "sdnq", forms.stored, lambda: {"quantization_config": forms.config()}
        )
    )


@torch.no_grad()
def _view(
    folder: str | Path,
    target: str | Path,
    needs: str,
    stored: Callable[[str, WeightCodes | Tensor], dict[str, Tensor]],
    settings: Callable[[], dict[str, Any]],
) -> Generator[tuple[int, int], None, Exported]:
    """Write what is in `folder` for others, who need the package `needs`.

    `stored` makes tensors of each parameter, `settings` ends config.json.
    """
    checked, target = _whole(folder), Path(target).expanduser()
    check_target(target)
    content, files = checked.content, checked.files
    beside = checked.folder / "recipe.json"
    recipe = jsonio.read(beside) if beside.is_file() else None
    names = [*content.codes, *sorted(set(files.places) - set(quantized_layout(content.settings)))]
    with writing(target) as part:
        place = part / checked.component if checked.component else part
        if checked.component:
            shutil.copytree(
                checked.folder, part, dirs_exist_ok=True, ignore=_only_others(checked.folder)
            )
            place.mkdir(exist_ok=True)
        shards, taken = Shards(place, FILE, sealed=False), {"codes and scales": 0, "float": 0}
        for n, name in enumerate(names):
            x = codes_in(content, name, files.fetch) if name in content.codes else files.fetch(name)
            for own, y in stored(name, x).items():
                shards.add(own, y.contiguous())
                number = own == name and y.is_floating_point()
                taken["codes and scales" if name in content.codes and not number else "float"] += (
                    y.nbytes
                )
            yield n + 1, len(names)
        shards.finish({})
        write_plain(place, content.config, settings(), denoiser_folder(checked))
        (part / CARD).write_text(
            view_card(content.plan, shards.total, recipe, needs), encoding="utf-8"
        )
    return Exported(folder=target, planned=shards.total, bytes=taken, files=sizes(target))


def _whole(folder: str | Path) -> Checked:
    """The checkpoint in `folder`, verified, if it has all layers."""
    checked = check(folder)
    if any(row.dropped for row in checked.content.plan.layers):
        raise DmqError(
            f"{folder}: a cache of temporal features has taken the place of layers, which others "
            "cannot do without. "
            "Export a recipe without temporal.cache."
        )
    return checked


def push(folder: str | Path, name: str, *, private: bool = True) -> str:
    """Upload a checkpoint, or a view of one, with its card to the Hugging Face Hub; returns its
    address.

    `name` is "owner/model". Raises DmqError if `folder` is neither, if nobody is logged in, or if
    the Hub refuses."""
    folder = Path(folder).expanduser()
    return push_folder(folder if is_view(folder) else check(folder).folder, name, private)


def _only_others(folder: Path) -> Any:
    """What of a pipeline's folder is copied: everything but the denoiser and what speaks of its
    codes.
    """
    own = next((path.name for path in folder.iterdir() if (path / "plan.json").is_file()), "")

    def ignore_modules(where: str, names: list[str]) -> list[str]:
        return [
            name for name in names if Path(where) == folder and name in (own, CARD, "report.json")
        ]

    return ignore_modules
