"""The memory bench makes the model that it says, and measures what it says."""

from functools import partial

from diffusers import UNet2DConditionModel

from bench.memory import make, peak, quantize
from dmq.models.published import PUBLISHED
from dmq.models.tiny import FAMILIES


def test_a_model_is_made_quantized_and_measured(tmp_path, monkeypatch):
    assert isinstance(FAMILIES["scale-shift"], partial)
    monkeypatch.setitem(PUBLISHED, "tiny", FAMILIES["scale-shift"])
    monkeypatch.setattr("bench.memory.BLOCK", 100)
    size = make("tiny", tmp_path / "float")
    model = UNet2DConditionModel.from_pretrained(tmp_path / "float")
    assert size == 2 * sum(p.numel() for p in model.parameters())
    assert 0.015 < model.mid_block.resnets[0].conv1.weight.std() < 0.025
    before = peak()
    found = quantize(tmp_path / "float", tmp_path / "it", 4)
    assert (
        0 < found["libraries"] <= found["peak"] <= peak() and found["peak"] >= before > 10_000_000
    )
    assert found["bytes"] < 0.6 * size and (tmp_path / "it" / "plan.json").is_file()
