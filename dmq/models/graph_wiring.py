"""The nodes of a graph and how values flow between them, written down one layer after another."""

from collections.abc import Sequence

import numpy as np
from diffusers import ModelMixin

from ..results import Graph, Subgraph
from .adapter import LAYERS


Flow = tuple[
    int, ...
]  # the nodes whose outputs, added up, are a value on its way; none: it comes from outside
DOWN, MIDDLE, UP = range(3)


class Wiring:
    """A graph as it is being written down, in forward order."""

    def __init__(self, denoiser: ModelMixin, split: bool) -> None:
        self.denoiser, self.split = denoiser, split
        self.modules = dict(denoiser.named_modules(remove_duplicate=False))
        self.nodes: list[str] = []
        self.layers: list[str] = []
        self.types: list[str] = []
        self.block: list[int] = []
        self.stage: list[int] = []
        self.edges: list[tuple[int, int]] = []
        self.pieces: list[tuple[str, str, tuple[int, ...]]] = []
        self.unit, self.units, self.prefix, self.now = -1, 0, "", DOWN
        self._weights: dict[int, int] = {}  # node by the weight that it has

    def enter(self, prefix: str) -> None:
        """What follows belongs to the next block, whose layers' names begin with `prefix`."""
        self.unit, self.prefix = self.units, f"{prefix}."
        self.units += 1

    def leave(self) -> None:
        """What follows belongs to no block."""
        self.unit, self.prefix = -1, ""

    def layer(self, name: str, *inputs: Flow) -> Flow:
        """The node of a weight layer that reads the sum of `inputs`; one that shares its weight
        is the same node.
        """
        weight = self.denoiser.get_submodule(name).weight
        if id(weight) not in self._weights:
            self._weights[id(weight)] = self._node(
                name, name, name.removeprefix(self.prefix), inputs
            )
        return (self._weights[id(weight)],)

    def second(self, name: str, *inputs: Flow) -> Flow:
        """The second half of a layer that is split."""
        return (
            self._node(f"{name}:1", f"{name}:1", f"{name.removeprefix(self.prefix)}:1", inputs),
        )

    def combine(self, name: str, what: str, *inputs: Flow) -> Flow:
        """A node without a weight, where `inputs` come together."""
        return (self._node(f"{self.prefix}{name}", "", what, inputs),)

    def _node(self, name: str, layer: str, what: str, inputs: Sequence[Flow]) -> int:
        n = len(self.nodes)
        self.nodes.append(name)
        self.layers.append(layer)
        self.types.append(what)
        self.block.append(self.unit)
        self.stage.append(self.now)
        self.edges += [(u, n) for u in dict.fromkeys(u for flow in inputs for u in flow)]
        return n

    def piece(self, name: str, kind: str, *parts: Flow) -> None:
        """What is scored as a whole; the last node is the root."""
        self.pieces.append(
            (f"{self.prefix}{name}", kind, tuple(dict.fromkeys(n for flow in parts for n in flow)))
        )

    def single(self, name: str, *inputs: Flow) -> Flow:
        """A layer that is a piece by itself."""
        made = self.layer(name, *inputs)
        self.pieces.append((name, self.types[made[0]], made))
        return made

    def has(self, name: str) -> bool:
        """Is there such a module with a weight layer in it?"""
        return name in self.modules and any(
            isinstance(m, LAYERS) for m in self.modules[name].modules()
        )

    def pair(self, prefix: str, *inputs: Flow) -> tuple[Flow, Flow]:
        """Two linear layers in a row, as embedders and projections of captions are made."""
        first = self.layer(f"{prefix}.linear_1", *inputs)
        return first, self.layer(f"{prefix}.linear_2", first)

    def graph(self) -> Graph:
        edges = np.array(self.edges, np.int64).reshape(-1, 2).T
        return Graph(
            nodes=tuple(self.nodes),
            layers=tuple(self.layers),
            types=tuple(self.types),
            block=np.array(self.block, np.int16),
            stage=np.array(self.stage, np.int8),
            edges=edges,
            pieces=tuple(
                Subgraph(name=name, kind=kind, nodes=nodes, hops=self._hops(nodes))
                for name, kind, nodes in self.pieces
            ),
        )

    def _hops(self, nodes: tuple[int, ...]) -> int:
        """The most hops that a weight layer of a piece is away from its root."""
        away, edge = {nodes[-1]: 0}, [nodes[-1]]
        while edge:
            found = [u for u, v in self.edges if v in edge and u in nodes and u not in away]
            away |= dict.fromkeys(found, away[edge[0]] + 1)
            edge = list(dict.fromkeys(found))
        return max(away[n] for n in nodes if self.layers[n])
