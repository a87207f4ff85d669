"""What is refused before anything is opened: folders that are no pipeline, pickles, code, and
skipping caches.
"""

import json
from pathlib import Path

from diffusers import pipelines
from torch import nn

from ..errors import DmqError


PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
CACHES = ("cache", "fbc_", "pyramid_attention", "layer_skip")  # in the names of diffusers' hooks


def check_folder(folder: Path) -> None:
    """Raise DmqError unless `folder` holds a diffusers pipeline in safetensors, without code of
    its own.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        pickles = [file.name for file in sorted(folder.iterdir()) if file.suffix in PICKLES]
        what = (
            f"only {pickles[0]}, a pickle, which dmq never opens"
            if pickles
            else "no model_index.json"
        )
        raise DmqError(
            f"{folder}: holds {what}; expected a folder that pipe.save_pretrained({folder.name!r}) "
            "wrote."
        )
    if code := next(folder.rglob("*.py"), None):
        raise DmqError(
            f"{folder}: carries code ({code.name}), which dmq never runs. Use one of diffusers' "
            "own."
        )
    try:
        parts = json.loads(index.read_text("utf-8"))
        libraries = {
            name: value[0] for name, value in parts.items() if isinstance(value, list) and value
        }
        known = isinstance(parts["_class_name"], str)
    except (ValueError, KeyError, AttributeError):
        raise DmqError(
            f"{index}: is no pipeline index; save the pipeline again with save_pretrained."
        ) from None
    for name, library in libraries.items():
        known = known and (
            library in (None, "diffusers", "transformers") or str(library) in dir(pipelines)
        )
        if not known:
            raise DmqError(
                f"{index}: {name} comes from {library!r}; dmq loads diffusers and transformers "
                "parts only."
            )
    for name in libraries:
        _check_weights(folder / name)


def check_single(folder: Path) -> None:
    """Raise DmqError unless `folder` holds one transformers model in safetensors, without code
    of its own.
    """
    if not (folder / "config.json").is_file():
        raise DmqError(
            f"{folder}: holds no config.json; expected a folder that model.save_pretrained(...) "
            "wrote."
        )
    if code := next(folder.rglob("*.py"), None):
        raise DmqError(
            f"{folder}: carries code ({code.name}), which dmq never runs. Use one of transformers' "
            "own."
        )
    _check_weights(folder)


def _check_weights(part: Path) -> None:
    files = [file for file in part.iterdir() if file.is_file()] if part.is_dir() else []
    pickles = [file for file in files if file.suffix in PICKLES]
    if pickles and not any(file.suffix == ".safetensors" for file in files):
        raise DmqError(
            f"{pickles[0]}: is a pickle, which dmq never opens. Save it again as safetensors."
        )


def refuse_caches(denoiser: nn.Module) -> None:
    """Raise DmqError if a cache that skips layers or steps is enabled on `denoiser`: its statistics
    would lie.

    These are the caches of `diffusers.hooks` (PAB, FasterCache, FirstBlockCache, MagCache,
    TaylorSeer and others)."""
    for path, module in denoiser.named_modules():
        # Diffusers puts the registry there when the first hook comes; there is no other way to ask.
        registry = vars(module).get("_diffusers_hook")
        for name in registry.hooks if registry is not None else ():
            if any(part in name for part in CACHES):
                raise DmqError(
                    f"{path or type(denoiser).__name__}: the hook {name!r} skips steps, so what is "
                    "seen there would "
                    "be wrong. Call disable_cache() on the denoiser, or load the pipeline anew."
                )
