"""Images and texts seen by CLIP: features of images, and how well an image matches its prompt.

The embedded emoji-clip needs no network; a folder or a Hub id of any `CLIPModel` works as well.
Safetensors only."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPModel,
    PreTrainedTokenizerBase,
)

from ..errors import DmqError
from ..numerics.threads import one_thread
from ..public import check_model, offered
from .checks import check_single
from .loading import LOADING, MODELS, UNREADABLE, quiet, unreadable
from .placement import get_chosen, resolve


EMBEDDED = "emoji-clip"
BATCH = 32  # images at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageText:
    """A CLIP that nobody changes: `name` for tables, its two towers, and how it wants its
    images.
    """

    name: str
    model: Any  # CLIPModel, whose own annotations do not hold
    tokenizer: PreTrainedTokenizerBase
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @property
    def size(self) -> int:
        """Pixels of a side of what the image tower sees."""
        return self.model.config.vision_config.image_size

    def pixels(self, images: Sequence[np.ndarray]) -> Tensor:
        """The images (uint8 [H, W, 3], of any sizes) as the image tower takes them, [N, 3,
        size, size].

        The shorter side is resized to `size` (bicubic, antialiased), the middle cut out, then
        normalised: CLIP's own preprocessing. An image of that size already is only normalised."""
        colours = torch.stack([self._fit(image) for image in images])
        mean, deviation = (
            torch.tensor(values)[:, None, None] for values in (self.mean, self.deviation)
        )
        return (colours - mean) / deviation

    def _fit(self, image: np.ndarray) -> Tensor:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
        colours = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
        height, width = image.shape[:2]
        if min(height, width) != self.size:
            scale = self.size / min(height, width)
            shape = (round(height * scale), round(width * scale))
            colours = F.interpolate(colours, shape, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = ((side - self.size) // 2 for side in colours.shape[2:])
        return colours[0, :, top : top + self.size, left : left + self.size]

    @torch.no_grad()
    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """What the image tower sees, float32 [N, D], not normalised.

        Taken before the projection, as Inception's are taken before its classes: the projection
        keeps what texts tell apart, and an image can be damaged in ways that no text names."""
        see, device = self.model.vision_model, self.model.device
        parts = [
            see(pixel_values=self.pixels(part).to(device)).pooler_output.cpu()
            for part in _batches(images)
        ]
        return (
            torch.cat(parts).numpy()
            if parts
            else np.zeros((0, self.model.vision_embed_dim), np.float32)
        )

    @torch.no_grad()
    def match(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """100 times the cosine between each image and its own prompt, float32 [N], -100 to 100.

        Not cut off at 0, as CLIPScore is (Hessel et al., arXiv:2104.08718, equation 1, without the
        factor 2.5). Prompts longer than the text tower reads are cut. Raises ValueError unless
        there are as many of both."""
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images for {len(prompts)} prompts")
        limit, parts = self.model.config.text_config.max_position_embeddings, []
        for part, texts in zip(_batches(images), _batches(prompts), strict=True):
            ids = self.tokenizer(
                list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt"
            )
            ids = ids.to(self.model.device)
            words = self.model.get_text_features(
                input_ids=ids.input_ids, attention_mask=ids.attention_mask
            )
            seen = self.model.get_image_features(
                pixel_values=self.pixels(part).to(self.model.device)
            )
            parts.append(100 * F.cosine_similarity(seen.pooler_output, words.pooler_output).cpu())
        return torch.cat(parts).numpy() if parts else np.zeros(0, np.float32)


def _batches(items: Sequence) -> list[Sequence]:
    return [items[i : i + BATCH] for i in range(0, len(items), BATCH)]


def load_clip(name_or_folder: str = EMBEDDED) -> ImageText:
    """The CLIP `name_or_folder`: the embedded emoji-clip, a folder, or a Hub id "owner/name".
    Cached, quiet.

    In float32 whatever else is lowered, since it judges; on the device where models run. Raises
    DmqError for an unknown name, a model that is no CLIP, pickled weights, code, or no network."""
    check_model(name_or_folder, (EMBEDDED,))
    return _load(
        name_or_folder, resolve(replace(get_chosen(), dtype="float32", offload="none"), {}).device
    )


@functools.lru_cache(maxsize=2)
def _load(name_or_folder: str, device: str) -> ImageText:
    source = _source(name_or_folder)
    with LOADING, quiet(), one_thread():
        try:
            made = _open(name_or_folder, source)
            made.model.to(device)
            return made
        except (*UNREADABLE, SafetensorError) as error:
            raise unreadable(name_or_folder, source, error, "CLIP and its processor") from error


def _source(name: str) -> str | Path:
    """Where `name` is to be read from; DmqError if no CLIP can be there."""
    source = offered().get(name, name)
    path = MODELS / name if name == EMBEDDED else Path(source).expanduser()
    if path.is_dir():
        check_single(path)
        return path
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not path.is_absolute():
        return source
    raise DmqError(
        f"{name!r} is not {EMBEDDED}, no folder of a CLIP model and no Hub id owner/name."
    )


def _open(name: str, source: str | Path) -> ImageText:
    try:
        # What was fetched before is used without asking the network.
        return _read(name, str(source), local_files_only=True)
    except OSError:
        if isinstance(source, Path):
            raise
        return _read(name, str(source), local_files_only=False)


def _read(name: str, source: str, local_files_only: bool) -> ImageText:
    only = {"local_files_only": local_files_only, "trust_remote_code": False}
    kind = AutoConfig.from_pretrained(source, **only).model_type
    if kind != "clip":  # CLIPModel would fill what is missing with random weights
        raise DmqError(f"{name}: is of a {kind!r} model, expected 'clip'.")
    opened: Any = CLIPModel.from_pretrained(
        source,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
        local_files_only=local_files_only,
    )
    model, loaded = opened
    if missing := sorted(loaded["missing_keys"]):
        raise DmqError(
            f"{name}: has no weights for {missing[0]} and {len(missing) - 1} others. Save the "
            "model again."
        )
    # transformers' own processors for other sizes and crops need torchvision; only their numbers
    # are used.
    wanted, _ = CLIPImageProcessorPil.get_image_processor_dict(
        source, local_files_only=local_files_only
    )
    return ImageText(
        name=name,
        model=model.eval().requires_grad_(False),
        tokenizer=AutoTokenizer.from_pretrained(source, **only),
        mean=tuple(wanted.get("image_mean") or CLIPImageProcessorPil.image_mean),
        deviation=tuple(wanted.get("image_std") or CLIPImageProcessorPil.image_std),
    )
