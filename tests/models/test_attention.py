import pytest
import torch
from diffusers import DiTTransformer2DModel, SD3Transformer2DModel
from torch.nn import functional as F

from dmq.models.attention import POINTS, Products, make_products_explicit
from dmq.models.borrow import borrow
from dmq.models.tiny import tiny_ddpm, tiny_sd


def sd():
    return tiny_sd().unet, {
        "sample": torch.randn(2, 4, 8, 8),
        "timestep": 5,
        "encoder_hidden_states": torch.randn(2, 12, 16),
        "encoder_attention_mask": torch.tensor([[True] * 12, [True] * 3 + [False] * 9]),
    }


def ddpm():
    return tiny_ddpm().unet, {"sample": torch.randn(2, 3, 8, 8), "timestep": 5}


def dit():
    model = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        num_layers=2,
        norm_num_groups=8,
        sample_size=8,
        num_embeds_ada_norm=10,
    )
    labels, t = torch.tensor([1, 2]), torch.tensor([5, 5])
    return model, {"hidden_states": torch.randn(2, 4, 8, 8), "timestep": t, "class_labels": labels}


def sd3():
    model = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        out_channels=4,
    )
    return model, {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "encoder_hidden_states": torch.randn(2, 6, 16),
        "pooled_projections": torch.randn(2, 16),
        "timestep": torch.tensor([5.0, 5.0]),
    }


@pytest.mark.parametrize("case", [sd, ddpm, dit, sd3])
@torch.no_grad()
def test_explicit_products_agree_with_the_fused_kernel(case):
    torch.manual_seed(0)
    model, call = case()
    model.eval()
    copy = borrow(model)
    products = make_products_explicit(copy)
    torch.testing.assert_close(copy(**call).sample, model(**call).sample, atol=1e-5, rtol=1e-5)
    assert products and all(p.calls == 1 for p in products.values())
    assert not any(isinstance(m, Products) for m in model.modules())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": torch.rand(5, 5) > 0.3},
        {"attn_mask": torch.randn(5, 5)},
        {"enable_gqa": True},
    ],
    ids=["plain", "scale", "causal", "mask", "bias", "grouped"],
)
def test_the_product_is_the_one_of_torch(options):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 5, 8), torch.randn(2, 4, 5, 8)
    if "enable_gqa" in options:
        k, v = k[:, :2], v[:, :2]
    if options.get("attn_mask") is not None and options["attn_mask"].dtype is torch.bool:
        options["attn_mask"][:, 0] = True  # a row without any key is nan in both
    expected = F.scaled_dot_product_attention(q, k, v, **options)
    torch.testing.assert_close(
        Products(print).product(q, k, v, **options), expected, atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_operands_pass_through_modules_that_can_be_hooked():
    unet, call = sd()
    copy = borrow(unet)
    seen = {}
    for name in make_products_explicit(copy):
        for point in POINTS:
            site = copy.get_submodule(f"{name}.processor.{point}")
            site.register_forward_hook(
                lambda m, a, out, key=(name, point): seen.__setitem__(key, out)
            )
    copy(**call)
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    assert [tuple(seen[name, point].shape) for point in POINTS] == [
        (2, 2, 64, 8),
        (2, 2, 12, 8),
        (2, 2, 12, 8),
        (2, 2, 64, 12),
    ]
    probs = seen[name, "probs"]
    torch.testing.assert_close(probs.sum(-1), torch.ones(2, 2, 64))
    assert probs[1, ..., 3:].max() == 0  # the mask reached the product


class Picky:
    """A processor that names an argument which not every processor knows."""

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, strength=1.0
    ):
        return hidden_states * strength


def test_arguments_of_the_original_processor_still_arrive():
    copy = borrow(tiny_sd().unet)
    attention = copy.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn1")
    attention.set_processor(Picky())
    products = make_products_explicit(copy)
    x = torch.ones(1, 3, 16)
    assert torch.equal(attention(x, strength=2.0), 2 * x)
    assert (
        products["down_blocks.0.attentions.0.transformer_blocks.0.attn1"].calls == 0
    )  # no product to be seen
