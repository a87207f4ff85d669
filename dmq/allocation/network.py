"""The graph network of Qua²SeDiMo: a mix of choices in, an embedding of every node after each hop
and a label out.

    features    embeddings of quantizer, bits, block, type and stage, and two numbers -> 64 -> 16 = h^0
    hops        4 times GATv2 with one head and self loops, batch norm, ReLU; what came before is added from the 2nd on
                s_uv = a . LeakyReLU(W_s h_u + W_t h_v);  h_v' = sum_u softmax_u(s_uv) W_s h_u + bias
    label       the mean embedding after the last hop -> a few layers -> one number

All mixes share the edges, so nodes come first and a batch of mixes is [nodes, mixes, width]. After
a ReLU all numbers are at least 0: the length |h|_1 of a graph's mean embedding is the mean of those
of its nodes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .graph import Features


HOPS = 4
NUMBER, NAME, FIRST, START = (
    5,
    10,
    64,
    16,
)  # widths: of small and of large embeddings, of the two first layers


class Norm(nn.BatchNorm1d):
    """Batch norm over nodes and mixes, and ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x.flatten(0, 1)).view_as(x))


class Hop(nn.Module):
    """GATv2 (Brody et al., arXiv:2105.14491) with one head."""

    def __init__(self, inner: int, width: int) -> None:
        super().__init__()
        self.source, self.target = (
            nn.Linear(inner, width, bias=False),
            nn.Linear(inner, width, bias=False),
        )
        self.query = nn.Parameter(torch.randn(width) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, h: Tensor, edges: Tensor) -> Tensor:
        """New embeddings [V, N, width]; `edges` [2, E] has the self loops."""
        start, end = edges
        sent, heard = self.source(h), self.target(h)
        given = sent[start]
        scores = F.leaky_relu(given + heard[end], 0.2) @ self.query  # [E, N]
        with (
            torch.no_grad()
        ):  # any shift that the edges into a node share leaves the softmax as it is
            most = scores.new_full(h.shape[:2], -torch.inf)
            most = most.scatter_reduce(0, end[:, None].expand_as(scores), scores, "amax")
        weights = (scores - most[end]).exp()
        total = torch.zeros_like(most).index_add(0, end, weights)
        given = given * (weights / total[end])[..., None]
        return torch.zeros_like(sent).index_add(0, end, given) + self.bias


class Network(nn.Module):
    """The predictor for one graph."""

    kind: Tensor
    numbers: Tensor
    edges: Tensor

    def __init__(self, known: Features, width: int) -> None:
        super().__init__()
        for name in ("quantizer", "bits", "block", "kind", "stage"):
            self.register_buffer(name, torch.from_numpy(getattr(known, name)), persistent=False)
        numbers = torch.from_numpy(known.numbers)
        spread = (
            numbers[torch.from_numpy(known.layer >= 0), :-1].flatten(0, 1).std(0).clamp_min(1e-6)
        )
        self.register_buffer("numbers", numbers / spread, persistent=False)
        self.register_buffer(
            "edges", with_loops(torch.from_numpy(known.edges), len(known.kind)), persistent=False
        )
        sizes = {"quantizer": NUMBER, "bits": NUMBER, "block": NAME, "kind": NAME, "stage": NAME}
        self.named = nn.ModuleDict(
            {
                name: nn.Embedding(int(getattr(self, name).max()) + 1, size)
                for name, size in sizes.items()
            }
        )
        self.ratio, self.error = nn.Linear(1, NUMBER), nn.Linear(1, NUMBER)
        features = sum(sizes.values()) + 2 * NUMBER
        self.start = nn.Sequential(
            Norm(features),
            nn.Linear(features, FIRST),
            Norm(FIRST),
            nn.Linear(FIRST, START),
            Norm(START),
        )
        self.hops = nn.ModuleList(Hop(START if k == 0 else width, width) for k in range(HOPS))
        self.norms = nn.ModuleList(Norm(width) for _ in range(HOPS))
        self.head = nn.Sequential(
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
        )

    def first(self, choices: Tensor, nodes: Tensor) -> Tensor:
        """h^0 [v, N, 16] of some nodes [v] with the choices [N, v]."""
        by_choice = torch.cat(
            [self.named["quantizer"](self.quantizer), self.named["bits"](self.bits)], 1
        )
        by_node = torch.cat(
            [self.named[name](getattr(self, name)[nodes]) for name in ("block", "kind", "stage")], 1
        )
        rows, picked = torch.arange(len(nodes))[:, None], choices.T
        ratio, error = self.numbers[nodes].split(1, -1)
        parts = (
            by_choice[picked],
            self.ratio(ratio)[rows, picked],
            self.error(error)[rows, picked],
            by_node[:, None].expand(-1, len(choices), -1),
        )
        return self.start(torch.cat(parts, -1))

    def embeddings(
        self,
        choices: Tensor,
        nodes: Tensor | None = None,
        edges: Tensor | None = None,
        hops: int = HOPS,
    ) -> list[Tensor]:
        """h^0 ..

        h^hops, each [v, N, width], of the whole graph, or of some nodes with `edges` among them.
        """
        nodes = torch.arange(len(self.kind)) if nodes is None else nodes
        edges = self.edges if edges is None else with_loops(edges, len(nodes))
        h = [self.first(choices, nodes)]
        for k in range(hops):
            new = self.norms[k](self.hops[k](h[-1], edges))
            h.append(new if k == 0 else new + h[-1])
        return h

    def forward(
        self, choices: Tensor, roots: dict[int, Tensor]
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """The predicted labels [N], and by hops |h_G|_1 [N], the mean over the nodes in `roots` of
        those hops.

        Shapes: `choices` (mixes, nodes).
        """
        h = self.embeddings(choices)
        lengths = {m: h[m][at].sum(-1).mean(0) for m, at in roots.items()}
        return self.head(h[-1][roots.get(HOPS, slice(None))].mean(0))[:, 0], lengths


def with_loops(edges: Tensor, nodes: int) -> Tensor:
    """`edges` [2, E] and one from each node to itself, ordered by where they end."""
    loops = torch.arange(nodes).expand(2, -1)
    every = torch.cat([edges, loops], 1)
    return every[:, every[1].argsort(stable=True)]
