import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from dmq.models.clip import load_clip
from dmq.models.loading import MODELS
from training import clip
from training.loop import Checkpoint, Schedule, train


@pytest.fixture(scope="module")
def model():
    return clip.new_model(40).eval()


def batch(count):
    """Images (count, 3, 64, 64), 0 to 1, and token numbers (count, 12), all different."""
    draws = torch.Generator().manual_seed(0)
    pictures = torch.nn.functional.interpolate(torch.rand(count, 3, 4, 4, generator=draws), 64)
    ids = torch.ones(count, clip.LENGTH, dtype=torch.long)
    ids[:, 0], ids[:, 1] = 0, torch.arange(count) + 3
    return pictures, ids


def test_the_loss_is_the_mean_surprise_of_both_choices():
    cosines, scale = (
        torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.4, 0.8], [0.0, 0.1, 0.7]]),
        torch.tensor(2.0),
    )
    logits = (cosines * math.exp(2)).tolist()
    columns = [list(column) for column in zip(*logits, strict=True)]
    surprise = [
        math.log(sum(map(math.exp, row))) - row[k]
        for rows in (logits, columns)
        for k, row in enumerate(rows)
    ]
    loss, found = clip.contrastive_loss(cosines, scale)
    assert loss.item() == pytest.approx(sum(surprise) / 6, rel=1e-5)
    assert found == pytest.approx(
        (2 / 3 + 2 / 3) / 2
    )  # image 1 looks most like caption 2, caption 2 like image 1


def test_the_factor_on_cosines_stops_at_a_hundred():
    cosines = torch.eye(3) * 0.02
    at, above = (
        clip.contrastive_loss(cosines, torch.tensor(scale))[0] for scale in (clip.SHARPEST, 9.0)
    )
    assert at == above


def test_degraded_pictures_stay_on_white_and_only_some_are_mirrored():
    pictures = torch.ones(64, 3, 64, 64)
    pictures[:, :, 16:48, 8:32] = 0.2  # left of the middle
    flips = torch.arange(64) < 32
    made = clip.degrade(pictures, flips, torch.Generator().manual_seed(0))
    assert made.shape == pictures.shape and made.min() >= 0 and made.max() <= 1
    left = (1 - made)[..., :32].mean((1, 2, 3)) > (1 - made)[..., 32:].mean((1, 2, 3))
    assert left[32:].all() and 5 < left[:32].sum() < 27
    edges = made[:, :, :2].mean((1, 2, 3))
    assert edges.median() > 0.99 and edges.min() > 0.8
    assert (made - pictures).abs().mean() < 0.15
    assert torch.equal(made, clip.degrade(pictures, flips, torch.Generator().manual_seed(0)))


def test_what_is_packed_says_how_pictures_were_shown_in_training():
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    shown = clip.to_input(torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255)
    processor = CLIPImageProcessorPil.from_dict(clip.preprocessor())
    assert torch.allclose(
        processor(Image.fromarray(picture), return_tensors="pt").pixel_values, shown, atol=1e-6
    )


def test_half_precision_agrees_with_the_model_and_reaches_both_towers(model):
    pictures, ids = batch(6)
    cosines = clip.agreement(model, clip.to_input(pictures), ids)
    with torch.no_grad():
        whole = (
            model(input_ids=ids, pixel_values=clip.to_input(pictures)).logits_per_image
            / model.logit_scale.exp()
        )
    assert cosines.dtype == torch.float32 and (cosines - whole).abs().max() < 0.02
    clip.contrastive_loss(cosines, model.logit_scale)[0].backward()
    missing = [
        name
        for name, weight in model.named_parameters()
        if weight.grad is None or not weight.grad.any()
    ]
    assert missing == []
    model.zero_grad()


def test_eight_pairs_are_learnt_and_the_average_is_packed(tmp_path):
    (tmp_path / "emoji-sd").symlink_to(MODELS / "emoji-sd")
    vocabulary = clip.AutoTokenizer.from_pretrained(MODELS / "emoji-sd" / "tokenizer")
    model, checkpoint = clip.open_run(tmp_path, 0, len(vocabulary))
    pictures, ids = batch(8)

    def loss_of(generator):
        return clip.contrastive_loss(
            clip.agreement(model, clip.to_input(pictures), ids), model.logit_scale
        )

    before = loss_of(None)[0].item()
    train(checkpoint, Schedule(steps=12, rate=1e-3, muon_rate=0.01, warmup=2, average=0.5), loss_of)
    assert before > 1.9 and loss_of(None)[0].item() < 0.7 * before

    clip.pack(tmp_path, tmp_path)
    kept = Checkpoint(checkpoint.path, list(clip.new_model(len(vocabulary)).parameters()), 0)
    packed = load_clip(str(tmp_path / "emoji-clip"))
    for average, weight in zip(kept.average, packed.model.parameters(), strict=True):
        assert torch.equal(average.half().float(), weight)
    assert packed.match([np.zeros((64, 64, 3), np.uint8)], ["red apple"]).shape == (1,)
