"""Where a U-Net joins a shortcut to what comes from below, against the tensors of a whole call
of the model.
"""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from dmq.models.generic import GenericAdapter
from dmq.models.tiny import FAMILIES, tiny_call, tiny_denoiser
from tests.models.test_temporal import adapter_of


# Widths that all differ, no middle block, and a down block of another kind at the end.
ODD = {
    "sample_size": 8,
    "block_out_channels": (8, 16, 32),
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "mid_block_type": None,
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 2,
    "cross_attention_dim": 16,
    "transformer_layers_per_block": 1,
}
UNETS = ["UNet2D", "SD", "SDXL", "odd"]


def unet(name):
    return UNet2DConditionModel(**ODD).eval() if name == "odd" else tiny_denoiser(name)


@torch.no_grad()
def watch(model):
    """What every residual block of the way up is given, and all that any module had answered
    before it, in order.
    """
    answers, given = [], {}

    def answered(module, args, output):
        answers.extend(
            x for x in (output if isinstance(output, tuple) else (output,)) if torch.is_tensor(x)
        )

    def asked(name):
        return lambda module, args: given.update({name: (args[0], len(answers))})

    for module in model.modules():
        module.register_forward_hook(answered)
    for name, module in model.named_modules():
        if name.startswith("up_blocks.") and type(module).__name__ == "ResnetBlock2D":
            module.register_forward_pre_hook(asked(name))
    model(**tiny_call(model, 501, rows=2))
    return {name: (x, answers[:n]) for name, (x, n) in given.items()}


@pytest.mark.parametrize("name", UNETS)
def test_the_sides_are_what_came_from_below_and_a_shortcut(name):
    model = unet(name)
    splits, seen = adapter_of(model).splits(model), watch(model)
    joined = {layer.rpartition(".")[0] for layer in splits}
    assert joined == seen.keys()  # every residual block of these ways up takes a shortcut
    for layer, border in splits.items():
        x, before = seen[layer.rpartition(".")[0]]
        below, shortcut = x[:, :border], x[:, border:]
        latest = next(a for a in reversed(before) if a.shape == below.shape)
        assert torch.equal(latest, below)
        assert any(a.shape == shortcut.shape and torch.equal(a, shortcut) for a in before)
        assert model.get_submodule(layer).weight.shape[1] == x.shape[1]
    convs = {
        n
        for n, m in model.named_modules()
        if isinstance(m, nn.Conv2d) and n.startswith("up_blocks.")
    }
    assert set(splits) == {n for n in convs if n.endswith((".conv1", ".conv_shortcut"))}


def test_where_no_shortcut_is_known_nothing_is_split():
    others = [
        name for name in FAMILIES if not adapter_of(tiny_denoiser(name)).name.startswith("unet")
    ]
    assert len(others) >= 4
    assert all(adapter_of(model).splits(model) == {} for model in map(tiny_denoiser, others))
    assert GenericAdapter().splits(tiny_denoiser("SD")) == {}
