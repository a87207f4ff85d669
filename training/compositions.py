"""Images that are no emoji, made from emoji, with captions that say what was done: colours, eyes,
pairs, sizes.

They teach that a caption's words have meanings of their own; no name says "blue dog".
"""

import random

import numpy as np
from PIL import Image, ImageDraw

from training.pictures import SIZE


HUES = {
    "red": 0,
    "orange": 20,
    "yellow": 35,
    "green": 85,
    "blue": 150,
    "purple": 195,
    "pink": 230,
}  # PIL's 0 to 255
COLOURS = (*HUES, "gray")
COLOUR_WORDS = {*COLOURS, "grey", "black", "white", "brown", "rainbow", "golden"}
UNFIT = {
    "button",
    "sign",
    "arrow",
    "oclock",
    "thirty",
    "man",
    "woman",
    "person",
    "people",
    "men",
    "women",
    "boy",
    "girl",
    "keycap",
    "square",
    "symbol",
    "input",
    "facing",
    "no",
    "couple",
    "mens",
    "womens",
    "busts",
    "bust",
    "japanese",
    "moon",
    "oncoming",
    "flag",
    "cross",
    "suit",
    "number",
    "numbers",
    "pointed",
    "index",
    "circle",
}


def is_plain_subject(name: str, text: str) -> bool:
    """Whether an image can be recoloured or paired: one character, at most two words, no colour
    and no sign.
    """
    one_character = len(text.replace("\ufe0f", "")) == 1
    words = name.split()
    return (
        one_character
        and 1 <= len(words) <= 2
        and not COLOUR_WORDS & set(words)
        and not UNFIT & set(words)
    )


def short_form(name: str) -> str:
    """'dog face' to 'dog': how people say it."""
    return name.removesuffix(" face") if name not in ("wind face", "sun with face") else name


def recolour(picture: np.ndarray, colour: str) -> np.ndarray | None:
    """The image with its main hue turned to `colour`; None where too little of it is coloured
    to be worth it.
    """
    hue, saturation, value = np.moveaxis(
        np.asarray(Image.fromarray(picture).convert("HSV")).astype(np.int32), 2, 0
    )
    drawn = picture.min(2) < 235
    coloured = drawn & (saturation > 60) & (value > 50)
    if coloured.sum() < 0.3 * max(drawn.sum(), 1):
        return None
    counts = np.bincount(hue[coloured], weights=saturation[coloured], minlength=256)
    main = int(np.argmax(sum(np.roll(counts, k) for k in range(-10, 11))))
    offset = (hue - main + 128) % 256 - 128
    turned = drawn & (np.abs(offset) < 32) & (saturation > 25)
    if turned.sum() < 0.3 * drawn.sum():
        return None
    new_hue, new_saturation = (HUES.get(colour, 0) + offset // 3) % 256, np.zeros_like(saturation)
    if colour != "gray":
        new_saturation = np.clip(
            saturation * 0.6 if colour == "pink" else saturation * 1.1 + 25, 0, 255
        )
    brighter = max(
        1.0, (210 if colour in ("pink", "yellow", "orange") else 180) / value[turned].mean()
    )
    new_value = np.clip(value * brighter, 0, 255)
    made = np.stack([new_hue, new_saturation, new_value], 2).astype(np.uint8)
    return np.where(
        turned[..., None], np.asarray(Image.fromarray(made, "HSV").convert("RGB")), picture
    )


def with_eyes(picture: np.ndarray) -> np.ndarray | None:
    """The image with two round eyes in the middle of what is drawn; None where nothing stands
    out from white.
    """
    image = Image.fromarray(picture)
    rows, columns = np.nonzero(picture.min(2) < 250)
    if len(rows) == 0:
        return None
    x, y = float(columns.mean()), float(rows.mean()) - 3
    draw = ImageDraw.Draw(image)
    for side in (-8, 8):
        draw.ellipse((x + side - 6, y - 7, x + side + 6, y + 7), fill="white", outline=(60, 60, 60))
        draw.ellipse((x + side - 3, y - 2, x + side + 3, y + 5), fill=(40, 30, 30))
    return np.asarray(image)


def place(pictures: list[np.ndarray], size: int, at: list[tuple[int, int]]) -> np.ndarray:
    """Images shrunk to `size`, each with its upper left corner at (x, y) on white."""
    image = Image.new("RGB", (SIZE, SIZE), "white")
    for picture, corner in zip(pictures, at, strict=True):
        image.paste(Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS), corner)
    return np.asarray(image)


def compose(
    pictures: np.ndarray,
    names: list[str],
    texts: list[str],
    count: int,
    left_out: set[str],
    seed: int = 0,
) -> tuple[np.ndarray, list[str]]:
    """`count` images (count, 64, 64, 3) and captions, none of them in `left_out` nor the name
    of an emoji.
    """
    chance = random.Random(seed)
    fit = [i for i, name in enumerate(names) if is_plain_subject(name, texts[i])]
    made: dict[str, np.ndarray] = {}
    taken = left_out | set(names)
    while len(made) < count:
        draw, first, second = chance.random(), chance.choice(fit), chance.choice(fit)
        name, picture = short_form(names[first]), None
        if draw < 0.4:
            colour = chance.choice(COLOURS)
            caption, picture = f"{colour} {name}", recolour(pictures[first], colour)
        elif draw < 0.6:
            caption, picture = f"{name} with eyes", with_eyes(pictures[first])
        elif draw < 0.88 and first != second:
            caption = f"{name} and {short_form(names[second])}"
            picture = place([pictures[first], pictures[second]], 32, [(0, 16), (32, 16)])
        else:
            caption, picture = f"small {name}", place([pictures[first]], 32, [(16, 16)])
        if picture is not None and caption not in taken:
            made.setdefault(caption, picture)
    return np.stack(list(made.values())), list(made)
