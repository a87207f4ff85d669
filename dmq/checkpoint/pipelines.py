"""Whole pipelines as folders: the quantized denoiser in its place, everything else as it saves
itself.
"""

import json
import re
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..describe import describe_plan
from ..errors import DmqError
from ..models.checks import check_folder
from ..models.loading import Loaded, quiet
from ..models.quantizer import config_data, pipeline_from_folder
from ..quantizers.codes import WeightCodes
from ..recipe import Recipe
from ..results import Plan, Report
from .loading import mode as chosen_mode
from .reading import Files, read, read_json, readable
from .settings import Content, data_digest, settings_of
from .writing import (
    CARD,
    Exported,
    check_target,
    collect,
    find_exported,
    write_beside,
    write_denoiser,
    writing,
)


NAME = re.compile(r"[A-Za-z]\w{0,63}")  # of a part of a pipeline


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A folder that was verified: a checkpoint of one denoiser, or a pipeline with one."""

    folder: Path
    component: str  # "" if the folder is the denoiser's own
    content: Content
    files: Files

    def line(self) -> str:
        """What it is, in one sentence."""
        plan, taken = self.content.plan, self.files.bytes
        where = f"pipeline with a quantized {self.component}" if self.component else "denoiser"
        return (
            f"{where}, made from {plan.model}; {taken:,} bytes of tensors "
            f"({taken / max(1, plan.float_bytes):.1%} of "
            f"float32); {describe_plan(plan)}"
        )


def export_pipeline(
    loaded: Loaded,
    plan: Plan,
    folder: str | Path,
    *,
    learned: Mapping[str, WeightCodes] | None = None,
    recipe: Recipe | None = None,
    report: Report | None = None,
    mode: str = "executed",
) -> Generator[tuple[int, int], None, Exported]:
    """Write the pipeline of `loaded` with its denoiser as `plan` quantizes it; yields (done, of) by
    tensor.

    `DiffusionPipeline.from_pretrained(folder)` reads it after `import dmq.checkpoint`. Otherwise as
    `export_denoiser`."""
    folder = Path(folder).expanduser()
    check_target(folder)
    component = loaded.component
    collected = yield from collect(loaded.denoiser, plan, loaded.adapter, learned)
    settings = settings_of(plan, collected.codes, loaded.adapter.name, mode, component) | {
        "sampler": sampler_data(loaded.pipe.scheduler)
    }
    with writing(folder) as part:
        place = part / component
        place.mkdir()
        write_denoiser(place, config_data(loaded.denoiser), settings, collected.tensors)
        write_beside(place, plan, settings, recipe, report, "", collected.tensors)
        for name in (
            CARD,
            *(["recipe.json"] if recipe else []),
            *(["report.json"] if report else []),
        ):
            (place / name).rename(part / name)
        with quiet():
            for name, other in loaded.pipe.components.items():
                if name != component and hasattr(other, "save_pretrained"):
                    other.save_pretrained(
                        part / name, **({"safe_serialization": True} if _diffusers(other) else {})
                    )
        _write_index(part, loaded.pipe)
    return find_exported(folder, plan, collected)


def check(folder: str | Path) -> Checked:
    """Verify a checkpoint of a denoiser, or a pipeline with one; see `reading.read`.

    Raises DmqError for whatever is wrong, also for a pipeline whose sampler is not the one of the
    calibration."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DmqError(f"{folder}: is no folder; give one that `dmq export` wrote.")
    if not (folder / "model_index.json").is_file():
        content, files, _ = read(folder)
        return Checked(folder=folder, component="", content=content, files=files)
    with readable(folder):
        index = read_json(folder / "model_index.json")
        parts = [name for name, value in index.items() if isinstance(value, list)]
        for name in parts:
            if not NAME.fullmatch(name):
                raise DmqError(
                    f"{folder}: {name!r:.80} in model_index.json names no part; nothing was opened."
                )
        check_folder(folder)
        ours = [name for name in parts if _find_quantized(folder / name)]
        if len(ours) != 1:
            raise DmqError(
                f"{folder}: {len(ours)} parts of the pipeline are quantized by dmq, expected one."
            )
        content, files, _ = read(folder / ours[0])
        _check_sampler(folder, content)
    return Checked(folder=folder, component=ours[0], content=content, files=files)


def load_pipeline(folder: str | Path, how: str | None = None) -> Any:
    """The pipeline in `folder`, checked and then loaded by diffusers; `how` is a name that
    `mode` takes.
    """
    checked = check(folder)
    if not checked.component:
        raise DmqError(
            f"{folder}: is one denoiser; load it with dmq.checkpoint.load, or give a pipeline's "
            "folder."
        )
    with ExitStack() as stack:
        if how is not None:
            stack.enter_context(chosen_mode(how))
        return pipeline_from_folder(checked.folder)


def sampler_data(scheduler: Any) -> dict[str, Any]:
    """A scheduler's class and settings, as its own file has them."""
    return {
        "class": type(scheduler).__name__,
        "settings": _public(json.loads(scheduler.to_json_string())),
    }


def _check_sampler(folder: Path, content: Content) -> None:
    known = content.settings.get("sampler")
    file = folder / "scheduler" / "scheduler_config.json"
    if not isinstance(known, dict) or not file.is_file():
        return
    found = read_json(file)
    now = {"class": found.get("_class_name"), "settings": _public(found)}
    if data_digest(now) == data_digest(known):
        return
    settings, there = known.get("settings"), _public(found)
    then = settings if isinstance(settings, dict) else {}
    other = sorted(name for name in then.keys() | there.keys() if then.get(name) != there.get(name))
    what = (
        f"{known.get('class')!s:.60}"
        if known.get("class") != now["class"]
        else f"another {other[0]:.60}"
    )
    raise DmqError(
        f"{file}: the ranges were calibrated with {what}, the pipeline has {now['class']!s:.60}. "
        "Put the scheduler of "
        "the export back, or calibrate and export anew for this one."
    )


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if not name.startswith("_")}


def _find_quantized(folder: Path) -> bool:
    file = folder / "config.json"
    if not file.is_file():
        return False
    settings = read_json(file).get("quantization_config")
    return isinstance(settings, dict) and settings.get("quant_method") == "dmq"


def _diffusers(part: Any) -> bool:
    """Models of diffusers may be saved as pickles; transformers' never are."""
    return isinstance(part, nn.Module) and type(part).__module__.startswith("diffusers.")


def _write_index(part: Path, pipe: Any) -> None:
    index = {
        name: value
        for name, value in json.loads(pipe.to_json_string()).items()
        if name != "_name_or_path"
    }
    (part / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def denoiser_folder(checked: Checked) -> Path:
    """Where the denoiser's own files are."""
    return checked.folder / checked.component if checked.component else checked.folder
