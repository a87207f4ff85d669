"""emoji-clip, what it learns from: emoji and compositions with captions, each also as emoji-sd's
autoencoder shows it.

One emoji in ten is held out until the held-out figures are measured; some compositions are never
trained on."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel

from training import captions, clip, compositions, pictures, vae
from training.loop import Schedule, train
from training.prompts import COMPOSITIONS


PLAIN, GROUPS, VARIATIONS = 80, 12, 4  # a batch: emoji, and subjects with so many compositions each
PAIRS = 3  # compositions with another emoji, for each subject
LATENT_NOISE = 0.25  # the most noise on a latent before it is decoded, in deviations of the latents
FINISH = 0.65  # the part of the steps without the held-out emoji
MIRRORED = {
    "left",
    "right",
    "leftwards",
    "rightwards",
    "oclock",
    "thirty",
    "arrow",
    "arrows",
    "flag",
    "button",
    "sign",
    "keycap",
    "clockwise",
    "counterclockwise",
    "moon",
    "crescent",
    "letter",
    "letters",
    "latin",
    "input",
    "symbols",
    "numbers",
    "japanese",
    "quarter",
    "back",
    "soon",
    "top",
    "end",
    "on",
    "abcd",
    "mark",
    "divide",
    "check",
    "slash",
}


@dataclass(frozen=True)
class Composition:
    """An image made from emoji `subject` (and maybe another): which, its caption and what kind
    it is.
    """

    subjects: tuple[int, ...]
    caption: str
    kind: str  # "colour", "eyes", "small", "pair", "two" (two changes at once)


Made = tuple[Composition, np.ndarray]


def variations(
    number: int, names: list[str], fit: list[int], images: np.ndarray, chance: random.Random
) -> list[Made]:
    """Every (Composition, image) of one subject; colours that change too little of it are left
    out.
    """
    name, picture = compositions.short_form(names[number]), images[number]
    recoloured = {colour: compositions.recolour(picture, colour) for colour in compositions.COLOURS}
    recoloured = {colour: made for colour, made in recoloured.items() if made is not None}
    rows = [((number,), f"{colour} {name}", "colour", made) for colour, made in recoloured.items()]
    rows.append(((number,), f"{name} with eyes", "eyes", compositions.with_eyes(picture)))
    rows.append(
        ((number,), f"small {name}", "small", compositions.place([picture], 32, [(16, 16)]))
    )
    for colour in chance.sample(sorted(recoloured), min(1, len(recoloured))):
        made = compositions.with_eyes(recoloured[colour])
        rows.append(((number,), f"{colour} {name} with eyes", "two", made))
        small = compositions.place([recoloured[colour]], 32, [(16, 16)])
        rows.append(((number,), f"small {colour} {name}", "two", small))
    for other in chance.sample([k for k in fit if k != number], PAIRS):
        both = compositions.place([picture, images[other]], 32, [(0, 16), (32, 16)])
        rows.append(
            ((number, other), f"{name} and {compositions.short_form(names[other])}", "pair", both)
        )
    return [
        (Composition(subjects, caption, kind), made)
        for subjects, caption, kind, made in rows
        if made is not None
    ]


def paraphrase(caption: str, chance: random.Random) -> str:
    """The caption in other words that mean the same: 'small dog' as 'a tiny dog', 'and' as 'next
    to'.
    """
    caption = caption.replace("small ", chance.choice(("small ", "little ", "tiny ")), 1)
    caption = caption.replace(" and ", chance.choice((" and ", " next to ", " beside ")), 1)
    caption = caption.replace(
        "with eyes", chance.choice(("with eyes", "with two eyes", "that has eyes")), 1
    )
    before, after = chance.choice(
        (("a ", ""), ("the ", ""), ("", " emoji"), ("picture of ", ""), ("", ""))
    )
    return before + caption + after


@torch.no_grad()
def through(autoencoder: AutoencoderKL, images: np.ndarray, seed: int) -> np.ndarray:
    """Images (uint8) as the autoencoder gives them back from latents with a little noise,
    drawn for each.
    """
    generator, parts = torch.Generator().manual_seed(seed), []
    for i in range(0, len(images), 64):
        latents = autoencoder.encode(vae.to_tensor(images[i : i + 64])).latent_dist.mean
        amount = torch.rand(len(latents), 1, 1, 1, generator=generator) * LATENT_NOISE
        noise = torch.randn(latents.shape, generator=generator) / autoencoder.config.scaling_factor
        out = autoencoder.decode(latents + amount * noise).sample
        parts.append(((out.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(parts).numpy()


def mirrors(name: str) -> bool:
    """Whether a mirrored image still is what the name says: no sides, clocks, letters or
    flags.
    """
    return not MIRRORED & set(name.split())


class Lessons:
    """Images (2, n, 64, 64, 3), drawn and decoded: first emoji, then compositions; captions; what
    is held out.

    `held` are numbers of emoji, `untold` numbers of compositions (both arrays); `untold` has
    prompts.py's too."""

    def __init__(self, cache: Path, models: Path):
        images, names, texts = pictures.load(cache)
        self.subjects = captions.describe(names, texts)
        self.names = [s.name for s in self.subjects]
        self.emoji = len(images)
        self.held = np.sort(
            np.random.RandomState(11).choice(self.emoji, self.emoji // 10, replace=False)
        )
        made = self._compose(images, texts)
        self.composed = [composition for composition, _ in made]
        drawn = np.random.RandomState(12).rand(len(made)) < 0.06
        self.untold = np.flatnonzero(
            drawn | np.array([c.caption in COMPOSITIONS for c in self.composed])
        )
        every = np.concatenate([images, np.stack([picture for _, picture in made])])
        self.pictures = self._decode(cache, models, every)
        self.tokenizer = AutoTokenizer.from_pretrained(models / "emoji-sd" / "tokenizer")
        self.may_flip = torch.tensor(
            [mirrors(text) for text in [*self.names, *(c.caption for c in self.composed)]]
        )

    def _compose(self, images: np.ndarray, texts: list[str]) -> list[Made]:
        chance, taken, made = random.Random(0), set(self.names), []
        fit = [
            i for i, name in enumerate(self.names) if compositions.is_plain_subject(name, texts[i])
        ]
        for number in fit:
            for composition, picture in variations(number, self.names, fit, images, chance):
                if composition.caption not in taken:
                    taken.add(composition.caption)
                    made.append((composition, picture))
        return made

    @staticmethod
    def _decode(cache: Path, models: Path, drawn: np.ndarray) -> np.ndarray:
        path = cache / "clip-pictures.npz"
        if not path.exists():
            autoencoder = (
                AutoencoderKL.from_pretrained(models / "emoji-sd", subfolder="vae").float().eval()
            )
            np.savez(path, decoded=through(autoencoder, drawn, 0))
        return np.stack([drawn, np.load(path)["decoded"]])

    def groups(self, everything: bool) -> list[list[int]]:
        """Numbers of compositions to train on, by subject; of held-out emoji only with
        `everything`.
        """
        held, untold, groups = (
            set() if everything else set(self.held.tolist()),
            set(self.untold.tolist()),
            {},
        )
        for k, composition in enumerate(self.composed):
            if k not in untold and not held & set(composition.subjects):
                groups.setdefault(composition.subjects[0], []).append(k)
        return [group for group in groups.values() if len(group) >= VARIATIONS]

    def caption(self, number: int, chance: random.Random) -> str:
        """A caption for image `number`, drawn anew for every showing."""
        if number < self.emoji:
            text = captions.choose(self.subjects[number], chance) or self.names[number]
        else:
            text = self.composed[number - self.emoji].caption
        return paraphrase(text, chance) if chance.random() < 0.3 else text

    def show(self, numbers: list[int], generator: torch.Generator) -> Tensor:
        """Images (n, 3, 64, 64), 0 to 1, drawn or decoded by chance, and degraded."""
        versions = torch.randint(0, 2, (len(numbers),), generator=generator).numpy()
        chosen = (
            torch.from_numpy(self.pictures[versions, numbers]).permute(0, 3, 1, 2).float() / 255
        )
        return clip.degrade(chosen, self.may_flip[numbers], generator)


def run(
    cache: Path, models: Path, schedule: Schedule, measure: Callable[[Path, "Lessons"], None]
) -> None:
    """Train emoji-clip without the held-out emoji, let `measure` score those, then train with
    all to the end.
    """
    lessons = Lessons(cache, models)
    model, checkpoint = clip.open_run(cache, schedule.seed, len(lessons.tokenizer))
    model.train()
    first = replace(schedule, steps=round(FINISH * schedule.steps))
    for part, everything in ((first, False), (schedule, True)):
        train(checkpoint, part, loss_with(lessons, model, everything))
        if not everything and checkpoint.step == first.steps:
            measure(cache, lessons)


def loss_with(lessons: Lessons, model: CLIPModel, everything: bool) -> Callable:
    """What `train` calls: one batch's loss.

    With `everything`, held-out emoji are shown thrice as often.
    """
    held = set(lessons.held.tolist())
    plain = [k for k in range(lessons.emoji) if everything or k not in held]
    plain += 2 * sorted(held) if everything else []
    groups = lessons.groups(everything)

    def loss_of(generator: torch.Generator) -> tuple[Tensor, float]:
        chance = random.Random(int(torch.randint(0, 2**31, (1,), generator=generator)))
        numbers = list(dict.fromkeys(chance.sample(plain, PLAIN)))
        for group in chance.sample(groups, GROUPS):
            numbers += [lessons.emoji + k for k in chance.sample(group, VARIATIONS)]
        ids = clip.tokens(lessons.tokenizer, [lessons.caption(k, chance) for k in numbers])
        pixels = clip.to_input(lessons.show(numbers, generator))
        return clip.contrastive_loss(clip.agreement(model, pixels, ids), model.logit_scale)

    return loss_of
