"""The temporal block of every family, against what hooks see inside a whole call of the model."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dmq.models.borrow import borrow, replace
from dmq.models.dit import ClassDiTAdapter, DiTAdapter
from dmq.models.generic import GenericAdapter
from dmq.models.loading import describe
from dmq.models.mmdit import MMDiTAdapter
from dmq.models.temporal import temporal_features, timestep_rows
from dmq.models.tiny import FAMILIES, tiny_call, tiny_denoiser, tiny_sd
from dmq.models.unet import UNetAdapter
from dmq.store import captures
from tests.helpers import random_stats


DEPENDS = {
    "UNet2D": ("t",),
    "SD": ("t",),
    "scale-shift": ("t",),
    "class-conditional UNet": ("t", "class"),
    "SDXL": ("t", "pooled prompt", "size"),
    "DiT": ("t", "class"),
    "PixArt-alpha": ("t", "size"),
    "PixArt-sigma": ("t",),
    "Hunyuan-DiT": ("t", "pooled prompt", "size", "style"),
    "SD3": ("t", "pooled prompt"),
    "Flux": ("t", "pooled prompt", "guidance"),
}


def adapter_of(denoiser):
    part = "unet" if type(denoiser).__name__.startswith("UNet") else "transformer"
    pipe = SimpleNamespace(components={part: denoiser})
    return next(
        a
        for a in (UNetAdapter(), DiTAdapter(), ClassDiTAdapter(), MMDiTAdapter())
        if a.matches(pipe)
    )


@pytest.fixture(params=FAMILIES)
def family(request):
    model = tiny_denoiser(request.param)
    adapter = adapter_of(model)
    return SimpleNamespace(
        name=request.param, model=model, adapter=adapter, block=adapter.temporal(model)
    )


@torch.no_grad()
def features(family, call, model=None):
    given = family.adapter.conditioning((), call)
    return temporal_features(
        model or family.model, family.adapter, family.block, call["timestep"], given
    )


@torch.no_grad()
def seen(family, call, model=None):
    """(projection, output) in the order in which they come by during a whole call; only the
    first of each.
    """
    model, found, hooks = model or family.model, {}, []
    for projection in family.block.projections:
        module = model.get_submodule(projection.name)
        keep = lambda m, args, out, name=projection.name: found.setdefault(name, out)  # noqa: E731
        hooks.append(module.register_forward_hook(keep))
    model(**call)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("rows", [1, 3])
def test_features_equal_what_flows_inside_the_model_bit_for_bit(family, rows):
    call = tiny_call(family.model, 481, rows)
    found = seen(family, call)
    made = features(family, call)
    assert len(found) == len(made) == len(family.block.projections)
    for projection, ours in zip(family.block.projections, made, strict=True):
        assert torch.equal(ours, found[projection.name]), projection.name
        assert ours.shape == (rows, projection.width) and ours.dtype == torch.float32


def test_projections_come_in_the_order_in_which_they_run(family):
    order = [p.name for p in family.block.projections if p.name not in family.block.embeddings]
    ran = [
        name
        for name in seen(family, tiny_call(family.model, 481))
        if name not in family.block.embeddings
    ]
    assert order == ran


def test_features_of_a_copy_with_other_layers_are_those_of_that_copy(family):
    quantized_model = borrow(family.model)
    for name in family.block.layers:
        layer = quantized_model.get_submodule(name)
        other = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
        other.weight, other.bias = nn.Parameter(layer.weight * 1.5), layer.bias
        replace(quantized_model, name, other)
    call = tiny_call(family.model, 481)
    found, made = seen(family, call, quantized_model), features(family, call, quantized_model)
    for projection, ours, theirs in zip(
        family.block.projections, made, features(family, call), strict=True
    ):
        assert torch.equal(ours, found[projection.name])
        assert not torch.allclose(ours, theirs)


def test_what_the_features_depend_on_is_named(family):
    assert family.block.depends == DEPENDS[family.name]
    assert family.block.finite == (DEPENDS[family.name] == ("t",))
    call = tiny_call(family.model, 481)
    base, moved = (
        features(family, call),
        features(family, call | {"timestep": call["timestep"] / 2}),
    )
    assert all(not torch.equal(a, b) for a, b in zip(base, moved, strict=True))
    given = family.adapter.conditioning((), call)
    words = dict(zip(family.block.arguments, DEPENDS[family.name][1:], strict=False))
    assert set(words) <= set(given)
    other = family.adapter.conditioning((), tiny_call(family.model, 481, seed=9))
    other |= {"class_labels": (given["class_labels"] + 1) % 5} if "class_labels" in given else {}
    for name in given:
        changed = temporal_features(
            family.model,
            family.adapter,
            family.block,
            call["timestep"],
            given | {name: other[name]},
        )
        same = torch.equal(torch.cat(changed, 1), torch.cat(base, 1))
        # A single style is known to Hunyuan-DiT, so that it cannot be changed.
        assert same == (name not in family.block.arguments or name == "style"), name


def test_the_image_and_the_batch_do_not_matter(family):
    """At another batch shape up to the order of sums."""
    call, other = tiny_call(family.model, 481), tiny_call(family.model, 481, seed=5)
    image = "sample" if "sample" in call else "hidden_states"
    assert all(
        map(
            torch.equal,
            seen(family, call | {image: other[image]}).values(),
            seen(family, call).values(),
        )
    )
    given = family.adapter.conditioning((), call)
    rows = {name: given[name] for name in family.block.arguments}
    one = temporal_features(
        family.model,
        family.adapter,
        family.block,
        call["timestep"][:1],
        {n: x[:1] for n, x in rows.items()},
    )
    assert all(
        torch.allclose(a[:1], b, rtol=1e-5, atol=1e-6)
        for a, b in zip(features(family, call), one, strict=True)
    )


def test_layers_of_the_block_are_those_with_the_role_of_time(family):
    roles = {layer.name: layer.role for layer in family.adapter.layers(family.model)}
    assert {name for name, role in roles.items() if role == "time"} == set(family.block.layers)
    assert {"first", "last"} <= set(roles.values())


def test_what_no_adapter_knows_has_no_block():
    assert GenericAdapter().temporal(tiny_denoiser("DiT")) is None


def test_timesteps_keep_their_type():
    assert timestep_rows((981, 1)).dtype == torch.int64
    assert timestep_rows((981.0, 1)).dtype == torch.float32


def test_the_block_survives_saving_with_a_capture(tmp_path):
    info = describe("tiny", tiny_sd()).info
    captures.save_stats(tmp_path / "c", random_stats(sites=2, steps=2), info)
    assert (
        info.temporal is not None and captures.load_info(tmp_path / "c").temporal == info.temporal
    )
