"""A predictor's input from a graph of layers: features of nodes, and small graphs that stand
alone.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from ..recipe import FLOAT, KMeans, WeightFormat
from ..results import Graph, Subgraph


@dataclass(frozen=True, kw_only=True)
class Features:
    """What is known of V nodes and of C choices for each of them; combine nodes have the choice C,
    which is none.

    `numbers` [V, C + 1, 2] float32: 100 * float bytes / bytes, and 100 * error of the weight; 0 for
    combine nodes."""

    quantizer: np.ndarray  # [C + 1] int64: 0 for no quantizer, otherwise one number a format
    bits: np.ndarray  # [C + 1] int64: 0 for float, otherwise one number for each count of bits
    block: np.ndarray  # [V] int64: 0 outside of blocks
    kind: np.ndarray  # [V] int64: 0 for combine nodes
    stage: np.ndarray  # [V] int64
    numbers: np.ndarray
    edges: np.ndarray  # [2, E] int64
    layer: np.ndarray  # [V] int64: row among the layers; -1 for combine nodes


def features(
    graph: Graph,
    rows: dict[str, int],
    choices: tuple[WeightFormat, ...],
    sizes: np.ndarray,
    weights: np.ndarray,
    errors: np.ndarray,
    float_bytes: int = 2,
) -> Features:
    """What the predictor reads of `graph`, whose layers have the positions `rows` in `sizes` and
    `errors` [L, C].

    `weights` [L] counts elements, each of `float_bytes` where nothing is quantized.
    """
    layer = np.array([rows.get(name.removesuffix(":1"), -1) for name in graph.layers], np.int64)
    kinds = {
        name: n + 1
        for n, name in enumerate(dict.fromkeys(_quantizer(choice) for choice in choices))
    }
    levels = {
        bits: n + 1
        for n, bits in enumerate(sorted({c.bits for c in choices} - {FLOAT}, reverse=True))
    }
    names = [kind if node >= 0 else "" for kind, node in zip(graph.types, layer, strict=True)]
    types = {"": 0} | {name: n + 1 for n, name in enumerate(dict.fromkeys(filter(None, names)))}
    numbers = np.zeros((len(layer), len(choices) + 1, 2), np.float32)
    known = layer >= 0
    numbers[known, :-1, 0] = 100 * float_bytes * weights[layer[known], None] / sizes[layer[known]]
    numbers[known, :-1, 1] = 100 * errors[layer[known]]
    return Features(
        quantizer=np.array([*(kinds[_quantizer(choice)] for choice in choices), 0]),
        bits=np.array([*(levels.get(choice.bits, 0) for choice in choices), 0]),
        block=graph.block.astype(np.int64) + 1,
        kind=np.array([types[name] for name in names]),
        stage=graph.stage.astype(np.int64),
        numbers=numbers,
        edges=graph.edges,
        layer=layer,
    )


def _quantizer(choice: WeightFormat) -> str:
    form = choice.format
    return (
        f"{type(form).__name__} {form.shared}" if isinstance(form, KMeans) else type(form).__name__
    )


def node_choices(known: Features, mixes: np.ndarray) -> np.ndarray:
    """The choice of every node [N, V] int64 in mixes [N, L]; combine nodes have the last one,
    which is none.
    """
    return np.where(
        known.layer >= 0, mixes[:, known.layer].astype(np.int64), len(known.quantizer) - 1
    )


def isolated(graph: Graph, piece: Subgraph) -> tuple[np.ndarray, np.ndarray]:
    """The nodes of a piece [v] and the edges between them [2, e], in positions among those
    nodes.
    """
    nodes = np.array(piece.nodes)
    position = np.full(len(graph.nodes), -1)
    position[nodes] = np.arange(len(nodes))
    edges = position[graph.edges]
    return nodes, edges[:, (edges >= 0).all(0)]


def all_mixes(choices: int, layers: int, most: int, seed: int) -> tuple[np.ndarray, bool]:
    """All mixes of a few layers [M, layers] int16, or `most` different ones at random; are these
    all?
    """
    count = choices**layers
    if count <= most:
        return np.array(list(product(range(choices), repeat=layers)), np.int16).reshape(
            count, layers
        ), True
    rng = np.random.default_rng(seed)
    found: dict[int, None] = {}
    while (
        len(found) < most
    ):  # not a permutation of them all, of which there may be too many to count
        found |= dict.fromkeys(rng.integers(0, count, most).tolist())
    numbers = np.array(list(found)[:most])
    return np.stack([numbers // choices**k % choices for k in range(layers)], 1).astype(
        np.int16
    ), False
