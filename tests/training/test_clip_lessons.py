"""Needs what `make train` needs: the emoji package, and Unicode's keywords from the Debian
package.
"""

import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from dmq.models.loading import MODELS


pytest.importorskip("emoji")

from training import captions, clip_lessons, compositions, score_clip
from training.clip_lessons import Composition, Lessons, mirrors, paraphrase, variations


EMOJI = {
    "pear": "🍐",
    "tiger": "🐅",
    "lemon": "🍋",
    "red apple": "🍎",
    "dog face": "🐶",
    "left arrow": "⬅",
    "rocket": "🚀",
    "balloon": "🎈",
    "carrot": "🥕",
    "tulip": "🌷",
    "apple": "🍏",
}


def disc(hue):
    """A disc in one colour on white, (64, 64, 3)."""
    image = Image.new("HSV", (64, 64), (0, 0, 255))
    ImageDraw.Draw(image).ellipse((8, 8, 56, 56), fill=(hue, 220, 200))
    return np.asarray(image.convert("RGB"))


IMAGES = np.stack([disc(20 * k) for k in range(len(EMOJI))])


@pytest.fixture(scope="module")
def lessons(tmp_path_factory):
    if not captions.CLDR.exists():
        pytest.skip("needs unicode-cldr-core")
    cache = tmp_path_factory.mktemp("cache")
    np.savez(
        cache / "pictures.npz",
        pictures=IMAGES,
        names=np.array(list(EMOJI)),
        texts=np.array(list(EMOJI.values())),
    )
    return Lessons(cache, MODELS)


def test_variations_are_what_their_captions_say():
    chance, names = random.Random(0), list(EMOJI)
    rows = variations(4, names, [0, 1, 2, 4], IMAGES, chance)
    made = {composition.caption: (composition, picture) for composition, picture in rows}
    assert {f"{colour} dog" for colour in compositions.HUES} <= set(made)
    assert made["small dog"][1].min(2)[:14].min() == 255 > made["small dog"][1][32, 32].min()
    for colour, channel in (("red dog", 0), ("green dog", 1), ("blue dog", 2)):
        assert made[colour][1][32, 32].argmax() == channel
    assert (made["dog with eyes"][1] != IMAGES[4]).any()
    assert sum(composition.kind == "pair" for composition, _ in made.values()) == clip_lessons.PAIRS
    assert all(
        len(composition.subjects) == 1 + (composition.kind == "pair")
        for composition, _ in made.values()
    )


def test_paraphrases_keep_the_words_that_tell():
    chance = random.Random(0)
    told = {paraphrase("small red dog with eyes", chance) for _ in range(200)}
    assert len(told) > 10 and all({"red", "dog", "eyes"} <= set(text.split()) for text in told)
    assert {"tiny", "little", "small"} <= {w for t in told for w in t.split()}
    assert all(
        text.index("cat") < text.index("dog")
        for text in (paraphrase("cat and dog", chance) for _ in range(50))
    )


@pytest.mark.parametrize(
    "name, expected", [("dog face", True), ("left arrow", False), ("three oclock", False)]
)
def test_what_has_sides_is_not_mirrored(name, expected):
    assert mirrors(name) is expected


def test_nothing_held_out_is_trained_on(lessons):
    assert len(lessons.held) == 1 and 0 < len(lessons.untold) < 0.2 * len(lessons.composed)
    early, late = (
        {k for group in lessons.groups(everything) for k in group} for everything in (False, True)
    )
    assert early < late
    assert not early & set(lessons.untold) and not late & set(lessons.untold)
    assert not any(set(lessons.held) & set(lessons.composed[k].subjects) for k in early)
    assert any(set(lessons.held) & set(lessons.composed[k].subjects) for k in late)


def test_compositions_are_told_once_and_never_as_an_emoji(lessons):
    told = [composition.caption for composition in lessons.composed]
    assert len(told) == len(set(told)) and "red apple" not in told and "blue pear" in told
    assert not any("left" in caption for caption in told)


def test_pictures_come_drawn_and_decoded(lessons):
    assert lessons.pictures.shape == (2, len(EMOJI) + len(lessons.composed), 64, 64, 3)
    assert np.array_equal(lessons.pictures[0, : len(EMOJI)], IMAGES)
    difference = np.abs(lessons.pictures[1].astype(int) - lessons.pictures[0]).mean()
    assert 0.5 < difference < 20
    shown = lessons.show([0, 3, 20], torch.Generator().manual_seed(0))
    assert shown.shape == (3, 3, 64, 64) and 0 <= shown.min() and shown.max() <= 1


def test_a_batch_shows_held_out_emoji_only_with_everything(lessons, monkeypatch):
    monkeypatch.setattr(clip_lessons, "PLAIN", 8)
    monkeypatch.setattr(clip_lessons, "GROUPS", 2)
    shown = []

    def show(numbers, generator):
        shown.extend(numbers)
        return torch.ones(len(numbers), 3, 64, 64)

    monkeypatch.setattr(lessons, "show", show)
    model = clip_lessons.clip.new_model(len(lessons.tokenizer))
    for everything in (False, True):
        shown.clear()
        loss_of = clip_lessons.loss_with(lessons, model, everything)
        for step in range(6):
            loss, _ = loss_of(torch.Generator().manual_seed(step))
        subjects = {
            s for k in shown if k >= len(EMOJI) for s in lessons.composed[k - len(EMOJI)].subjects
        }
        assert loss.requires_grad
        assert bool(set(lessons.held.tolist()) & (set(shown) | subjects)) is everything


def test_retrieval_counts_against_a_slow_search():
    rng = np.random.default_rng(0)
    pictures = torch.from_numpy(rng.normal(size=(30, 8)))
    captions_, own = (
        pictures + torch.from_numpy(rng.normal(size=(30, 8))),
        torch.tensor([3, 9, 21, 22, 28]),
    )
    found = score_clip.retrieval(pictures, captions_, own)

    def hits(rows, columns, among):
        order = [
            sorted(range(30), key=lambda c: -float(rows[k] @ columns[c]))[:among]
            for k in own.tolist()
        ]
        return sum(k in best for k, best in zip(own.tolist(), order, strict=True))

    assert found["of"] == 5 and found["among"] == 30
    assert (found["caption_top1"], found["caption_top5"]) == tuple(
        hits(pictures, captions_, n) for n in (1, 5)
    )
    assert (found["picture_top1"], found["picture_top5"]) == tuple(
        hits(captions_, pictures, n) for n in (1, 5)
    )
    assert 0 < found["caption_top1"] < 5 or found["caption_top1"] < found["caption_top5"]


@pytest.mark.parametrize(
    "caption, kind, expected",
    [
        ("red dog", "colour", "gray dog"),
        ("small red dog", "two", "small blue dog"),
        ("dog with eyes", "eyes", "dog"),
        ("small dog", "small", "dog"),
        ("dog and cat", "pair", "dog and pear"),
    ],
)
def test_wrong_captions_differ_in_the_attribute_only(caption, kind, expected):
    wrong = score_clip.others(Composition((0,), caption, kind), ["cat", "dog", "pear"])
    assert expected in wrong and caption not in wrong
