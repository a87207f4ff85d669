"""A model as data: its layers, its time embedding, the places where tensors flow, its graph."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One quantizable layer of a denoiser, as its adapter describes it."""

    name: str  # as in `model.get_submodule(name)`
    kind: str  # "linear" or "conv"
    # "first", "last", "time", "attention", "feedforward", "residual", "sampling" or "other"
    role: str
    block: str  # the block it belongs to, such as "down_blocks.0"
    shape: tuple[int, ...]  # of the weight: output channels first
    bias: bool
    macs: int = 0  # multiply-accumulates of one denoiser call for one image; 0 if not measured

    @property
    def num_weights(self) -> int:
        return int(np.prod(self.shape))

    @property
    def pointwise(self) -> bool:
        """Does it mix the channels of each pixel of an image, and nothing else?"""
        return self.shape[2:] == (1, 1)


@dataclass(frozen=True, kw_only=True)
class Projection:
    """One temporal feature: what one block of the denoiser is told of the time, [width] for each
    row of a call.
    """

    name: (
        str  # the module whose output it is: a linear layer, or an embedding that is read as it is
    )
    block: str  # the block that reads it
    width: int
    source: int = 0  # which of the embeddings it is made from, see `AbstractAdapter.embeddings`
    activation: str | None = (
        None  # the module between the embedding and the linear layer, if there is one
    )


@dataclass(frozen=True, kw_only=True)
class TemporalBlock:
    """The part of a denoiser that sees the time and never the image: feature k is g_k(h(t,
    ...)).
    """

    embeddings: tuple[str, ...]  # the modules that h consists of
    projections: tuple[Projection, ...]  # g_k in the order in which the denoiser reads them
    layers: tuple[str, ...]  # every linear layer of h and of the g_k
    depends: tuple[str, ...]  # what the features depend on, in words: ("t",), ("t", "class"), ...
    arguments: tuple[str, ...] = ()  # the denoiser's arguments beside t that they depend on

    @property
    def finite(self) -> bool:
        """Is t all that the features depend on, so that a table of the steps holds all of them?"""
        return self.depends == ("t",)


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a person wants to know of a loaded pipeline: its parts and its denoiser's layers, in
    forward order.
    """

    name: str  # what was asked for: an embedded name, a folder or a Hub id
    pipeline: str  # class name, such as "StableDiffusionPipeline"
    denoiser: str  # class name
    adapter: str  # "unet", "generic": which adapter described it
    scheduler: str
    prompted: bool  # does it take a prompt
    size: tuple[int, int]  # height and width of its images, in pixels
    parameters: int  # of the denoiser
    pipeline_parameters: int  # of all parts together
    layers: tuple[Layer, ...]
    fingerprint: str  # of the denoiser's configuration and weights
    vectors: tuple[int, ...] = ()  # sizes of the 1-D parameters that belong to none of the layers
    # None: not known to dmq, or described before dmq knew of such blocks. It follows from the
    # denoiser, hence no part of what makes two descriptions equal.
    temporal: TemporalBlock | None = field(default=None, compare=False)
    # By layer whose input is what comes from below beside a shortcut: the channels before the
    # shortcut's. None if described before dmq knew of it.
    splits: dict[str, int] | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, order=True)
class Site:
    """A place where a tensor flows: the input or output of a layer, or one of the four operands
    of an attention.
    """

    name: str  # module path of the layer or of the attention
    point: str  # "input", "output" (of a layer), "q", "k", "v", "probs" (of an attention)
    kind: str = "linear"  # "linear", "conv", "attention"
    block: str = ""

    @property
    def label(self) -> str:
        return f"{self.name}.{self.point}"


@dataclass(frozen=True, kw_only=True)
class Subgraph:
    """A part of a denoiser that is scored as a whole: a node with what reaches it within the
    piece.
    """

    name: str  # such as "transformer_blocks.0.attn1"
    kind: str  # such as "self-attention", the same in all blocks
    nodes: tuple[
        int, ...
    ]  # into `Graph.nodes`; the last one is the root, where all of it comes together
    hops: int  # the longest way from a node of the piece to its root


@dataclass(frozen=True, kw_only=True)
class Graph:
    """How the layers of a denoiser hand data to each other: V nodes, E edges, no cycles."""

    nodes: tuple[str, ...]
    layers: tuple[str, ...]  # the weight layer that each node is; "" where values are only combined
    types: tuple[str, ...]  # such as "attn1.to_q", "add"; the same in all blocks
    block: np.ndarray  # [V] int16: position among the blocks in forward order, -1 outside of them
    stage: np.ndarray  # [V] int8: of a U-Net: 0 down, 1 middle, 2 up; otherwise 0
    edges: np.ndarray  # [2, E] int64: from, to
    pieces: tuple[Subgraph, ...]  # every weight layer is in one of them
    note: str = ""  # what to beware of: the wiring is a guess

    @cached_property
    def place(self) -> dict[str, int]:
        """Position of each node by its name."""
        return {name: n for n, name in enumerate(self.nodes)}

    def before(self, node: str) -> tuple[str, ...]:
        """The nodes whose output `node` reads, in order."""
        return tuple(
            self.nodes[u] for u in sorted(self.edges[0, self.edges[1] == self.place[node]])
        )
