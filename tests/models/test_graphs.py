"""The wiring of denoisers, against node counts that are published and against what running them
shows.
"""

from collections import Counter

import numpy as np
import pytest
import torch

from dmq.models.adapter import LAYERS
from dmq.models.generic import GenericAdapter
from dmq.models.graphs import denoiser_graph
from dmq.models.published import build_published
from dmq.models.tiny import tiny_call, tiny_denoiser


WIRED = ("UNet2D", "SD", "SDXL", "DiT", "PixArt-alpha", "PixArt-sigma", "Hunyuan-DiT")
ADAPTER = GenericAdapter()  # its blocks are only looked at where the wiring is not known


def graph_of(family, **how):
    return denoiser_graph(tiny_denoiser(family), ADAPTER, **how)


def weight_layers(model):
    return {name for name, module in model.named_modules() if isinstance(module, LAYERS)}


# --- true sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, split, nodes, weights",
    [
        (
            "pixart-xl-2-512",
            False,
            568,
            287,
        ),  # 28 * (10 weights + 10 combine) + 7 weights + norm_out
        ("dit-xl-2-512", False, 369, 201),  # 28 * (7 weights + 6 combine) + 5 weights
        (
            "sd-1.5",
            True,
            432,
            294,
        ),  # 282 layers, 12 of them halved and joined; 14 sums in ResBlocks, 7 an attention
        ("sd-1.5", False, 408, 282),
        (
            "sdxl",
            True,
            1316,
            803,
        ),  # 794 layers, 9 halved; an input and a sum in 11 ResBlocks; 7 * 70; the time
        ("sdxl", False, 1307, 794),
    ],
)
def test_node_counts_are_the_published_ones(name, split, nodes, weights):
    graph = denoiser_graph(build_published(name), ADAPTER, split=split)
    assert (len(graph.nodes), sum(map(bool, graph.layers)), graph.note) == (nodes, weights, "")


def test_hunyuan_has_the_published_nodes_and_those_that_the_release_leaves_out():
    """The release counts 844: it stops before the last block and has one node for a modulation
    and its layer.
    """
    graph = denoiser_graph(build_published("hunyuan-dit-1.2"), ADAPTER, split=True)
    types = Counter(graph.types)
    last = sum(name.startswith("blocks.39.") for name in graph.nodes)
    others = [name for name in graph.nodes if not name.startswith("blocks.39.")]
    modulated = sum(name.endswith(".adaln_0") for name in others) + ("norm_out" in others)
    pooled = sum(".pooler." in name for name in others)
    assert (last, modulated, pooled) == (24, 40, 4)
    assert len(graph.nodes) - last - modulated - pooled == 844
    assert types["skip_linear"] == types["skip_linear:1"] == 19


# --- any model ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*WIRED, "SD3", "Flux"])
@pytest.mark.parametrize("split", [False, True])
def test_every_layer_once_and_no_cycle(family, split):
    model = tiny_denoiser(family)
    graph = denoiser_graph(model, ADAPTER, split=split)
    layers = [name for name in graph.layers if name]
    assert {name.removesuffix(":1") for name in layers} == weight_layers(model)
    assert len(set(layers)) == len(layers) and len(set(graph.nodes)) == len(graph.nodes)
    assert (graph.edges[0] < graph.edges[1]).all()  # in forward order, so there is no way back
    assert len(np.unique(graph.edges, axis=1).T) == graph.edges.shape[1]
    assert bool(graph.note) == (family in ("SD3", "Flux"))
    pieced = Counter(n for piece in graph.pieces for n in piece.nodes if graph.layers[n])
    assert pieced == dict.fromkeys((n for n, name in enumerate(graph.layers) if name), 1)


@pytest.mark.parametrize("family", WIRED)
def test_what_a_layer_reaches_is_what_changes_when_it_does(family):
    model = tiny_denoiser(family)
    graph = graph_of(family)
    call = tiny_call(model, 301.0)
    names = [name for name in graph.layers if name]
    seen: dict[str, torch.Tensor] = {}
    for name in names:
        layer = model.get_submodule(name)
        layer.register_forward_pre_hook(
            lambda m, args, name=name: seen.__setitem__(name, args[0].clone())
        )

    def inputs():
        seen.clear()
        with torch.no_grad():
            model(**call)
        return dict(seen)

    reference = inputs()
    for name in names[:: max(1, len(names) // 30)]:
        weight = model.get_submodule(name).weight
        kept = weight.clone()
        weight.data.mul_(torch.linspace(0.3, 1.7, weight.numel()).reshape(weight.shape))
        changed = {other for other, x in inputs().items() if not torch.equal(x, reference[other])}
        weight.data.copy_(kept)
        assert changed == descendants(graph, name) & set(reference), name


def descendants(graph, name):
    reached = {graph.place[name]}
    for u, v in sorted(graph.edges.T.tolist(), key=lambda edge: edge[1]):
        reached |= {v} if u in reached else set()
    return {graph.layers[n] for n in reached if graph.layers[n]} - {name}


PIXART = {
    "adaln_0": {"x", "adaln_single.linear"},
    "attn1.to_q": {"adaln_0"},
    "attn1.to_k": {"adaln_0"},
    "attn1.to_v": {"adaln_0"},
    "attn1.qk": {"attn1.to_q", "attn1.to_k"},
    "attn1.vsm": {"attn1.to_v", "attn1.qk"},
    "attn1.to_out.0": {"attn1.vsm"},
    "add_sa": {"attn1.to_out.0", "x"},
    "norm": {"add_sa"},
    "attn2.to_q": {"norm"},
    "attn2.to_k": {"caption_projection.linear_2"},
    "attn2.to_v": {"caption_projection.linear_2"},
    "attn2.qk": {"attn2.to_q", "attn2.to_k"},
    "attn2.vsm": {"attn2.to_v", "attn2.qk"},
    "attn2.to_out.0": {"attn2.vsm"},
    "add_ca": {"attn2.to_out.0", "add_sa"},
    "adaln_1": {"add_ca", "adaln_single.linear"},
    "ff.net.0.proj": {"adaln_1"},
    "ff.net.2": {"ff.net.0.proj"},
    "add_ff": {"ff.net.2", "add_ca"},
}


@pytest.mark.parametrize("block, x", [(0, "pos_embed.proj"), (1, "transformer_blocks.0.add_ff")])
def test_a_block_of_pixart_is_wired_as_written_by_hand(block, x):
    graph = graph_of("PixArt-sigma")
    place = f"transformer_blocks.{block}."
    outside = {"x": x} | {
        name: name for name in ("adaln_single.linear", "caption_projection.linear_2")
    }
    wanted = {
        place + name: {outside.get(u, place + u) for u in before} for name, before in PIXART.items()
    }
    assert {
        name: set(graph.before(name)) for name in graph.nodes if name.startswith(place)
    } == wanted
    assert graph.before("proj_out") == ("norm_out",)
    assert set(graph.before("norm_out")) == {
        "transformer_blocks.1.add_ff",
        "adaln_single.emb.timestep_embedder.linear_2",
    }


def test_long_skips_pair_the_blocks_as_the_models_do():
    graph = denoiser_graph(build_published("hunyuan-dit-1.2"), ADAPTER)
    for late, early in ((21, 18), (39, 0)):
        before = {f"blocks.{n}.add_ff" for n in (late - 1, early)}
        assert set(graph.before(f"blocks.{late}.skip_linear")) == before
    graph = graph_of("UNet2D")
    # without a layer in the shortcut, who reads a ResBlock reads its input too
    assert set(graph.before("up_blocks.0.resnets.0.conv1")) >= {
        "mid_block.resnets.1.conv2",
        "mid_block.attentions.0.to_out.0",
        "mid_block.resnets.0.conv2",
    }


def test_pieces_of_pixart_have_the_published_depths():
    graph = graph_of("PixArt-sigma")
    depth = {
        piece.kind: (piece.hops, sum(bool(graph.layers[n]) for n in piece.nodes))
        for piece in graph.pieces
    }
    assert depth == {
        "pos_embed.proj": (0, 1),
        "time": (2, 3),
        "caption": (1, 2),
        "self-attention": (3, 4),
        "cross-attention": (3, 4),
        "feed-forward": (1, 2),
        "proj_out": (0, 1),
    }


def test_the_hops_of_a_piece_reach_all_of_its_layers():
    for family in WIRED:
        graph = graph_of(family)
        for piece in graph.pieces:
            reached = {piece.nodes[-1]}
            for _ in range(piece.hops):
                reached |= {
                    u for u, v in graph.edges.T.tolist() if v in reached and u in piece.nodes
                }
            assert {n for n in piece.nodes if graph.layers[n]} <= reached


def test_an_unknown_family_is_one_chain_in_the_order_given():
    model = tiny_denoiser("Flux")
    order = sorted(weight_layers(model))
    graph = denoiser_graph(model, ADAPTER, order)
    assert graph.layers == tuple(order)
    assert graph.edges.T.tolist() == [[n, n + 1] for n in range(len(order) - 1)]
    assert "FluxTransformer2DModel" in graph.note
