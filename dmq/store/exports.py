"""Exported checkpoints and pipelines: where they are, what each of them is, and one file of it
to take along.
"""

import json
import zipfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from .. import jsonio
from ..errors import DmqError
from ..recipe import Recipe
from . import codec
from .folders import download_folder, fit_to_name, free_stem, own_home


# Who loads it: diffusers with dmq; of the weights alone, diffusers without anything, or with sdnq.
FORMS = ("dmq", "dequantized", "sdnq")
MOST_ZIPPED = 2_000_000_000  # bytes; what is larger is better copied than packed once more
CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Export:
    """What is in an exported folder."""

    folder: Path
    pipeline: bool  # a whole one; otherwise the denoiser alone
    form: str  # one of FORMS
    denoiser: str  # its class in diffusers
    component: str  # its name in the pipeline; "" if that is not known
    bytes: int  # of all files
    recipe: Recipe | None  # which it was made by, if it says so

    def line(self) -> str:
        """What it is, in a few words."""
        what = "pipeline" if self.pipeline else f"denoiser ({self.denoiser})"
        kind = {"dmq": "dmq checkpoint", "sdnq": "SDNQ checkpoint"}.get(
            self.form, "dequantized safetensors"
        )
        return f"{kind}, {what}, {self.bytes / 1e6:.1f} MB on disk"


def place() -> Path:
    """The folder that all exports are in."""
    return own_home() / "exports"


def export_folder(name: str) -> Path:
    """The folder of an export. Raises DmqError for a name that could lead out of the exports."""
    if not name or not fit_to_name(name):
        raise DmqError(
            f"{name!r:.80} cannot name an export: use letters, digits, spaces, dots and dashes."
        )
    return place() / name


def free_export(wanted: str) -> str:
    """`wanted` made fit to name an export that is not there yet."""
    return free_stem(wanted, export_folder)


def exports() -> list[str]:
    """The exports that are there, newest first."""
    found = [path for path in place().glob("*") if path.is_dir() and fit_to_name(path.name)]
    return [path.name for path in sorted(found, key=lambda path: -path.stat().st_mtime)]


def describe_export(name: str) -> Export:
    """What the export `name` is.

    Raises DmqError if there is none of that name, or if it cannot be read.
    """
    folder = export_folder(name)
    if not folder.is_dir():
        raise DmqError(f"there is no export called {name!r}; it was removed meanwhile.")
    pipeline = (folder / "model_index.json").is_file()
    with codec.reading(folder, "delete the folder and export again"):
        component, config = _denoiser(folder, pipeline)
        recipe = jsonio.read(folder / "recipe.json") if (folder / "recipe.json").is_file() else None
        return Export(
            folder=folder,
            pipeline=pipeline,
            form=_form(config),
            denoiser=config["_class_name"],
            component=component,
            bytes=sum(file.stat().st_size for file in _files(folder)),
            recipe=recipe,
        )


def _denoiser(folder: Path, pipeline: bool) -> tuple[str, dict]:
    """The denoiser's name in its pipeline, and its settings."""
    names = ("transformer", "unet") if pipeline else ("",)
    component = next((name for name in names if (folder / name / "config.json").is_file()), "")
    config = json.loads((folder / component / "config.json").read_text("utf-8"))
    if pipeline:
        return component, config
    settings = config.get("quantization_config") or {}
    return settings.get("component") or (
        "unet" if "UNet" in config["_class_name"] else "transformer"
    ), config


def _form(config: dict) -> str:
    """Which of FORMS a denoiser with these settings has.

    Raises ValueError for somebody else's codes.
    """
    settings = config.get("quantization_config")
    found = settings["quant_method"] if settings else "dequantized"
    if found not in FORMS:
        raise ValueError(f"codes of {found!r:.40}")
    return found


def zip_export(name: str) -> Generator[tuple[int, int], None, Path]:
    """Pack the export `name` into one file in a temporary folder; yields (bytes done, of all),
    returns its path.

    Nothing is compressed: codes have no gaps. Raises DmqError for what is too large to be packed,
    or if the disk is full."""
    known = describe_export(name)
    if known.bytes > MOST_ZIPPED:
        raise DmqError(
            f"{known.folder}: {known.bytes / 1e9:.1f} GB are too much for one file; copy the "
            "folder."
        )
    target = download_folder() / f"{name}.zip"
    done, ended = 0, False
    try:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as packed:
            for file in _files(known.folder):
                inside = f"{name}/{file.relative_to(known.folder).as_posix()}"
                with file.open("rb") as read, packed.open(inside, "w", force_zip64=True) as write:
                    while chunk := read.read(CHUNK):
                        write.write(chunk)
                        done += len(chunk)
                        yield done, known.bytes
        ended = True
    except OSError as error:
        raise DmqError(f"{target}: cannot be written ({error.strerror}).") from None
    finally:
        if not ended:
            target.unlink(missing_ok=True)
            target.parent.rmdir()
    return target


def _files(folder: Path) -> list[Path]:
    """Files of an export; a link could lead anywhere and is none."""
    return sorted(file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
