"""Features of nodes, and pieces that stand alone."""

import numpy as np

from dmq.allocation.graph import all_mixes, features, isolated, node_choices
from dmq.models.generic import GenericAdapter
from dmq.models.graphs import denoiser_graph
from dmq.models.tiny import tiny_denoiser
from dmq.recipe import Predictor


CHOICES = Predictor().choices


def read(family="PixArt-sigma"):
    graph = denoiser_graph(tiny_denoiser(family), GenericAdapter())
    names = [name for name in graph.layers if name]
    rows = {name: n for n, name in enumerate(names)}
    sizes = 10 + np.arange(len(names) * len(CHOICES)).reshape(len(names), -1)
    errors = sizes / 1000
    weights = np.full(len(names), 40.0)
    return graph, rows, sizes, errors, features(graph, rows, CHOICES, sizes, weights, errors)


def test_features_are_those_of_the_paper():
    graph, rows, sizes, errors, known = read()
    assert known.quantizer.tolist() == [
        1,
        2,
        3,
        1,
        2,
        3,
        0,
    ]  # UAQ, KMC, KMA; the last choice is none
    assert known.bits.tolist() == [1, 1, 1, 2, 2, 2, 0]
    for node, name in enumerate(graph.layers):
        if name:
            np.testing.assert_allclose(
                known.numbers[node, :-1, 0], 100 * 80 / sizes[rows[name]], rtol=1e-6
            )
            np.testing.assert_allclose(
                known.numbers[node, :-1, 1], 100 * errors[rows[name]], rtol=1e-6
            )
        else:
            assert not known.numbers[node].any() and known.kind[node] == 0
    place = graph.place
    same = [known.kind[place[f"transformer_blocks.{n}.attn1.to_q"]] for n in (0, 1)]
    assert same[0] == same[1] != known.kind[place["transformer_blocks.0.attn1.to_k"]]
    assert known.block[place["proj_out"]] == 0
    assert known.block[place["transformer_blocks.1.add_ff"]] == 2


def test_combine_nodes_choose_nothing():
    graph, rows, _, _, known = read()
    mixes = np.random.default_rng(0).integers(0, 6, (3, len(rows))).astype(np.int16)
    chosen = node_choices(known, mixes)
    for node, name in enumerate(graph.layers):
        assert (chosen[:, node] == (mixes[:, rows[name]] if name else 6)).all()


def test_a_piece_alone_has_its_own_edges_only():
    graph, *_ = read()
    piece = next(piece for piece in graph.pieces if piece.kind == "self-attention")
    nodes, edges = isolated(graph, piece)
    named = {(graph.nodes[nodes[u]], graph.nodes[nodes[v]]) for u, v in edges.T}
    block = "transformer_blocks.0."
    assert named == {
        (block + u, block + v)
        for u, v in [
            ("adaln_0", "attn1.to_q"),
            ("adaln_0", "attn1.to_k"),
            ("adaln_0", "attn1.to_v"),
            ("attn1.to_q", "attn1.qk"),
            ("attn1.to_k", "attn1.qk"),
            ("attn1.qk", "attn1.vsm"),
            ("attn1.to_v", "attn1.vsm"),
            ("attn1.vsm", "attn1.to_out.0"),
        ]
    }
    assert graph.nodes[nodes[-1]] == block + "attn1.to_out.0"


def test_all_mixes_of_a_piece_or_different_ones_at_random():
    every, complete = all_mixes(6, 4, 1296, 0)
    assert complete and len(np.unique(every, axis=0)) == len(every) == 1296
    some, complete = all_mixes(6, 5, 100, 0)
    assert not complete and len(np.unique(some, axis=0)) == len(some) == 100
    assert some.min() == 0 and some.max() == 5
    np.testing.assert_array_equal(some, all_mixes(6, 5, 100, 0)[0])
