import json

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
)

from dmq.errors import DmqError
from dmq.models import clip
from dmq.models.clip import load_clip
from dmq.models.loading import MODELS
from training.prompts import COMPOSITIONS


PROMPTS = ["cat", "dog and cat", "a dog that is longer than eight tokens can hold"]


def tiny_clip():
    """A CLIPModel of 25 thousand weights for 32x32 images and 8 tokens, and its processor."""
    torch.manual_seed(0)
    size = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = {
        **size,
        "vocab_size": 6,
        "max_position_embeddings": 8,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    vision = {**size, "image_size": 32, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    words = Tokenizer(
        models.WordLevel({"<": 0, ">": 1, "?": 2, "cat": 3, "dog": 4, "and": 5}, unk_token="?")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="< $A >", special_tokens=[("<", 0), (">", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<", eos_token=">", pad_token=">"
    )
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return model.eval(), CLIPProcessor(CLIPImageProcessorPil(**size), tokenizer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "tiny-clip"
    for part in tiny_clip():
        part.save_pretrained(path)
    return path


@pytest.fixture
def copied(folder, tmp_path):
    """The files of `folder` in a place where they may be changed."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def images(*shapes):
    """Smooth images: on noise, two resizers differ by more than rounding."""
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)) for _ in shapes]
    return [
        np.asarray(image.resize(shape[::-1], Image.Resampling.BICUBIC))
        for image, shape in zip(coarse, shapes, strict=True)
    ]


def test_images_reach_the_tower_as_from_transformers_own_processor(folder):
    drawn, (_, processor) = images((32, 32), (64, 64), (48, 80), (16, 16)), tiny_clip()
    expected = [
        processor(images=Image.fromarray(p), return_tensors="pt").pixel_values[0] for p in drawn
    ]
    found = load_clip(str(folder)).pixels(drawn)
    assert found.shape == (4, 3, 32, 32)
    assert torch.allclose(found[0], expected[0], atol=1e-5)  # nothing to resize
    assert (
        found - torch.stack(expected)
    ).abs().max() < 3 / 255 / 0.26  # transformers rounds to bytes between


def test_match_is_the_cosine_that_the_model_itself_gives(folder, monkeypatch):
    monkeypatch.setattr(clip, "BATCH", 2)
    model, processor = tiny_clip()
    drawn = images((32, 32), (32, 32), (32, 32))
    made = processor(
        text=PROMPTS,
        images=[Image.fromarray(p) for p in drawn],
        padding=True,
        truncation=True,
        max_length=8,
        return_tensors="pt",
    )
    with torch.no_grad():
        expected = 100 * model(**made).logits_per_image.diag() / model.logit_scale.exp()
    found = load_clip(str(folder)).match(drawn, PROMPTS)
    assert found.dtype == np.float32 and np.allclose(found, expected.numpy(), atol=1e-3)
    assert found.std() > 0


def test_features_are_the_image_towers_own_and_not_normalised(folder):
    model, processor = tiny_clip()
    drawn = images((32, 32), (32, 32))
    with torch.no_grad():
        expected = model.vision_model(
            **processor(images=[Image.fromarray(p) for p in drawn], return_tensors="pt")
        )
    found = load_clip(str(folder)).features(drawn)
    assert found.dtype == np.float32 and found.shape == (2, 16)
    assert np.allclose(found, expected.pooler_output.numpy(), atol=1e-4)
    assert not np.allclose(np.linalg.norm(found, axis=1), 1, atol=0.1)


def test_no_images_give_no_rows(folder):
    loaded = load_clip(str(folder))
    assert loaded.features([]).shape == (0, 16) and loaded.match([], []).shape == (0,)


def test_wrong_calls_say_what_was_given(folder):
    loaded, drawn = load_clip(str(folder)), images((32, 32))
    with pytest.raises(ValueError, match="1 images for 2 prompts"):
        loaded.match(drawn, ["cat", "dog"])
    with pytest.raises(ValueError, match=r"expected uint8 \[H, W, 3\], got float64 \[32, 32, 3\]"):
        loaded.features([drawn[0] / 255])


def test_a_model_is_loaded_once_quietly_and_read_only(folder, capfd):
    clip._load.cache_clear()
    loaded = load_clip(str(folder))
    assert load_clip(str(folder)) is loaded and loaded.name == str(folder)
    assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())
    assert "".join(capfd.readouterr()) == ""


def test_emoji_clip_tells_prompts_apart_on_what_emoji_sd_drew():
    """32 compositions in the order of `COMPOSITIONS`; about 19 of them are what was asked for."""
    sheet = np.asarray(Image.open(MODELS / "emoji-sd" / "compositions.png").convert("RGB"))
    drawn = [sheet[y : y + 64, x : x + 64] for y in range(0, 256, 64) for x in range(0, 512, 64)]
    loaded = load_clip()
    assert loaded.size == 64 and loaded.features(drawn[:2]).shape == (2, 192)
    own = loaded.match(drawn, COMPOSITIONS)
    other = loaded.match(drawn, COMPOSITIONS[16:] + COMPOSITIONS[:16])
    assert own.mean() > other.mean() + 20
    assert (own > other).mean() > 0.8


def pickled(path):
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def more_layers(path):
    config = json.loads((path / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (path / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda path: (path / "config.json").unlink(), "holds no config.json"),
        (lambda path: (path / "config.json").write_text("["), "cannot be read"),
        (lambda path: BertConfig().save_pretrained(path), "of a 'bert' model, expected 'clip'"),
        (pickled, r"pytorch_model\.bin: is a pickle"),
        (lambda path: (path / "model.py").touch(), r"carries code \(model\.py\)"),
        (lambda path: (path / "model.safetensors").write_bytes(b"nonsense"), "cannot be read"),
        (lambda path: (path / "model.safetensors").unlink(), "cannot be read"),
        (lambda path: (path / "tokenizer.json").unlink(), "cannot be read"),
        (lambda path: (path / "processor_config.json").unlink(), "cannot be read"),
        (more_layers, "no weights for text_model.* Save the model again"),
    ],
    ids=[
        "no config",
        "broken config",
        "another model",
        "pickle",
        "code",
        "broken weights",
        "no weights",
        "no tokenizer",
        "no processor",
        "missing layer",
    ],
)
def test_folders_that_are_no_safe_clip_give_one_line(copied, change, message):
    change(copied)
    with pytest.raises(DmqError, match=message) as caught:
        load_clip(str(copied))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["emoji-clap", "no such thing", "/nowhere/at/all"])
def test_unknown_names_give_one_line(name):
    with pytest.raises(
        DmqError, match="not emoji-clip, no folder of a CLIP model and no Hub id"
    ) as caught:
        load_clip(name)
    assert "\n" not in str(caught.value)


def test_a_hub_id_is_looked_for_here_first_and_without_network_gives_one_line(monkeypatch):
    asked = []

    def offline(source, **options):
        asked.append(options["local_files_only"])
        raise OSError("We couldn't connect to 'https://huggingface.co'. Try later.\nMore.")

    monkeypatch.setattr(clip.AutoConfig, "from_pretrained", offline)
    with pytest.raises(
        DmqError, match=r"owner/name: cannot be fetched .*Check name and network"
    ) as caught:
        load_clip("owner/name")
    assert asked == [True, False] and "\n" not in str(caught.value)


def test_a_hub_id_of_another_model_is_refused_before_its_weights_are_read(monkeypatch):
    monkeypatch.setattr(clip.AutoConfig, "from_pretrained", lambda source, **options: BertConfig())
    with pytest.raises(DmqError, match="owner/name: is of a 'bert' model, expected 'clip'"):
        load_clip("owner/name")
