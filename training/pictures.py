"""The images both models learn: every named emoji of the Noto Color Emoji font, drawn once at
64x64 on white.

Skin-tone variants are left out (they would be most of the set), and so is what the font
can only draw as several glyphs.
"""

import re
from pathlib import Path

import emoji
import numpy as np
from PIL import Image, ImageDraw, ImageFont


FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
GLYPH = 136
SIZE = 64
FULLY_QUALIFIED = 2


def draw_glyph(text: str, font: ImageFont.FreeTypeFont) -> tuple[Image.Image, int]:
    """One emoji in the middle of a 136-pixel white square, and its drawn width (more than 136:
    several glyphs).
    """
    image = Image.new("RGB", (GLYPH, GLYPH), "white")
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font, embedded_color=True)
    at = ((GLYPH - (right - left)) / 2 - left, (GLYPH - (bottom - top)) / 2 - top)
    draw.text(at, text, font=font, embedded_color=True)
    return image, right - left


def plain(name: str) -> str:
    """Lower-case words of letters and digits: ':flag_Côte_d’Ivoire:' to 'flag cte divoire'."""
    return re.sub(r"[^a-z0-9 ]", "", name.strip(":").replace("_", " ").replace("-", " ").lower())


def draw_all() -> tuple[np.ndarray, list[str], list[str]]:
    """Images (1922, 64, 64, 3) uint8, their names, and their characters, in the order of the
    `emoji` package.
    """
    font = ImageFont.truetype(str(FONT), 109)
    pictures, names, texts = [], [], []
    for text, entry in emoji.EMOJI_DATA.items():
        if entry["status"] != FULLY_QUALIFIED or "skin_tone" in entry["en"]:
            continue
        image, width = draw_glyph(text, font)
        if width == GLYPH:
            pictures.append(np.asarray(image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)))
            names.append(plain(entry["en"]))
            texts.append(text)
    return np.stack(pictures), names, texts


def load(cache: Path) -> tuple[np.ndarray, list[str], list[str]]:
    """What `draw_all` returns, drawn at the first call and kept in `cache`."""
    path = cache / "pictures.npz"
    if not path.exists():
        pictures, names, texts = draw_all()
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(path, pictures=pictures, names=np.array(names), texts=np.array(texts))
    kept = np.load(path)
    return kept["pictures"], [str(n) for n in kept["names"]], [str(t) for t in kept["texts"]]


def shrink(pictures: np.ndarray, size: int) -> np.ndarray:
    """The same images at size x size (uint8 in and out)."""
    return np.stack(
        [
            np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.LANCZOS))
            for p in pictures
        ]
    )
