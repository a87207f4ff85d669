"""Features of real pictures, the second reference of a benchmark: those that ship with
emoji-clip, or a folder's.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import runs
from ..errors import DmqError
from ..public import check_place
from ..recipe import EMBEDDED, Benchmark
from .known import info, libraries, load


if TYPE_CHECKING:
    from ..models.clip import PictureText

KINDS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
MOST = 50_000  # pictures of a folder
PARTS = 64  # pictures opened at a time
SHIPPED = "emoji-clip"  # whose features of real pictures ship


def load_eye(name: str) -> "PictureText":
    """The CLIP whose features a benchmark uses: the embedded emoji-clip, a folder or a Hub id."""
    libraries()
    from ..models.clip import load_clip

    return load_clip(name)


def matcher_of(model: str) -> Any:
    """What judges pictures and prompts of `model`: emoji-clip, where a picture has a prompt in
    words.
    """
    if not info(model).prompted:
        return None
    libraries()
    from ..models.clip import load_clip
    from ..models.running import own_prompts

    return None if own_prompts(load(model).pipe) else load_clip()


def seen(eye: "PictureText", pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Features [N, D] float32 of pictures, the same in any process."""
    from ..numerics.threads import one_thread

    with one_thread():
        return eye.features(pictures)


def weights_of(eye: "PictureText") -> str:
    """16 hex digits of all weights that features come from, and of how pictures are shown to
    them.
    """
    digest = hashlib.sha256(repr((eye.size, eye.mean, eye.deviation)).encode())
    for name, tensor in sorted(eye.model.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def real_features(
    benchmark: Benchmark, model: str, eye: "PictureText"
) -> tuple[np.ndarray, str] | None:
    """Features [N, D] of real pictures and what these are; None where there are none.

    Raises DmqError for a folder without pictures, and if what ships was computed with other
    weights."""
    if benchmark.reference:
        return _of_folder(Path(benchmark.reference).expanduser(), eye)
    file = runs.ASSETS / "models" / SHIPPED / "reference.safetensors"
    if benchmark.features != SHIPPED or model not in EMBEDDED or not file.is_file():
        return None
    return _shipped(file, model, eye)


def _shipped(file: Path, model: str, eye: "PictureText") -> tuple[np.ndarray, str]:
    from safetensors import safe_open

    with safe_open(file, "numpy") as opened:
        plain = json.loads(opened.metadata()["reference"])
        if plain["fingerprint"] != weights_of(eye):
            raise DmqError(
                f"the features of real pictures that ship with {SHIPPED} are of other weights than "
                "it has; run `python -m training.reference`, or give a folder of real pictures."
            )
        features = opened.get_tensor(model).astype(np.float32)
    return features, f"{len(features)} {plain['what']}"


def save_shipped(made: dict[str, np.ndarray], what: str, eye: "PictureText") -> Path:
    """Write the features of real pictures, [N, D] by model, beside the weights that they come
    from.
    """
    from safetensors.numpy import save_file

    file = runs.ASSETS / "models" / SHIPPED / "reference.safetensors"
    plain = {"fingerprint": weights_of(eye), "what": what}
    arrays = {
        name: np.ascontiguousarray(features.astype(np.float16)) for name, features in made.items()
    }
    save_file(arrays, file, metadata={"reference": json.dumps(plain)})
    return file


def _of_folder(folder: Path, eye: "PictureText") -> tuple[np.ndarray, str]:
    from PIL import Image, UnidentifiedImageError

    check_place(folder)
    if not folder.is_dir():
        raise DmqError(f"{folder}: is no folder; give one with real pictures, or none.")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in KINDS)
    if not files or len(files) > MOST:
        raise DmqError(
            f"{folder}: has {len(files):,} pictures ({', '.join(sorted(KINDS))}); 1 to {MOST:,} "
            "are read."
        )
    parts = []
    for start in range(0, len(files), PARTS):
        pictures = []
        for file in files[start : start + PARTS]:
            try:
                pictures.append(np.asarray(Image.open(file).convert("RGB")))
            except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
                raise DmqError(f"{file}: is no picture that can be read ({error}).") from None
        parts.append(seen(eye, pictures))
    return np.concatenate(parts), f"{len(files)} pictures of the folder {folder.name}"
