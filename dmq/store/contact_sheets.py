"""Images in rows and columns with their names beside and above them, as one PNG."""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import DmqError
from . import codec


# pixels of a side: smaller images are enlarged, by a whole number so that each pixel stays one
MIN_SIDE_PIXELS = 96
GAP = 6


def sheet(
    rows: dict[str, list[np.ndarray]], columns: list[str], least: int = MIN_SIDE_PIXELS
) -> Image.Image:
    """Images uint8 [H, W, 3] of one size, a row for each name, under the names of the
    `columns`; sides of fewer pixels than `least` are enlarged.
    """
    height, width = next(iter(rows.values()))[0].shape[:2]
    times = max(1, -(-least // min(height, width)))
    font = ImageFont.load_default(size=13)
    margin = round(max(font.getlength(name) for name in rows)) + 2 * GAP
    across = max(width * times, *(round(font.getlength(name)) for name in columns)) + GAP
    down, top = height * times + GAP, 20 * any(columns) + GAP
    made = Image.new("RGB", (margin + len(columns) * across, top + len(rows) * down), "white")
    pen = ImageDraw.Draw(made)
    for x, name in enumerate(columns):
        pen.text((margin + x * across, GAP), name, fill="black", font=font)
    for y, (name, images) in enumerate(rows.items()):
        pen.text(
            (GAP, top + y * down + height * times // 2), name, fill="black", font=font, anchor="lm"
        )
        for x, pixels in enumerate(images):
            large = Image.fromarray(pixels).resize(
                (width * times, height * times), Image.Resampling.NEAREST
            )
            made.paste(large, (margin + x * across, top + y * down))
    return made


def read_image(file: Path, remedy: str) -> np.ndarray:
    """The pixels of an image file. Raises DmqError that tells the `remedy` if it is damaged."""
    with codec.reading(file, remedy):
        try:
            return np.asarray(Image.open(file))
        except (SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(str(error)) from None


def save_png(file: str, image: Image.Image) -> None:
    """Write `image` so that `file` is whole or as it was.

    Raises DmqError if it cannot be written.
    """
    part = ""
    try:
        with tempfile.NamedTemporaryFile(
            dir=Path(file).parent, prefix=".part-", suffix=".png", delete=False
        ) as made:
            part = made.name
            image.save(made, format="PNG")
        Path(part).chmod(0o644)
        Path(part).replace(file)
    except OSError as error:
        raise DmqError(f"{file}: cannot be written ({error.strerror}).") from None
    finally:
        if part:
            Path(part).unlink(missing_ok=True)
