"""The graph network against its definition, and what it learns of labels whose truth is known."""

import numpy as np
import pytest
import torch

from dmq.allocation.graph import features, isolated, node_choices
from dmq.allocation.labels import sample_mixes
from dmq.allocation.network import Hop, Network, with_loops
from dmq.allocation.predictor import Known, learn, losses, roots, train
from dmq.models.generic import GenericAdapter
from dmq.models.graphs import denoiser_graph
from dmq.models.tiny import tiny_denoiser
from dmq.recipe import Predictor, Sensitivity, Uniform, WeightFormat, parse_format
from dmq.results import SensitivityTable


ADAPTER = GenericAdapter()
CHOICES = tuple(map(parse_format, ("UAQ-4", "KMC-4", "UAQ-3", "KMC-3")))
PLANTED = "transformer_blocks.1.attn2.to_out.0"


@pytest.fixture(scope="module")
def model():
    denoiser = tiny_denoiser("PixArt-sigma")
    return denoiser_graph(denoiser, ADAPTER), ADAPTER.layers(denoiser)


def network_of(model, spec):
    graph, layers = model
    sizes, errors = figures(layers)
    rows = {layer.name: n for n, layer in enumerate(layers)}
    read = features(
        graph, rows, CHOICES, sizes, np.array([layer.num_weights for layer in layers]), errors
    )
    torch.manual_seed(0)
    return read, Network(read, spec.width)


def figures(layers):
    bits = np.array([choice.bits for choice in CHOICES])
    sizes = np.array([layer.num_weights for layer in layers])[:, None] * bits // 8 + [[4, 16, 4, 8]]
    return sizes, 0.02 * 4.0 ** (4 - bits) * np.ones((len(layers), 1)) * [[1, 0.8, 1, 0.8]]


# --- the network ----------------------------------------------------------------------------------


def test_a_hop_is_gatv2():
    torch.manual_seed(0)
    hop, h = Hop(3, 5), torch.randn(4, 2, 3)
    hop.bias.data.normal_()
    edges = torch.tensor([[0, 1, 0], [2, 2, 3]])
    made = hop(h, with_loops(edges, 4))
    for n in range(2):
        for v in range(4):
            incoming = [*(u for u, w in edges.T.tolist() if w == v), v]
            sent = {u: hop.source(h[u, n]) for u in incoming}
            pull = [
                hop.query @ torch.nn.functional.leaky_relu(sent[u] + hop.target(h[v, n]), 0.2)
                for u in incoming
            ]
            share = torch.stack(pull).softmax(0)
            expected = sum(a * sent[u] for a, u in zip(share, incoming, strict=True)) + hop.bias
            torch.testing.assert_close(made[v, n], expected)


def test_each_hop_behind_the_first_adds_to_what_was_there(model):
    read, network = network_of(model, Predictor(choices=CHOICES, width=8))
    for norm in network.norms:
        torch.nn.init.zeros_(norm.weight)
        torch.nn.init.constant_(norm.bias, 0.5)  # what every hop adds
    choices = torch.from_numpy(node_choices(read, sample_mixes(CHOICES, len(model[1]), 3, 0)))
    assert [h.unique().tolist() for h in network.embeddings(choices)[1:]] == [
        [0.5],
        [1.0],
        [1.5],
        [2.0],
    ]


def test_mixes_do_not_see_each_other_when_it_no_longer_learns(model):
    spec = Predictor(choices=CHOICES, width=8)
    read, network = network_of(model, spec)
    choices = torch.from_numpy(node_choices(read, sample_mixes(CHOICES, len(model[1]), 5, 0)))
    network.eval()
    together = network(choices, roots(model[0]))[0]
    alone = torch.cat([network(one[None], roots(model[0]))[0] for one in choices])
    torch.testing.assert_close(together, alone)


def test_a_piece_alone_is_embedded_as_in_a_graph_of_nothing_else(model):
    """With the edges that enter a piece cut, the whole graph gives its root the same embedding."""
    graph = model[0]
    read, network = network_of(model, Predictor(choices=CHOICES, width=8))
    network.eval()
    piece = next(piece for piece in graph.pieces if piece.kind == "self-attention")
    nodes, edges = isolated(graph, piece)
    choices = torch.from_numpy(node_choices(read, sample_mixes(CHOICES, len(model[1]), 3, 0)))
    own = network.embeddings(
        choices[:, nodes], torch.from_numpy(nodes), torch.from_numpy(edges), piece.hops
    )
    inside = np.isin(graph.edges, nodes).all(0)
    whole = network.embeddings(
        choices, edges=torch.from_numpy(graph.edges[:, inside]), hops=piece.hops
    )
    assert len(own) == piece.hops + 1
    torch.testing.assert_close(own[-1][-1], whole[-1][nodes[-1]])


@pytest.mark.parametrize("loss", ["srcc", "ndcg", "hybrid"])
def test_the_order_teaches_the_encoder(model, loss):
    """Where the release back-propagates the order and then forgets it."""
    spec = Predictor(choices=CHOICES, width=8, loss=loss)
    read, network = network_of(model, spec)
    choices = torch.from_numpy(node_choices(read, sample_mixes(CHOICES, len(model[1]), 12, 0)))
    regression, order = losses(network, choices, torch.linspace(0, 5, 12), roots(model[0]), spec)
    assert regression > 0
    order.backward()
    for part in (network.named, network.ratio, network.error, network.start, network.hops[0]):
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())
    assert all(p.grad is None for p in network.head.parameters())


def test_without_an_order_only_the_label_teaches(model):
    spec = Predictor(choices=CHOICES, width=8, loss="mse")
    read, network = network_of(model, spec)
    choices = torch.from_numpy(node_choices(read, sample_mixes(CHOICES, len(model[1]), 12, 0)))
    assert losses(network, choices, torch.linspace(0, 5, 12), roots(model[0]), spec)[1] == 0


def test_labels_that_are_held_out_change_nothing_that_is_learned(model):
    spec = Predictor(choices=CHOICES, width=4, epochs=2)
    read, _ = network_of(model, spec)
    mixes, rng = sample_mixes(CHOICES, len(model[1]), 30, 0), np.random.default_rng(0)
    labels, held = rng.normal(size=30), np.arange(30) % 5 == 0
    others = np.where(held, rng.normal(size=30), labels)
    one, other = (
        finished(train(read, model[0], mixes, given, held, spec, 0)) for given in (labels, others)
    )
    np.testing.assert_array_equal(one.predicted, other.predicted)
    assert one.mean == other.mean
    changed = finished(train(read, model[0], mixes, labels[::-1].copy(), held, spec, 0))
    assert (changed.predicted != one.predicted).any()


def finished(work):
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


# --- what is learned ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(model):
    """A model that loses nothing by any choice but those of 3 bits in one layer."""
    graph, layers = model
    sizes, errors = figures(layers)
    mixes = sample_mixes(CHOICES, len(layers), 60, 0)
    at = next(n for n, layer in enumerate(layers) if layer.name == PLANTED)
    rng = np.random.default_rng(0)
    labels = -3.0 * (mixes[:, at] >= 2) - (mixes >= 2).mean(1) + 0.05 * rng.normal(size=60)
    cost = np.zeros((len(layers), 4))
    cost[at, 2:] = 1
    table = SensitivityTable(
        title="",
        kind="measured",
        unit="",
        model="",
        fingerprint="",
        layers=layers,
        choices=CHOICES,
        bytes=sizes,
        cost=cost,
        spread=cost,
    )
    known = Known(
        model="tiny",
        fingerprint="0",
        graph=graph,
        layers=layers,
        choices=CHOICES,
        bytes=sizes,
        local=errors,
        label="made up",
        mixes=mixes,
        labels=labels,
        again=labels[:3] + 0.1,
    )
    work, said = (
        learn(
            known, Predictor(choices=CHOICES, width=8, epochs=40, rate=0.02, combinations=64), table
        ),
        [],
    )
    try:
        while True:
            said.append(next(work))
    except StopIteration as end:
        return known, at, end.value, said


def test_progress_counts_to_its_end(learned):
    done, totals = zip(*learned[3], strict=True)
    assert list(done) == sorted(done) and done[-1] == totals[-1] and len(set(totals)) == 1


def test_the_planted_layer_has_the_widest_range_of_scores(learned):
    _, at, result, _ = learned
    for scores in (result.op_scores, result.block_scores()[0], result.ridge):
        ranges = np.ptp(scores, 1)
        assert ranges.argmax() == at
        assert scores[at, :2].min() > scores[at, 2:].max()


def test_what_is_told_of_mixes_was_not_learned_from_them(learned):
    result = learned[2]
    by_name = {one.name: one for one in result.predictions}
    assert next(iter(by_name)) == "graph network"
    assert by_name["graph network"].srcc > 0.5 and by_name["ridge on choices"].srcc > 0.5
    assert by_name["costs of single layers"].srcc > 0.5
    assert abs(by_name["graph network, permuted labels"].srcc) < 0.4
    assert by_name["average bits"].partial_srcc == pytest.approx(0, abs=0.35)
    sizes = np.bincount(result.fold)
    assert len(sizes) == 5 and sizes.min() >= 11
    assert result.noise == pytest.approx(0.1 / np.sqrt(2))


def test_tables_are_what_a_budget_takes(learned):
    known, _, result, _ = learned
    block = result.table("block")
    assert (block.kind, result.table("op").kind, result.ridge_table().kind) == (
        "score",
        "score",
        "predicted",
    )
    np.testing.assert_array_equal(result.table("op").cost, -result.op_scores)
    ridge = result.ridge_table()
    np.testing.assert_allclose(np.diff(ridge.cost), -np.diff(result.ridge))
    assert ridge.cost.min() == 0
    np.testing.assert_array_equal(block.bytes, known.bytes)


def test_the_score_of_a_layer_in_its_block_is_the_mean_over_its_neighbours(learned):
    known, _, result, _ = learned
    piece = next(piece for piece in result.pieces if piece.kind == "feed-forward")
    assert piece.complete and len(piece.scores) == 16
    row = [layer.name for layer in known.layers].index(piece.layers[1])
    for c in range(4):
        expected = np.mean(
            [s for mix, s in zip(piece.mixes, piece.scores, strict=True) if mix[1] == c]
        )
        assert result.block_scores()[0][row, c] == pytest.approx(expected, rel=1e-5)


def test_float_may_be_a_choice(model):
    choices = (*CHOICES[:1], WeightFormat(bits=32, format=Uniform()))
    known = features(model[0], {}, choices, np.zeros((0, 2)), np.zeros(0), np.zeros((0, 2)))
    assert known.bits.tolist() == [1, 0, 0]


def test_a_table_that_lacks_a_choice_is_no_control(learned, model):
    from dmq.allocation.predictor import _costs

    known = learned[0]
    other = SensitivityTable(
        title="",
        kind="",
        unit="",
        model="",
        fingerprint="",
        layers=known.layers,
        choices=Sensitivity().choices[:2],
        bytes=known.bytes[:, :2],
        cost=np.zeros((len(known.layers), 2)),
        spread=np.zeros((len(known.layers), 2)),
    )
    assert _costs(known, other) is None and _costs(known, None) is None
