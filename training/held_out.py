"""Which emoji emoji-sd and emoji-dit never see: 200 names over Unicode's groups, in
assets/prompts/held-out.txt.

Evaluation needs names that no part of a model was trained on (docs/methods.md). The file is the
truth, so that a newer font or CLDR does not change what "unseen" means; `choose` says how it was
made."""

import random
from pathlib import Path

import numpy as np

from training import captions, compositions, labels, pictures
from training.prompts import COMPOSITIONS


PROMPTS = Path(__file__).parent.parent / "assets" / "prompts"
FILE = PROMPTS / "held-out.txt"
COUNT = 200
# root mean square difference of two images, of 255, below which one shows what the other does
SAME_PICTURE = 12.0


def read() -> frozenset[str]:
    """The names in the file."""
    return frozenset(FILE.read_text("utf-8").split("\n")) - {""}


def find_trained(names: list[str]) -> list[int]:
    """Numbers of the emoji that may be trained on; raises ValueError if the file names one that
    is not there.
    """
    plain, held = [" ".join(name.split()) for name in names], read()
    if missing := held - set(plain):
        raise ValueError(f"{FILE}: no emoji is called {', '.join(sorted(missing))}")
    return [number for number, name in enumerate(plain) if name not in held]


def group_of(text: str, groups: dict[tuple[str, str], set[str]]) -> str:
    """The Unicode group of an emoji: that of its first character that has one, flags and keycaps
    included.
    """
    for character in text:
        for (group, _), characters in groups.items():
            if character in characters:
                return group
    return "Flags" if "\U0001f1e6" <= text[0] <= "\U0001f1ff" else "Symbols"


def find_twins(images: np.ndarray) -> set[int]:
    """Numbers of images that another one nearly equals, such as the flags of Norway and Bouvet
    Island.

    Shapes: `images` (n, h, w, 3) uint8.
    """
    small = pictures.shrink(images, 16).reshape(len(images), -1).astype(np.float32)
    squares = (small**2).sum(1)
    distance = np.maximum(squares[:, None] + squares[None, :] - 2 * small @ small.T, 0)
    np.fill_diagonal(distance, np.inf)
    return set(np.flatnonzero(np.sqrt(distance.min(1) / small.shape[1]) < SAME_PICTURE).tolist())


def find_candidates(images: np.ndarray, names: list[str], texts: list[str]) -> list[int]:
    """Numbers of emoji that may be held out: no shipped prompt or composition names them, and
    nothing else shows them.

    A name that is another emoji's keyword or short name would be learned with that one's image.
    """
    subjects = captions.describe(names, texts)
    said: dict[str, set[int]] = {}
    for number, subject in enumerate(subjects):
        for text in {subject.name, subject.short_name, *subject.keywords}:
            said.setdefault(text, set()).add(number)
    files = [(PROMPTS / file).read_text("utf-8") for file in ("default.txt", "names.txt")]
    shipped = {line.strip() for text in files for line in text.splitlines()}
    composed = {word for prompt in COMPOSITIONS for word in prompt.split()}
    twins = find_twins(images)
    return [
        number
        for number, subject in enumerate(subjects)
        if subject.name not in shipped
        and compositions.short_form(subject.name) not in composed
        and len(said[subject.name]) == 1
        and number not in twins
    ]


def choose(
    images: np.ndarray, names: list[str], texts: list[str], count: int = COUNT, seed: int = 2026
) -> list[str]:
    """`count` names, as many from each Unicode group as its part of all emoji (largest remainders),
    drawn by `seed`.

    Shapes: `images` (n, h, w, 3) uint8, `names` and `texts` of n.
    """
    groups = labels.read()
    group = [group_of(text, groups) for text in texts]
    wanted = {g: count * group.count(g) / len(names) for g in sorted(set(group))}
    shares = {g: int(part) for g, part in wanted.items()}
    for g in sorted(wanted, key=lambda g: shares[g] - wanted[g])[: count - sum(shares.values())]:
        shares[g] += 1
    chance, candidates, chosen = random.Random(seed), find_candidates(images, names, texts), []
    for g, share in shares.items():
        chosen += chance.sample([k for k in candidates if group[k] == g], share)
    return [" ".join(names[k].split()) for k in sorted(chosen)]


def write(cache: Path) -> None:
    """Choose anew and write the file."""
    FILE.write_text("\n".join(choose(*pictures.load(cache))) + "\n", "utf-8")
