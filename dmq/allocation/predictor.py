"""What random mixes of choices teach: a graph network's scores of every choice, and the controls it
must beat.

After Qua²SeDiMo (Mills et al., AAAI 2025, arXiv:2412.14628). Five networks are each trained without
a fifth of the mixes; what is told of any way to predict is how it orders the mixes that it has not
seen. A network's training ends where its order of a few mixes of its own, kept from both, is best.

    score     mean over folds of  w_m (|h_v^m|_1 - mu_m) / sd_m  of the isolated piece with root v and m hops
    mu, sd    over all nodes of the training graphs after m hops
    w         how |h_G^m|_1 orders the held-out mixes (Spearman's correlation; 0 where it is negative)
"""

import copy
from collections.abc import Generator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F

from ..numerics.threads import one_thread
from ..progress import relay
from ..recipe import Predictor, WeightFormat
from ..results import Graph, Layer, Prediction, PredictorResult, SensitivityTable, SubgraphScores
from .graph import Features, all_mixes, features, isolated, node_choices
from .labels import average_bits, leave_out, relevance
from .network import Network
from .ranking import kendall, ndcg, rank_loss, spearman
from .ridge import ridge


LOOKS = 24  # times in a training that the watched mixes are looked at
MAX_CELLS = 6_000_000  # numbers of a batch: edges times mixes times width
CLIP = 5.0  # length of a gradient


@dataclass(frozen=True, kw_only=True)
class Known:
    """Everything that is learned from. N mixes, L layers, C choices."""

    model: str
    fingerprint: str
    graph: Graph
    layers: tuple[Layer, ...]
    choices: tuple[WeightFormat, ...]
    bytes: np.ndarray  # [L, C] int64
    local: np.ndarray  # [L, C] float64: squared error of the weight over its squared length
    label: str  # what the labels are, in words
    mixes: np.ndarray  # [N, L] int16
    labels: np.ndarray  # [N] float64
    again: np.ndarray  # [R] float64: of the first R mixes with other noises

    @property
    def num_weights(self) -> np.ndarray:
        return np.array([layer.num_weights for layer in self.layers], np.float64)

    @property
    def average_bits(self) -> np.ndarray:
        return average_bits(self.mixes, self.bytes, self.num_weights)


def learn(
    known: Known, spec: Predictor, table: SensitivityTable | None = None
) -> Generator[tuple[int, int], None, PredictorResult]:
    """Train the networks and the controls; yields (epochs done, of all).

    `table` has costs of single layers, whose sums over a mix are one of the controls.
    """
    rows = {layer.name: n for n, layer in enumerate(known.layers)}
    read = features(known.graph, rows, known.choices, known.bytes, known.num_weights, known.local)
    target = known.labels - spec.bits_price * known.average_bits
    rng = np.random.default_rng(spec.seed)
    fold = rng.permutation(np.arange(len(target)) % spec.folds).astype(np.int16)
    shuffled = rng.permutation(target)
    epochs = 2 * spec.folds * spec.epochs
    networks, orders = [], []
    for at, labels in enumerate((target, shuffled)):
        made = []
        for f in range(spec.folds):
            training = train(read, known.graph, known.mixes, labels, fold == f, spec, spec.seed + f)
            before = (at * spec.folds + f) * spec.epochs
            made.append(
                (yield from relay(training, lambda done, before=before: (before + done, epochs)))
            )
        networks.append(made)
        orders.append(
            np.select([fold == f for f in range(spec.folds)], [one.predicted for one in made])
        )
    yield epochs, epochs
    made = networks[0]
    op = np.stack([_op_scores(one, read, len(known.layers)) for one in made])
    pieces = tuple(
        _piece_scores(made, known, read, n, spec) for n in range(len(known.graph.pieces))
    )
    coefficients = np.stack([_on_choices(known, target, fold != f)[1] for f in range(spec.folds)])
    _, whole = _on_choices(known, target, np.ones(len(target), bool))
    judged = [_judge_parts("graph network", orders[0], op, known, target, fold)]
    judged += _controls(known, target, fold, coefficients, table)
    judged.append(
        _judge_parts("graph network, permuted labels", orders[1], None, known, shuffled, fold)
    )
    idle = sum(all(w == 0 for w in one.weight.values()) for one in made)
    return PredictorResult(
        model=known.model,
        fingerprint=known.fingerprint,
        layers=known.layers,
        types=tuple(
            known.graph.types[known.graph.layers.index(layer.name)]
            if layer.name in known.graph.layers
            else ""
            for layer in known.layers
        ),
        choices=known.choices,
        bytes=known.bytes,
        local=known.local,
        label=known.label,
        mixes=known.mixes,
        labels=known.labels,
        again=known.again,
        average_bits=known.average_bits,
        fold=fold,
        predicted=orders[0],
        predictions=tuple(judged),
        op_scores=op.mean(0),
        op_spread=_error(op),
        pieces=pieces,
        ridge=whole,
        ridge_spread=_error(coefficients),
        note="; ".join(
            filter(
                None,
                [
                    known.graph.note,
                    f"{idle} of {len(made)} networks learned no order and have no say in the scores"
                    if idle
                    else "",
                ],
            )
        ),
    )


# --- one network ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network with what makes its lengths comparable."""

    network: Network
    predicted: np.ndarray  # [N]: of all mixes
    mean: dict[int, float]  # of a node's length, by hops
    deviation: dict[int, float]
    weight: dict[int, float]


def roots(graph: Graph) -> dict[int, torch.Tensor]:
    """The roots of the pieces by their hops; after none, all weight layers."""
    found = {0: [n for n, name in enumerate(graph.layers) if name]}
    for piece in graph.pieces:
        if piece.hops:
            found.setdefault(piece.hops, []).append(piece.nodes[-1])
    return {m: torch.tensor(found[m]) for m in sorted(found)}


def losses(
    network: Network,
    choices: torch.Tensor,
    wanted: torch.Tensor,
    at: dict[int, torch.Tensor],
    spec: Predictor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of the label, and that of the order at all hops (0 for loss "mse")."""
    predicted, lengths = network(choices, at)
    if spec.loss == "mse":
        return F.mse_loss(predicted, wanted), predicted.new_zeros(())
    ranks = [rank_loss(spec.loss, length, wanted) for length in lengths.values()]
    order = sum(ranks, predicted.new_zeros(())) / len(ranks)
    return F.mse_loss(predicted, wanted), spec.weight * order


def train(
    known: Features,
    graph: Graph,
    mixes: np.ndarray,
    labels: np.ndarray,
    held: np.ndarray,
    spec: Predictor,
    seed: int,
) -> Generator[int, None, Trained]:
    """A network for the mixes that are not `held` [N] bool; yields the epochs done.

    A sixth of these is watched instead of learned from, and the network is the one that ordered it
    best."""
    others = np.flatnonzero(~held)
    watched, taught = others[::6], np.setdiff1d(others, others[::6])
    choices = torch.from_numpy(node_choices(known, mixes))
    wanted = torch.from_numpy(relevance(labels, labels[taught])).float()
    at, every = roots(graph), max(1, spec.epochs // LOOKS)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(seed)
        network = Network(known, spec.width)
        wanted_mean = float(wanted[taught].mean())
        torch.nn.init.constant_(list(network.head.parameters())[-1], wanted_mean)
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=spec.rate, weight_decay=1e-6)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, spec.epochs)
    size = max(8, MAX_CELLS // (network.edges.shape[1] * spec.width))
    parts = -(-len(taught) // size)
    best, kept = -np.inf, copy.deepcopy(network.state_dict())
    for epoch in range(spec.epochs):
        with one_thread():
            network.train()
            order = torch.from_numpy(taught)[torch.randperm(len(taught), generator=generator)]
            for part in order.tensor_split(parts):
                optimizer.zero_grad()
                torch.add(*losses(network, choices[part], wanted[part], at, spec)).backward()
                torch.nn.utils.clip_grad_norm_(parameters, CLIP)
                optimizer.step()
            schedule.step()
            if (epoch + 1) % every == 0 or epoch + 1 == spec.epochs:
                order_found = _order(
                    network, choices[torch.from_numpy(watched)], at, wanted[watched].numpy()
                )
                if order_found >= best:
                    best, kept = order_found, copy.deepcopy(network.state_dict())
        yield epoch + 1
    network.load_state_dict(kept)
    with one_thread():
        return _measure_network(network.eval(), choices, at, labels, held, taught)


def _order(
    network: Network, choices: torch.Tensor, at: dict[int, torch.Tensor], wanted: np.ndarray
) -> float:
    network.eval()
    with torch.no_grad():
        return spearman(network(choices, at)[0].numpy(), wanted)


@torch.no_grad()
def _measure_network(
    network: Network,
    choices: torch.Tensor,
    at: dict[int, torch.Tensor],
    labels: np.ndarray,
    held: np.ndarray,
    taught: np.ndarray,
) -> Trained:
    """The network with the moments of its lengths; mix by mix batches keep the memory small."""
    predicted: list[np.ndarray] = []
    graphs: dict[int, list[np.ndarray]] = {m: [] for m in at}
    sums, known = dict.fromkeys(at, np.zeros(3)), set(taught.tolist())
    for n in range(0, len(choices), 16):
        part = choices[n : n + 16]
        h = network.embeddings(part)
        answer, lengths = network(part, at)
        predicted.append(answer.numpy())
        chosen = [k for k in range(len(part)) if n + k in known]
        for m in at:
            graphs[m].append(lengths[m].numpy())
            nodes = h[m][:, chosen].sum(-1).double()
            sums[m] = sums[m] + (nodes.numel(), nodes.sum().item(), nodes.square().sum().item())
    mean = {m: float(total / count) for m, (count, total, _) in sums.items()}
    deviation = {
        m: float(np.sqrt(max(squares / count - mean[m] ** 2, 1e-12)))
        for m, (count, _, squares) in sums.items()
    }
    weight = {m: max(0.0, spearman(np.concatenate(graphs[m])[held], labels[held])) for m in at}
    return Trained(
        network=network,
        predicted=np.concatenate(predicted),
        mean=mean,
        deviation=deviation,
        weight=weight,
    )


# --- scores ---------------------------------------------------------------------------------------


@torch.no_grad()
def _op_scores(made: Trained, known: Features, layers: int) -> np.ndarray:
    """The score [L, C] of each layer by itself; 0 for those that are not in the graph."""
    nodes = np.flatnonzero(known.layer >= 0)
    every = torch.arange(len(known.quantizer) - 1)[:, None].expand(-1, len(nodes))
    with one_thread():
        lengths = made.network.first(every, torch.from_numpy(nodes)).sum(-1).double().numpy()
    scores, count = np.zeros((layers, every.shape[0])), np.zeros(layers)
    np.add.at(
        scores, known.layer[nodes], made.weight[0] * (lengths - made.mean[0]) / made.deviation[0]
    )
    np.add.at(count, known.layer[nodes], 1)
    return scores / np.maximum(count, 1)[:, None]


@torch.no_grad()
def _piece_scores(
    made: list[Trained], known: Known, read: Features, n: int, spec: Predictor
) -> SubgraphScores:
    piece = known.graph.pieces[n]
    nodes, edges = isolated(known.graph, piece)
    weighted = [k for k, node in enumerate(nodes) if read.layer[node] >= 0]
    mixes, complete = all_mixes(len(known.choices), len(weighted), spec.combinations, spec.seed + n)
    choices = torch.full((len(mixes), len(nodes)), len(known.choices))
    choices[:, weighted] = torch.from_numpy(mixes.astype(np.int64))
    scores = []
    with one_thread():
        for one in made:
            m = piece.hops
            h = one.network.embeddings(
                choices, torch.from_numpy(nodes), torch.from_numpy(edges), m
            )[m]
            scores.append(
                one.weight[m] * (h[-1].sum(-1).double().numpy() - one.mean[m]) / one.deviation[m]
            )
    return SubgraphScores(
        piece=piece.name,
        kind=piece.kind,
        layers=tuple(known.layers[read.layer[nodes[k]]].name for k in weighted),
        mixes=mixes,
        scores=np.mean(scores, 0).astype(np.float32),
        spread=_error(np.stack(scores)).astype(np.float32),
        complete=complete,
    )


def _error(values: np.ndarray) -> np.ndarray:
    """Standard error of the mean over the first axis."""
    return values.std(0, ddof=1) / np.sqrt(len(values))


# --- controls -------------------------------------------------------------------------------------


def _controls(
    known: Known,
    target: np.ndarray,
    fold: np.ndarray,
    coefficients: np.ndarray,
    table: SensitivityTable | None,
) -> list[Prediction]:
    folds = range(len(coefficients))
    bits, layers = known.average_bits, np.arange(len(known.layers))
    errors = np.concatenate([bits[:, None], known.local[layers, known.mixes]], 1)
    ways: dict[str, tuple[list[np.ndarray], np.ndarray | None]] = {
        "ridge on choices": (
            [_on_choices(known, target, fold != f)[0] for f in folds],
            coefficients,
        ),
        "ridge on bits and weight errors": (
            [ridge(errors, target, fold != f)[0] for f in folds],
            None,
        ),
        "average bits": ([bits] * len(folds), None),
    }
    costs = _costs(known, table)
    if costs is not None:
        ways["costs of single layers"] = ([-costs] * len(folds), None)
    made = []
    for name, (predicted, scores) in ways.items():
        order = np.select([fold == f for f in folds], predicted)
        made.append(_judge_parts(name, order, scores, known, target, fold))
    return made


def _on_choices(
    known: Known, target: np.ndarray, taught: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression on one-hot choices: predictions [N], and what each choice adds [L, C]."""
    hot = (known.mixes[:, :, None] == np.arange(len(known.choices))).astype(np.float64)
    predicted, weights = ridge(hot.reshape(len(hot), -1), target, taught, scaled=False)
    return predicted, weights.reshape(hot.shape[1:])


def _costs(known: Known, table: SensitivityTable | None) -> np.ndarray | None:
    """The summed costs of each mix [N]; None unless the table knows all layers and choices of
    the mixes.
    """
    if table is None or not set(known.choices) <= set(table.choices):
        return None
    if not {layer.name for layer in known.layers} <= set(table.row):
        return None
    rows = [table.row[layer.name] for layer in known.layers]
    columns = [table.choices.index(choice) for choice in known.choices]
    cost = table.cost[np.ix_(rows, columns)]
    return cost[np.arange(len(rows)), known.mixes].sum(1) if np.isfinite(cost).all() else None


def _judge_parts(
    name: str,
    predicted: np.ndarray,
    scores: np.ndarray | None,
    known: Known,
    target: np.ndarray,
    fold: np.ndarray,
) -> Prediction:
    """How `predicted` [N] orders the held-out mixes; `scores` [folds, L, C] are what each fold
    thinks of choices.
    """
    bits = known.average_bits
    rows = []
    for f in range(int(fold.max()) + 1):
        held = fold == f
        own, wanted = predicted[held], target[held]
        rows.append(
            (
                spearman(own, wanted),
                spearman(leave_out(own, bits[held]), leave_out(target, bits)[held]),
                ndcg(own, relevance(wanted, target[~held])),
            )
        )
    figures = np.array(rows)
    # Only differences between the choices of a layer decide anything.
    own_scores = (
        [] if scores is None else (scores - scores.mean(2, keepdims=True)).reshape(len(scores), -1)
    )
    own_scores = [
        one for one in own_scores if one.any()
    ]  # a network that learned no order has none
    pairs = [kendall(a, b) for a, b in combinations(own_scores, 2)]
    mean, spread = figures.mean(0), _error(figures)
    return Prediction(
        name=name,
        srcc=float(mean[0]),
        spread=float(spread[0]),
        partial_srcc=float(mean[1]),
        ndcg=float(mean[2]),
        tau=float(np.mean(pairs)) if pairs else float("nan"),
    )
