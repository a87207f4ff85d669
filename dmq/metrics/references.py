"""Features of real images, the second reference of a benchmark: those that ship with
emoji-clip, or a folder's.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DmqError
from ..models.libraries import import_libraries, load
from ..public import check_place
from ..recipe import EMBEDDED
from ..store import folders


if TYPE_CHECKING:
    from ..models.clip import ImageText

KINDS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
MAX_IMAGES = 50_000  # images of a folder
PARTS = 64  # images opened at a time
SHIPPED = "emoji-clip"  # whose features of real images ship


def load_feature_extractor(name: str) -> "ImageText":
    """The CLIP whose features a benchmark uses: the embedded emoji-clip, a folder or a Hub id."""
    import_libraries()
    from ..models.clip import load_clip

    return load_clip(name)


def load_scorer(model: str) -> Any:
    """What judges images and prompts of `model`: emoji-clip, where an image has a prompt in
    words.
    """
    loaded = load(model)
    from ..models.clip import load_clip
    from ..models.sampling_arguments import has_class_prompts

    return load_clip() if loaded.info.prompted and not has_class_prompts(loaded.pipe) else None


def extract_features(feature_extractor: "ImageText", images: Sequence[np.ndarray]) -> np.ndarray:
    """Features [N, D] float32 of images, the same in any process."""
    from ..numerics.threads import one_thread

    with one_thread():
        return feature_extractor.features(images)


def hash_weights(feature_extractor: "ImageText") -> str:
    """16 hex digits of all weights that features come from, and of how images are shown to
    them.
    """
    digest = hashlib.sha256(
        repr((feature_extractor.size, feature_extractor.mean, feature_extractor.deviation)).encode()
    )
    for name, tensor in sorted(feature_extractor.model.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def load_real_features(
    model: str, feature_extractor: "ImageText", features: str = SHIPPED, folder: str = ""
) -> tuple[np.ndarray, str] | None:
    """Features [N, D] of real images and what these are; None where there are none.

    `features` is the name of the extractor, `folder` holds images instead of those that ship.
    Raises DmqError for a folder without images, and if what ships was computed with other
    weights."""
    if folder:
        return _of_folder(Path(folder).expanduser(), feature_extractor)
    file = folders.ASSETS / "models" / SHIPPED / "reference.safetensors"
    if features != SHIPPED or model not in EMBEDDED or not file.is_file():
        return None
    return _load_shipped(file, model, feature_extractor)


def _load_shipped(file: Path, model: str, feature_extractor: "ImageText") -> tuple[np.ndarray, str]:
    from safetensors import safe_open

    with safe_open(file, "numpy") as opened:
        plain = json.loads(opened.metadata()["reference"])
        if plain["fingerprint"] != hash_weights(feature_extractor):
            raise DmqError(
                f"the features of real images that ship with {SHIPPED} are of other weights than "
                "it has; run `python -m training.reference`, or give a folder of real images."
            )
        features = opened.get_tensor(model).astype(np.float32)
    return features, f"{len(features)} {plain['what']}"


def save_shipped(made: dict[str, np.ndarray], what: str, feature_extractor: "ImageText") -> Path:
    """Write the features of real images, [N, D] by model, beside the weights that they come
    from.
    """
    from safetensors.numpy import save_file

    file = folders.ASSETS / "models" / SHIPPED / "reference.safetensors"
    plain = {"fingerprint": hash_weights(feature_extractor), "what": what}
    arrays = {
        name: np.ascontiguousarray(features.astype(np.float16)) for name, features in made.items()
    }
    save_file(arrays, file, metadata={"reference": json.dumps(plain)})
    return file


def _of_folder(folder: Path, feature_extractor: "ImageText") -> tuple[np.ndarray, str]:
    from PIL import Image, UnidentifiedImageError

    check_place(folder)
    if not folder.is_dir():
        raise DmqError(f"{folder}: is no folder; give one with real images, or none.")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in KINDS)
    if not files or len(files) > MAX_IMAGES:
        raise DmqError(
            f"{folder}: has {len(files):,} images ({', '.join(sorted(KINDS))}); 1 to {MAX_IMAGES:,} "
            "are read."
        )
    parts = []
    for start in range(0, len(files), PARTS):
        images = []
        for file in files[start : start + PARTS]:
            try:
                images.append(np.asarray(Image.open(file).convert("RGB")))
            except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
                raise DmqError(f"{file}: is no image that can be read ({error}).") from None
        parts.append(extract_features(feature_extractor, images))
    return np.concatenate(parts), f"{len(files)} images of the folder {folder.name}"
