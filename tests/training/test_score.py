"""What is scored: trained names apart from held-out ones, and what the cards say of both."""

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from training import card_texts, cards, held_out, score, vae


@pytest.fixture(scope="module")
def names():
    """1,922 names with all that are held out among them, as the emoji have."""
    held = sorted(held_out.read())
    return [held[k // 9] if k % 9 == 0 and k // 9 < len(held) else f"name {k}" for k in range(1922)]


def test_names_that_are_scored_were_trained_on(names):
    chosen = score.scored_names(names)
    held = held_out.read()
    assert len(set(chosen.tolist())) == 256 and not {names[k] for k in chosen} & held
    assert np.array_equal(chosen, score.scored_names(names)), "the same each time"


def test_held_out_names_are_all_the_others(names):
    unseen = score.held_out_names(names)
    assert {names[k] for k in unseen} == held_out.read() and len(unseen) == len(held_out.read())


def test_found_counts_the_nearest_and_the_nearest_five():
    real = np.zeros((8, 16, 16, 3), np.uint8)
    real += np.arange(0, 240, 30, dtype=np.uint8)[:, None, None, None]
    made = torch.from_numpy(real[[0, 3, 7, 7]]).permute(0, 3, 1, 2).float() / 255
    figures = score.found(made, real, np.array([0, 4, 7, 0]))
    assert figures == {"names": 4, "top1": 0.5, "top5": 0.75}


class Painter:
    """A pipeline that has learned its images by heart, but for those that were held out: these
    come out black.
    """

    def __init__(self, autoencoder, names, images):
        self.vae, self.images = autoencoder, dict(zip(names, images, strict=True))
        for name in held_out.read():
            self.images[name] = np.zeros_like(images[0])

    def __call__(self, prompts, **_):
        made = [self.images.get(prompt, np.zeros((64, 64, 3), np.uint8)) for prompt in prompts]
        images = torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float() / 255
        return type("Made", (), {"images": images})


def test_trained_and_held_out_names_are_scored_apart(names, tmp_path, monkeypatch):
    torch.manual_seed(0)
    some = [*score.scored_names(names)[:64], *score.held_out_names(names)[:64]]
    few = [names[k] for k in some]
    images = np.random.default_rng(0).integers(1, 256, (len(few), 64, 64, 3), np.uint8)
    autoencoder = AutoencoderKL(block_out_channels=(32,), norm_num_groups=8).eval()
    monkeypatch.setattr(score.pictures, "load", lambda _: (images, few, few))
    monkeypatch.setattr(held_out, "read", lambda: frozenset(few[64:]))
    monkeypatch.setattr(score, "scored_names", lambda _: np.arange(64))
    monkeypatch.setattr(score, "open_pipeline", lambda _: Painter(autoencoder, few, images))
    with torch.no_grad():
        figures = score.score_prompted(tmp_path, tmp_path, 2)
        apart = vae.mean_psnr(autoencoder, images[:64]), vae.mean_psnr(autoencoder, images[64:])
    assert (
        figures["top1"] == 1 and figures["held_out_top1"] < 0.1 and figures["held_out_names"] == 64
    )
    assert (figures["psnr_db"], figures["held_out_psnr_db"]) == tuple(
        round(one, 2) for one in apart
    )
    assert (tmp_path / "samples.png").is_file() and (tmp_path / "compositions.png").is_file()


FIGURES = {
    "psnr_db": 31.25,
    "held_out_psnr_db": 29.5,
    "names": 256,
    "top1": 0.93,
    "top5": 0.97,
    "held_out_names": 200,
    "held_out_top1": 0.03,
    "held_out_top5": 0.11,
}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The cards of emoji-sd and emoji-dit from figures that are made up."""
    cache, models = tmp_path / "cache", tmp_path / "models"
    cache.mkdir()
    run = {"losses": [(1, 1.0, 1.0), (2, 2.0, 0.5)], "seed": 0, "step": 2, "seconds": 60}
    monkeypatch.setattr(cards, "read_run", lambda _: run)
    for name in ("emoji-sd", "emoji-dit"):
        (models / name / "tokenizer").mkdir(parents=True)
        (models / name / "tokenizer" / "tokenizer.json").write_text(
            '{"model": {"vocab": {"a": 0}}}'
        )
        (cache / f"{name}-figures.json").write_text(json.dumps(FIGURES))
    cards.write_emoji_sd(cache, models / "emoji-sd", "random weights")
    cards.write_emoji_dit(cache, models / "emoji-dit")
    return {name: (models / name / "README.md").read_text() for name in ("emoji-sd", "emoji-dit")}


@pytest.mark.parametrize("name", ["emoji-sd", "emoji-dit"])
def test_cards_tell_what_was_held_out(written, name):
    card = written[name]
    count = len(held_out.read())
    assert f"{count} emoji of the 1,922" in card and "assets/prompts/held-out.txt" not in card
    assert "(../../prompts/held-out.txt)" in card
    assert "knows the 1,922" not in card and "{" not in card
    for line in ("held-out names (200): nearest", "held-out names: prompted one among"):
        row = next(row for row in card.splitlines() if row.startswith(f"| {line}"))
        assert ("3.0%" in row) == ("nearest" in line) and ("11.0%" in row) == ("among" in line)


def test_the_transformers_card_quotes_the_other_ones_figures(written):
    rows = [row for row in written["emoji-dit"].splitlines() if row.startswith("| ") and "%" in row]
    assert [
        row.count(figure)
        for row, figure in zip(rows, ("93.0%", "97.0%", "3.0%", "11.0%"), strict=True)
    ] == [
        2,
        2,
        2,
        2,
    ]


def test_the_judges_card_says_that_it_has_seen_all():
    assert (
        "has seen all 1,922 emoji" in " ".join(card_texts.CLIP.split())
        and "{unseen}" in card_texts.CLIP
    )
