"""What an image is called: its name, the keywords of Unicode's CLDR, and ways people shorten or
misspell both.
"""

import random
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from training.pictures import plain


CLDR = Path("/usr/share/unicode/cldr/common")
VARIATION_SELECTOR = "\ufe0f"


@dataclass(frozen=True)
class Subject:
    """One image's name, its CLDR short name and its CLDR keywords, all in plain words."""

    name: str
    short_name: str
    keywords: tuple[str, ...]


def read_annotations() -> dict[str, tuple[str, list[str]]]:
    """Character (without variation selectors) to CLDR short name and keywords."""
    short_names, keywords = {}, {}
    for folder in ("annotations", "annotationsDerived"):
        for entry in ElementTree.parse(CLDR / folder / "en.xml").iter("annotation"):
            text = entry.get("cp").replace(VARIATION_SELECTOR, "")
            if entry.get("type") == "tts":
                short_names[text] = " ".join(plain(entry.text).split())
            else:
                keywords[text] = [" ".join(plain(k).split()) for k in entry.text.split("|")]
    return {
        text: (short_names.get(text, ""), keywords.get(text, [])) for text in short_names | keywords
    }


def describe(names: list[str], texts: list[str]) -> list[Subject]:
    """A Subject for each image; one that CLDR does not know has its name only."""
    annotations = read_annotations()
    subjects = []
    for name, text in zip(names, texts, strict=True):
        short_name, keywords = annotations.get(text.replace(VARIATION_SELECTOR, ""), ("", []))
        name = " ".join(name.split())
        subjects.append(
            Subject(name, short_name or name, tuple(k for k in keywords if k and k != name))
        )
    return subjects


def misspell(caption: str, chance: random.Random) -> str:
    """The caption with one letter of one word left out, doubled or changed; teaches the pieces
    of unseen words.
    """
    words = caption.split()
    which = chance.randrange(len(words))
    word = words[which]
    at = chance.randrange(len(word))
    new = chance.choice(("", word[at] * 2, chance.choice("abcdefghijklmnopqrstuvwxyz")))
    words[which] = word[:at] + new + word[at + 1 :]
    return " ".join(words)


def shorten(caption: str, chance: random.Random) -> str:
    """The caption without one of its words; one word stays as it is."""
    words = caption.split()
    if len(words) > 1:
        del words[chance.randrange(len(words))]
    return " ".join(words)


def choose(subject: Subject, chance: random.Random) -> str:
    """A caption drawn for one showing of an image: two thirds of the time its name, one time in
    ten nothing.
    """
    draw = chance.random()
    if draw < 0.10:
        return ""
    if draw < 0.76 or (draw < 0.93 and not subject.keywords):
        return subject.name
    if draw < 0.83:
        pair = [subject.name, chance.choice(subject.keywords)]
        chance.shuffle(pair)
        return " ".join(pair)
    if draw < 0.89:
        return " ".join(
            chance.sample(subject.keywords, min(len(subject.keywords), chance.randint(1, 3)))
        )
    if draw < 0.93:
        return subject.short_name
    if draw < 0.97:
        return shorten(subject.name, chance)
    return misspell(subject.name, chance)
