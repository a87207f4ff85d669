"""What the stages produce: frozen numpy data without torch, so that figures and pages work on them
alone.

`S` counts sites, `T` distinct timesteps in sampling order, `L` layers.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from .errors import DmqError
from .recipe import (
    ENGINES,
    FLOAT,
    SIMULATED,
    Benchmark,
    Cache,
    Hqq,
    KMeans,
    LowRank,
    Temporal,
    Tiar,
    Uniform,
    WeightFormat,
    Weights,
    format_name,
)


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
class ActivationStats:
    """What was seen of the activations, per site and timestep; two merge exactly
    (`capture.activations.merge`).

    The histogram of site s has bins [(first[s] + j) * 2**exponent[s], (first[s] + j + 1) *
    2**exponent[s]), the same for all its timesteps. Its counts are of a seeded subset of the
    elements where `subset` says so, and at outputs and at the softmax outputs of attention so are
    the power sums; all else is of every element."""

    model: str
    fingerprint: str  # ModelInfo.fingerprint of the model that was watched
    sampler: str  # scheduler class and settings, one line
    timesteps: tuple[
        float, ...
    ]  # distinct values in sampling order: timesteps[i] is the noisiest for i = 0
    sites: tuple[Site, ...]
    samples: int  # images generated
    # histogram elements of a site per row of a denoiser call (guidance: 2 rows an image); 0: all
    subset: int
    exponent: np.ndarray  # [S] int16
    first: np.ndarray  # [S] int32
    counts: tuple[np.ndarray, ...]  # S arrays [T, bins of s], integer
    elements: np.ndarray  # [S, T] int64: elements behind the moments
    minimum: np.ndarray  # [S, T] float32
    maximum: np.ndarray  # [S, T] float32
    power_sums: np.ndarray  # [S, T, 4] float64: sums of x, x^2, x^3, x^4
    channel_min: tuple[np.ndarray, ...]  # S arrays [T, channels of s] float32
    channel_max: tuple[np.ndarray, ...]
    made_on: str = (
        ""  # device and dtype of the model that was watched; "" in captures that did not say
    )

    @cached_property
    def index(self) -> dict[tuple[str, str], int]:
        """Position of each (name, point)."""
        return {(site.name, site.point): s for s, site in enumerate(self.sites)}

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    def only(self, rows: Sequence[int]) -> "ActivationStats":
        """The statistics of some sites."""
        rows = list(rows)
        arrays = ("exponent", "first", "elements", "minimum", "maximum", "power_sums")
        lists = ("sites", "counts", "channel_min", "channel_max")
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in arrays},
            **{name: tuple(getattr(self, name)[s] for s in rows) for name in lists},
        )

    def updated(self, seen: "ActivationStats") -> "ActivationStats":
        """These statistics with what was `seen` in the place of their own at the sites of `seen`.

        Raises KeyError for a site that is none of these.
        """
        rows = [self.index[site.name, site.point] for site in seen.sites]
        made: dict[str, Any] = {}
        for name in ("exponent", "first", "elements", "minimum", "maximum", "power_sums"):
            made[name] = getattr(self, name).copy()
            made[name][rows] = getattr(seen, name)
        for name in ("counts", "channel_min", "channel_max"):
            lent = dict(zip(rows, getattr(seen, name), strict=True))
            made[name] = tuple(lent.get(s, own) for s, own in enumerate(getattr(self, name)))
        return replace(self, **made)

    def unlike(self, base: "ActivationStats") -> list[int]:
        """The positions of the sites at which not the same was seen as in `base`, those that it
        lacks among them.
        """
        names = (
            "exponent",
            "first",
            "elements",
            "minimum",
            "maximum",
            "power_sums",
            "counts",
            "channel_min",
            "channel_max",
        )
        places = [(s, base.index.get((site.name, site.point))) for s, site in enumerate(self.sites)]
        return [
            s
            for s, b in places
            if b is None
            or not all(np.array_equal(getattr(self, n)[s], getattr(base, n)[b]) for n in names)
        ]

    def edges(self, s: int) -> np.ndarray:
        """The bin edges of site s, float64 [bins + 1]."""
        return (self.first[s] + np.arange(self.counts[s].shape[1] + 1)) * 2.0 ** int(
            self.exponent[s]
        )

    @cached_property
    def mean(self) -> np.ndarray:
        return self.power_sums[..., 0] / self.elements

    @cached_property
    def power(self) -> np.ndarray:
        """Mean of x^2, [S, T]: what errors are measured against."""
        return self.power_sums[..., 1] / self.elements

    @cached_property
    def std(self) -> np.ndarray:
        return np.sqrt(np.maximum(self.power - self.mean**2, 0))

    @cached_property
    def kurtosis(self) -> np.ndarray:
        """Excess kurtosis [S, T]; 0 for a normal distribution and for a constant."""
        m, (s2, s3, s4) = self.mean, (self.power_sums[..., k] / self.elements for k in (1, 2, 3))
        variance = s2 - m**2
        fourth = s4 - 4 * m * s3 + 6 * m**2 * s2 - 3 * m**4
        return np.where(
            variance > 1e-12 * np.maximum(s2, 1e-30),
            fourth / np.maximum(variance, 1e-30) ** 2 - 3,
            0.0,
        )

    def quantile(self, s: int, q: float) -> np.ndarray:
        """The q-quantile of site s at every step [T], linear within a bin, never outside what
        was seen.
        """
        counts, edges = self.counts[s].astype(np.float64), self.edges(s)
        total = counts.sum(1)
        below = np.concatenate([np.zeros((len(counts), 1)), counts.cumsum(1)], 1)
        rows = [
            np.interp(q * n, b, edges) if n else np.nan for n, b in zip(total, below, strict=True)
        ]
        return np.clip(rows, self.minimum[s], self.maximum[s])


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """The denoiser calls of pipeline runs, in the order made: enough to repeat any of them."""

    timesteps: tuple[float, ...]  # distinct, in sampling order
    step: np.ndarray  # [calls] int32: i of each call, timesteps[i] its t
    inputs: tuple[np.ndarray, ...]  # per call: x_t as the denoiser got it, [B, ...] float32
    outputs: tuple[np.ndarray, ...]  # per call: what it answered, same batch
    half: tuple[
        np.ndarray, ...
    ]  # per call [B] int8: 0 unconditional, 1 conditional, -1 no guidance
    conditioning: dict[str, np.ndarray] = field(
        default_factory=dict
    )  # distinct arrays by "call/argument" name
    arguments: tuple[
        dict[str, str], ...
    ] = ()  # per call: denoiser argument -> key into `conditioning`


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The partition of the steps: `slot[s, i]` is the slot of site s at step i, numbered from 0
    without gaps.
    """

    sites: tuple[Site, ...]
    slot: np.ndarray  # [S, T] int16; equal rows when one partition serves all

    def boundaries(self, s: int = 0) -> tuple[int, ...]:
        """The first step of every group but the first one of site s, in order."""
        return tuple(int(i) + 1 for i in np.flatnonzero(np.diff(self.slot[s])))


@dataclass(frozen=True, kw_only=True)
class GroupErrors:
    """Quantization error of the activations under a partition, from statistics alone. Arrays [S, T]
    float64.

    `rounding + clipping` is the mean squared error at a step; `power` is the mean of x^2 there.
    """

    groups: Groups
    bits: np.ndarray  # [S, T] of each site at each step; FLOAT rows have no error
    low: np.ndarray  # [S, T] the range in force at each step
    high: np.ndarray
    rounding: np.ndarray
    clipping: np.ndarray
    power: np.ndarray

    @property
    def relative(self) -> np.ndarray:
        """Error over power [S, T]: 0.01 means 20 dB."""
        return (self.rounding + self.clipping) / np.maximum(self.power, 1e-30)

    def per_step(self) -> np.ndarray:
        """Mean over the quantized sites of the relative error [T]."""
        quantized = (self.bits < FLOAT).any(1)
        return (
            self.relative[quantized].mean(0) if quantized.any() else np.zeros(self.power.shape[1])
        )

    def per_site(self) -> np.ndarray:
        """Mean over the steps of the relative error [S]."""
        return self.relative.mean(1)

    @property
    def total(self) -> float:
        return float(self.per_step().mean())


@dataclass(frozen=True, kw_only=True)
class WindowEffects:
    """What it does to images to leave activations in float within one window of the steps. W
    windows.

    Latent errors are mean |x^ - x|^2 / |x|^2 of the finished samples, paired by noise; matches are
    100 * cosine of image and prompt, nan where there are no prompts."""

    timesteps: tuple[float, ...]
    starts: tuple[int, ...]  # the first step of each window; the last one ends with the trajectory
    fidelity: np.ndarray  # [W, images] latent error with that window in float
    fidelity_all: np.ndarray  # [images] with all steps quantized
    text: np.ndarray  # [W, images] match
    text_all: np.ndarray  # [images]
    text_float: np.ndarray  # [images] of the float model
    scorer: str  # what judged images and prompts; "" if nothing did

    @property
    def windows(self) -> tuple[tuple[int, int], ...]:
        """First step and last plus one of each window."""
        return tuple(pairwise([*self.starts, len(self.timesteps)]))

    @property
    def lengths(self) -> np.ndarray:
        """Steps in each window, [W]."""
        return np.diff([*self.starts, len(self.timesteps)])

    def gain_per_image(self, judge: str) -> np.ndarray:
        """What each window brings each image [W, images]: decibels of its latent error, or
        match.

        Decibels, so that every image counts alike: a few err a hundred times more than the
        others."""
        if judge == "text":
            return self.text - self.text_all
        smallest = np.finfo(np.float32).tiny
        return 10 * np.log10(
            np.maximum(self.fidelity_all, smallest) / np.maximum(self.fidelity, smallest)
        )

    def gains(self, judge: str) -> np.ndarray:
        """What each restored step brings, mean over the images [W]: decibels of error, or match
        that is won.

        Raises DmqError if `judge` is "text" and nothing judged that.
        """
        if judge == "text" and not np.isfinite(self.text_all).any():
            raise DmqError(
                "relaxing.judge is 'text', but this model generates without prompts; set it to "
                "fidelity."
            )
        return self.gain_per_image(judge).mean(1) / self.lengths

    @property
    def typical_error(self) -> float:
        """Latent error with all steps quantized, geometric mean over the images."""
        return float(
            np.exp(np.log(np.maximum(self.fidelity_all, np.finfo(np.float32).tiny)).mean())
        )

    def step_gains(self, judge: str) -> np.ndarray:
        """`gains` of the window that each step is in, [T]."""
        return np.repeat(self.gains(judge), self.lengths)


@dataclass(frozen=True, kw_only=True)
class OverTime:
    """Errors along the steps, by recipe name; T steps, P images, all as squared distance over
    squared length.
    """

    timesteps: tuple[float, ...]
    coefficients: (
        np.ndarray
    )  # [T] |c_i|: how far the sampler moves for each unit of error in the answer
    accumulated: dict[
        str, np.ndarray
    ]  # [T, P] of the latents after each step, on the model's own trajectory
    predicted_x0: dict[
        str, np.ndarray
    ]  # [T, P] of the finished sample that each answer stands for; {} if unknown
    isolated: dict[str, np.ndarray]  # [T] of the noise prediction, on the float model's trajectory
    mean_bits: dict[str, float]  # of the activations
    watched: tuple[int, ...]  # steps whose foreseen image is in the strips
    strips: dict[
        str, tuple[np.ndarray, ...]
    ]  # "float" included: one image at these steps, then finished


@dataclass(frozen=True, kw_only=True)
class ProbeImage:
    """What an amplified quantization error within one window of steps makes of an image."""

    start: int
    end: int  # behind the last step
    gain: float
    pixels: np.ndarray  # uint8 [H, W, 3]
    exact: np.ndarray  # the float model's image
    error: (
        float  # squared distance of the finished sample from the float one, over its squared length
    )
    psnr: float
    match: float  # 100 * cosine of image and prompt; nan where there is none
    match_float: float


@dataclass(frozen=True, kw_only=True)
class ProgressiveRanges:
    """Activation ranges that were set along the trajectory of the quantized model (PCR).

    `stats` are those of the float model's trajectory, with what was seen on the quantized one at
    every input that is quantized; `low` and `high` [S, T] are the ranges in force, nan at other
    sites."""

    stats: ActivationStats
    low: np.ndarray  # [S, T] float32
    high: np.ndarray
    calls: int  # denoiser calls of the pipeline: T, unless some timestep is visited more than once
    widest_change: (
        float  # largest part by which a range that several calls share grew after it was first used
    )


@dataclass(frozen=True, kw_only=True)
class SensitivityTable:
    """What each layer's weight costs as each of some choices. L layers, C choices, T steps that
    were looked at.

    Costs of different kinds have different units; within a table lower is better, and costs of
    different layers add up (roughly). `nan`: not known."""

    title: str  # what was asked, in words: "noise error, only this layer"
    kind: str  # "measured", "estimated" (fisher), "local", "predicted", "score"
    unit: str  # of the costs: "part of the noise prediction's power", "dB", "score (negated)"
    model: str
    fingerprint: str
    layers: tuple[Layer, ...]  # in forward order
    choices: tuple[WeightFormat, ...]  # "float" among them only where it is a choice
    bytes: np.ndarray  # [L, C] int64: of the layer's weight
    cost: np.ndarray  # [L, C] float64
    spread: np.ndarray  # [L, C] float64: standard error of the cost
    timesteps: tuple[float, ...] = ()  # those looked at, in sampling order
    per_step: np.ndarray | None = None  # [L, C, T] float64
    local: np.ndarray | None = (
        None  # [L, C] float64: squared error of the weight over its squared length
    )
    note: str = ""  # why it is not complete, if it is not; what to beware of

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The choices' short names."""
        return tuple(map(format_name, self.choices))

    @cached_property
    def row(self) -> dict[str, int]:
        """Position of each layer by its name."""
        return {layer.name: n for n, layer in enumerate(self.layers)}

    @property
    def num_weights(self) -> int:
        """How many weights all layers have together."""
        return sum(layer.num_weights for layer in self.layers)

    def among(self, labels: Collection[str]) -> "SensitivityTable":
        """The table of some of the choices."""
        some = [c for c, label in enumerate(self.labels) if label in labels]
        parts = ("bytes", "cost", "spread", "per_step", "local")
        held = {part: getattr(self, part) for part in parts}
        left = {part: None if values is None else values[:, some] for part, values in held.items()}
        return replace(self, choices=tuple(self.choices[c] for c in some), **left)

    def only(self, names: Collection[str]) -> "SensitivityTable":
        """The table of some of the layers."""
        rows = [n for n, layer in enumerate(self.layers) if layer.name in names]
        parts = ("bytes", "cost", "spread", "per_step", "local")
        held = {part: getattr(self, part) for part in parts}
        some = {part: None if values is None else values[rows] for part, values in held.items()}
        return replace(self, layers=tuple(self.layers[n] for n in rows), **some)

    @property
    def sensitivity(self) -> np.ndarray:
        """How much the choice matters in each layer [L]: from its cheapest to its dearest
        choice.
        """
        return np.nanmax(self.cost, 1) - np.nanmin(self.cost, 1)


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """A choice for every layer of a table."""

    layers: tuple[str, ...]
    choices: tuple[WeightFormat, ...]  # of each layer
    bytes: int  # of all their weights
    average_bits: float  # 8 * bytes over the number of weights
    cost: float  # sum of the table's costs
    reasons: tuple[str, ...]  # of each layer, one line
    bound: float = float("nan")  # no allocation within the budget costs less than this
    fingerprint: str = ""  # of the model whose table it was made from; "": not known


@dataclass(frozen=True, kw_only=True)
class Piece:
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
    pieces: tuple[Piece, ...]  # every weight layer is in one of them
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


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """How well one way to predict labels does on mixes that it was not fitted to; means over
    folds, nan: no such.
    """

    name: str  # "graph network", "ridge on choices", …
    srcc: float  # Spearman's correlation of predictions with labels
    spread: float  # its standard error over the folds
    quality: float  # the same once average bits are regressed out of both
    ndcg: float
    tau: float  # Kendall's correlation between the scores of two folds


@dataclass(frozen=True, kw_only=True)
class PieceScores:
    """The scores of a piece's choices: M mixes of its K weight layers."""

    piece: str
    kind: str
    layers: tuple[str, ...]  # K
    mixes: np.ndarray  # [M, K] int16: positions among the choices
    scores: np.ndarray  # [M] float32, mean over folds
    spread: np.ndarray  # [M] float32, standard error over folds
    complete: bool  # all mixes, or some at random


@dataclass(frozen=True, kw_only=True)
class PredictorResult:
    """What random mixes of choices teach about them.

    N mixes, L layers, C choices. Scores: the higher the better.
    """

    model: str
    fingerprint: str
    layers: tuple[Layer, ...]
    types: tuple[str, ...]  # of each layer, such as "attn1.to_q"
    choices: tuple[WeightFormat, ...]
    bytes: np.ndarray  # [L, C] int64
    local: np.ndarray  # [L, C] float64: squared error of the weight over its squared length
    label: str  # what the labels are, in words
    mixes: np.ndarray  # [N, L] int16: positions among the choices
    labels: np.ndarray  # [N] float64
    again: np.ndarray  # [R] float64: labels of the first R mixes with other noises
    average_bits: np.ndarray  # [N] float64
    fold: np.ndarray  # [N] int16: which fold a mix was held out of
    predicted: np.ndarray  # [N] float64: by the network of the fold that did not see it
    predictions: tuple[Prediction, ...]  # the graph network first, then the controls
    op_scores: np.ndarray  # [L, C] float64: of a layer by itself
    op_spread: np.ndarray  # [L, C] float64: standard error over folds
    pieces: tuple[PieceScores, ...]
    ridge: np.ndarray  # [L, C] float64: what a choice adds to the label, by ridge regression
    ridge_spread: np.ndarray  # [L, C] float64
    note: str = ""

    @property
    def noise(self) -> float:
        """Standard deviation of a label from the choice of noises; nan if no mix was judged
        twice.
        """
        wrong = self.again - self.labels[: len(self.again)]
        return float(np.sqrt(np.mean(wrong**2) / 2)) if len(wrong) else float("nan")

    @property
    def as_good(self) -> tuple[str, ...]:
        """The controls whose held-out correlation is not below the network's by more than both
        are unsure of.
        """
        best, *others = self.predictions
        return tuple(
            one.name
            for one in others
            if "permuted" not in one.name
            and one.srcc >= best.srcc - float(np.hypot(one.spread, best.spread))
        )

    def block_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """For each layer and choice the mean score, and its standard error, of its piece's mixes
        with it; [L, C].
        """
        scores, spread = self.op_scores.copy(), self.op_spread.copy()
        row = {layer.name: n for n, layer in enumerate(self.layers)}
        for piece in self.pieces:
            for k, name in enumerate(piece.layers):
                for c in range(len(self.choices)):
                    chosen = piece.mixes[:, k] == c
                    if chosen.any():
                        scores[row[name], c] = piece.scores[chosen].mean()
                        spread[row[name], c] = piece.spread[chosen].mean()
        return scores, spread

    def table(self, level: str = "block") -> SensitivityTable:
        """The scores as costs: of each layer by itself ("op"), or of its choices whatever others
        take ("block").

        At the level of blocks a layer's score is the mean over the other choices of its piece,
        which a table of layers cannot tell apart."""
        scores, spread = (
            self.block_scores() if level == "block" else (self.op_scores, self.op_spread)
        )
        title = {
            "op": "predicted score of each layer",
            "block": "predicted score of each layer in its block",
        }[level]
        return self._table(title, "score", "score (negated)", -scores, spread)

    def ridge_table(self) -> SensitivityTable:
        """The costs that a ridge regression on the choices finds: what each takes off the label."""
        cost = self.ridge.max(1, keepdims=True) - self.ridge
        return self._table(
            "predicted by ridge regression", "predicted", self.label, cost, self.ridge_spread
        )

    def _table(
        self, title: str, kind: str, unit: str, cost: np.ndarray, spread: np.ndarray
    ) -> SensitivityTable:
        return SensitivityTable(
            title=title,
            kind=kind,
            unit=unit,
            model=self.model,
            fingerprint=self.fingerprint,
            layers=self.layers,
            choices=self.choices,
            bytes=self.bytes,
            cost=cost,
            spread=spread,
            local=self.local,
            note=self.note,
        )


@dataclass(frozen=True, kw_only=True)
class SearchSnapshot:
    """A search for groups as it stands; Q searched sites, T steps, G groups."""

    phase: str  # "Generate", "Start", "Search", "Measure", "Refit" or "Choose"
    done: int
    total: int  # of this phase
    step: int | None  # the step i of the last iteration
    error: float  # its relative noise-prediction error; nan before the first one
    # what the entropy added to the loss there; the error counts as a share of its step's first one
    penalty: float
    importance: np.ndarray  # [Q, T, G] float32: rows sum to 1
    entropy: (
        np.ndarray
    )  # [T]: mean over sites, 1 where all groups are alike, 0 where all have chosen
    visits: np.ndarray  # [T]: how often each step was used


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Groups and ranges that a search found (ADP-DM), with what it takes to judge them. Q searched
    sites.

    `soft`, `hard` and `refitted` are relative noise-prediction errors per step on the images that
    were learned from: with mixed groups, with each step in one group, and with the groups and
    ranges that are kept: learned again, and chosen on images laid aside."""

    model: str
    fingerprint: str
    sampler: str
    timesteps: tuple[float, ...]
    sites: tuple[Site, ...]
    bits: np.ndarray  # [Q] uint8
    slot: (
        np.ndarray
    )  # [Q, T] int16, numbered from 0 without gaps; a group need not be a run of steps
    low: np.ndarray  # [Q, G] float32: of each group; 0 behind a site's last one
    high: np.ndarray
    importance: np.ndarray  # [Q, T, G] float16, before each step was given to one group
    visits: np.ndarray  # [T] int32: N, the chosen calibration steps
    steps: np.ndarray  # [n] int32: the step of every iteration
    errors: np.ndarray  # [n] float32: its relative noise-prediction error
    penalties: np.ndarray  # [n] float32: what the entropy added to the loss
    soft: np.ndarray  # [T] float64
    hard: np.ndarray
    refitted: np.ndarray
    local: dict[
        str, np.ndarray
    ]  # [T] relative error of the activations, mean over sites, by way of grouping
    note: str = ""  # why it ended before its time, if it did

    @property
    def scattered(self) -> np.ndarray:
        """[Q] bool: has the site a group that is no single run of steps?"""
        return (np.diff(self.slot, axis=1) != 0).sum(1) > self.slot.max(1)


@dataclass(frozen=True, kw_only=True)
class ActivationQParams:
    """The activation quantizer of one site (contract 2): scale and zero per slot, a slot per
    timestep.

    codes = clip(round(x / scale[slot]) + zero[slot], 0, 2**bits[slot] - 1). Per channel, scale and
    zero are [slots, C] and `axis` is the channel's axis in x; where runs of channels share theirs,
    `parts` are the lengths of the runs and scale and zero [slots, runs]. A `dynamic` one takes
    dynamic ranges: it has no scale and zero, [0], and slots only where steps differ in bits.
    """

    site: Site
    bits: np.ndarray  # [slots] uint8
    scale: np.ndarray  # [slots], [slots, C] or [slots, runs] float32
    zero: np.ndarray  # like scale, int32
    slot: np.ndarray  # [T] int16
    axis: int | None = None
    parts: tuple[int, ...] = ()
    dynamic: str = ""  # "token", "place", "call" or "sample": what has the range of its own values
    symmetric: bool = False  # such a range

    @property
    def bytes(self) -> int:
        slots = (
            0 if self.dynamic and len(self.bits) == 1 else len(self.slot)
        )  # a slot is stored in one byte
        return self.bits.nbytes + self.scale.nbytes + self.zero.nbytes + slots

    @property
    def per(self) -> str:
        """What gets a range at run time, as `value_ranges` has it; "" if that is known before,
        as a softmax's 0..1.
        """
        if self.site.point == "probs":
            return ""
        conv = self.site.kind == "conv"
        return {"token": "sample" if conv else "token", "call": "call" if conv else "token"}.get(
            self.dynamic, self.dynamic
        )

    @property
    def per_words(self) -> str:
        """`per` as it is said to users."""
        return {"place": "pixel of the call"}.get(self.per, self.per)


ROUNDINGS = {
    KMeans: "k-means",
    Hqq: "HQQ",
    LowRank: "low rank",
}  # where codes are not just the nearest ones


@dataclass(frozen=True, kw_only=True)
class PlannedLayer:
    """What the plan decides for one layer, and what that costs."""

    layer: Layer
    weights: Weights  # its bits are FLOAT where the weight stays as it is
    activation_bits: int  # FLOAT: no bank
    reason: (
        str  # why a part is in float: "", "first layer", "last layer", "override GLOB", "recipe"
    )
    weight_bytes: int  # codes, scales and zero points; or 4 bytes a weight in float
    bias_bytes: int
    bank: (
        ActivationQParams | None
    )  # of its input; layers with the same bank share one, which is stored once
    dropped: bool = False  # the model does without it, since a cache holds what it would compute
    learned: str = (
        ""  # how its codes are learned: "TIAR", "block", …; "" if they follow from the weight alone
    )
    # input channels before those of a shortcut, which have scales of their own; 0: nothing is split
    split: int = 0

    @property
    def format(self) -> str:
        """Such as "W8A8", or "KMC-4 A8" off the uniform grid; "W8A32" and "KMC-4" have inputs in
        float.

        A layer without a quantized part is "float".
        """
        if self.dropped:
            return "cached"
        if self.weights.bits == self.activation_bits == FLOAT:
            return "float"
        if self.weights.bits == FLOAT or isinstance(self.weights.format, Uniform):
            return f"W{self.weights.bits}A{self.activation_bits}"
        inputs = f" A{self.activation_bits}" if self.activation_bits < FLOAT else ""
        return format_name(self.weights) + inputs

    @property
    def rounding(self) -> str:
        """Where its codes come from: what they are learned by ("TIAR", "block", …), "nearest",
        "k-means", "HQQ", …

        "" without codes.
        """
        if self.dropped or self.weights.bits == FLOAT:
            return ""
        return self.learned or ROUNDINGS.get(type(self.weights.format), "nearest")

    @property
    def unsmoothed(self) -> bool:
        """Is it low rank with calibrated ranges, which smoothed inputs cannot have?"""
        low_rank = (
            isinstance(self.weights.format, LowRank)
            and self.weights.bits < FLOAT
            and not self.dropped
        )
        return low_rank and self.bank is not None and not self.bank.dynamic


@dataclass(frozen=True, kw_only=True)
class TimeEmbedding:
    """What the plan decides for the time embedding as a whole; its layers are among `Plan.layers`."""

    block: TemporalBlock
    spec: Temporal
    cached: np.ndarray | None = (
        None  # [K, T] bool: features that come from the cache; None without one
    )

    @property
    def per_request(self) -> bool:
        """Is the cache built for each request, since more than t enters?"""
        return self.cached is not None and not self.block.finite

    @property
    def cache_bytes(self) -> int:
        """Of all cached features: codes without gaps, and a scale and a zero point for each, or
        half precision.

        Per request, that is for one row of conditioning. A selection by row stores also which ones
        are cached."""
        if self.cached is None:
            return 0
        widths = [projection.width for projection in self.block.projections]
        choice = -(-self.cached.size // 8) if self.spec.cache.selection == "row" else 0
        rows = zip(self.cached.sum(1).tolist(), widths, strict=True)
        return choice + sum(cache_bytes(n, width, self.spec.cache.bits) for n, width in rows)

    def line(self) -> str:
        """How the time embedding is kept, in one sentence."""
        parts = [f"{len(self.block.layers)} layers"]
        if isinstance(self.spec.rounding, Tiar):
            parts.append(f"rounding learned (TIAR, {self.spec.rounding.iterations} iterations)")
        if self.spec.fsc != "none":
            parts.append(
                {"tib": "ranges per step here", "all": "ranges per step for all activations"}[
                    self.spec.fsc
                ]
            )
        if isinstance(self.spec.cache, Cache) and self.cached is not None:
            rows = f"{int(self.cached.sum())} of {self.cached.size} features"
            kind = "half-precision" if self.spec.cache.bits == 16 else f"{self.spec.cache.bits}-bit"
            enters = ", ".join(self.block.depends[1:])
            built = (
                f", built per request since {enters} enters, from the float time embedding"
                if self.per_request
                else ""
            )
            parts.append(
                f"{kind} cache of {rows}{built} ({self.cache_bytes} "
                f"bytes{' each' * self.per_request})"
            )
        return ", ".join(parts)


def cache_bytes(rows: int, width: int, bits: int) -> int:
    """What `rows` temporal features of `width` numbers take in a cache of `bits`."""
    return (
        2 * rows * width
        if bits == 16
        else -(-rows * width * bits // 8) + rows * (4 + -(-bits // 8))
    )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The recipe resolved for one model: what each layer gets, the slot tables, the exact bytes."""

    model: str
    fingerprint: str
    timesteps: tuple[float, ...]
    unknown_timestep: str
    layers: tuple[PlannedLayer, ...]
    attention: tuple[
        ActivationQParams, ...
    ]  # banks of q, k, v, probs; empty when attention stays in float
    attention_sites: int  # how many such operands the model has, quantized or not
    vector_bits: int  # bits of 1-D parameters outside of the layers above; FLOAT when protected
    vector_bytes: int  # of all 1-D and other parameters that are no layer's weight or bias
    float_bytes: int  # the float denoiser, 4 bytes a parameter
    temporal: TimeEmbedding | None = None  # None: the time embedding is nothing special
    relaxed: tuple[int, ...] = ()  # steps whose activations have more bits
    relaxed_bits: int = FLOAT
    progressive: bool = False  # ranges come from the quantized trajectory
    step_sizes: int = 0  # sites whose step sizes were learned by gradients

    @property
    def weight_bytes(self) -> int:
        return sum(row.weight_bytes + row.bias_bytes for row in self.layers)

    @property
    def table_bytes(self) -> int:
        shared = {bank.site: bank.bytes for bank in (row.bank for row in self.layers) if bank}
        return sum(shared.values()) + sum(bank.bytes for bank in self.attention)

    @property
    def cache_bytes(self) -> int:
        """Of stored temporal features; a cache that is built per request is not stored."""
        return self.temporal.cache_bytes if self.temporal and not self.temporal.per_request else 0

    @property
    def bytes(self) -> int:
        """Everything the quantized denoiser must store."""
        return self.weight_bytes + self.table_bytes + self.cache_bytes + self.vector_bytes

    @property
    def average_bits(self) -> float:
        """Bits per weight of the layers, scales and zero points included."""
        kept = [row for row in self.layers if not row.dropped]
        return (
            8
            * sum(row.weight_bytes for row in kept)
            / max(1, sum(row.layer.num_weights for row in kept))
        )

    def coverage_line(self) -> str:
        """What is quantized to what, and everything that stays in float, in one sentence."""
        formats = Counter(row.format for row in self.layers if row.format != "float").most_common()
        counts = [f"{n} of {len(self.layers)} layers {name}" for name, n in formats[:1]]
        counts += [f"{n} {name}" for name, n in formats[1:]]
        kept = [row for row in self.layers if row.format == "float"]
        left = [f"{row.layer.name} ({row.reason})" for row in kept[:NAMED]]
        left += [f"{len(kept) - NAMED} more layers"] if len(kept) > NAMED else []
        if self.attention:
            bits = "/".join(
                f"A{b}" for b in sorted({int(b) for bank in self.attention for b in bank.bits})
            )
            counts.append(
                f"{len(self.attention)} of {self.attention_sites} attention operands {bits}"
            )
        if len(self.attention) < self.attention_sites:
            left.append(f"{self.attention_sites - len(self.attention)} attention operands")
        left += ["1-D parameters"] if self.vector_bits == FLOAT else []
        time = f"; time embedding: {self.temporal.line()}" if self.temporal else ""
        blocks = sum(row.learned == "block" for row in self.layers)
        learned = f"; rounding of {blocks} layers learned block by block" if blocks else ""
        split = sum(row.split > 0 for row in self.layers)
        apart = f"; shortcut split in {split} layers" if split else ""
        learned += (
            f"; step sizes of {self.step_sizes} activations learned" if self.step_sizes else ""
        )
        walked = "; ranges from the quantized trajectory" if self.progressive else ""
        walked += f"; {self.dynamic_line()}" if self.dynamic_line() else ""
        plain = sum(row.unsmoothed for row in self.layers)
        apart += (
            f"; low rank without smoothing in {plain} layers, whose ranges are calibrated"
            if plain
            else ""
        )
        relaxed = f"; {self.relaxed_line()}" if self.relaxed else ""
        counted, floats = ", ".join(counts) or "nothing quantized", ", ".join(left) or "nothing"
        return f"{counted}; float: {floats}{time}{apart}{learned}{walked}{relaxed}"

    def dynamic_line(self) -> str:
        """Which activations have dynamic ranges: "activations A8 dynamic per token"; "" if
        none has.
        """
        banks = [
            bank
            for bank in (*(row.bank for row in self.layers), *self.attention)
            if bank and bank.per
        ]
        bits = "/".join(f"A{b}" for b in sorted({int(b) for bank in banks for b in bank.bits}))
        said = {bank.per: bank.per_words for bank in banks}
        first, *others = [per for per in ("token", "sample", "call", "place") if per in said] or [
            ""
        ]
        where = {"place": "those of 1 x 1"}
        but = ", ".join(f"per {said[per]} in {where.get(per, 'convolutions')}" for per in others)
        return (
            f"activations {bits} dynamic per {said[first]}{f' ({but})' * bool(but)}"
            if banks
            else ""
        )

    @property
    def mean_activation_bits(self) -> float:
        """Bits of the quantized layers' inputs, mean over layers and steps; FLOAT if none is
        quantized.
        """
        banks = [row.bank for row in self.layers if row.bank]
        return (
            float(np.mean([bank.bits[bank.slot].mean() for bank in banks]))
            if banks
            else float(FLOAT)
        )

    def relaxed_line(self) -> str:
        """Which steps have more activation bits, such as "10 of 50 steps (40 to 49) with 10-bit
        activations".
        """
        if not self.relaxed:
            return ""
        first, last = self.relaxed[0], self.relaxed[-1]
        run = last - first + 1 == len(self.relaxed)
        which = f"{first} to {last}" if run else ", ".join(map(str, self.relaxed))
        return f"{len(self.relaxed)} of {len(self.timesteps)} steps ({which}) with {self.relaxed_bits}-bit activations"

    def coverage_rows(self) -> list[dict[str, str | int]]:
        """A row for each layer, the cache, and each quantized attention operand: bits, rounding,
        reason, bytes.
        """
        first = {row.bank.site: row.layer.name for row in reversed(self.layers) if row.bank}
        rows: list[dict[str, str | int]] = [
            {
                "layer": row.layer.name,
                "kind": row.layer.kind,
                "block": row.layer.block,
                "weights": "cached" if row.dropped else _weight_bits(row),
                "activations": "cached" if row.dropped else _activation_bits(row),
                "groups": len(row.bank.bits) if row.bank else 0,
                "rounding": row.rounding,
                "reason": row.reason,
                "bytes": row.weight_bytes
                + row.bias_bytes
                + (row.bank.bytes if row.bank and first[row.bank.site] == row.layer.name else 0),
            }
            for row in self.layers
        ]
        if self.cache_bytes:
            rows.append(
                {
                    "layer": "cache of temporal features",
                    "kind": "cache",
                    "block": "",
                    "weights": "",
                    "activations": "",
                    "groups": 0,
                    "rounding": "",
                    "reason": "",
                    "bytes": self.cache_bytes,
                }
            )
        return rows + [
            {
                "layer": bank.site.label,
                "kind": "attention",
                "block": bank.site.block,
                "weights": "",
                "activations": _bank_bits(bank),
                "groups": len(bank.bits),
                "rounding": "",
                "reason": "",
                "bytes": bank.bytes,
            }
            for bank in self.attention
        ]


@dataclass(frozen=True, kw_only=True)
class TemporalErrors:
    """What quantization does to the temporal features; K projections, T steps in sampling order.

    "before" is the time embedding treated as all other layers, "computed" that of the recipe (learned
    rounding, ranges per step), "after" what the model really uses: computed, or from the cache
    where `cached` says so. Where more than t enters, cosines and shifts are those of the worst row
    of conditioning, errors are means over the rows."""

    block: TemporalBlock
    timesteps: tuple[float, ...]
    conditionings: int  # rows of conditioning that were tried; 1 where t is all that enters
    cosine_before: np.ndarray  # [K, T] float32: between a feature and the float one
    cosine_computed: np.ndarray
    cosine_after: np.ndarray
    shift_before: (
        np.ndarray
    )  # [K, T] int32: the step whose float feature is nearest, minus the step; 0 is right
    shift_after: np.ndarray
    error_before: np.ndarray  # [K, T] float32: squared error over squared length
    error_computed: np.ndarray
    error_cached: np.ndarray  # with the recipe's cache bits; nan without a cache
    cached: np.ndarray  # [K, T] bool: the selection; all False without a cache
    inputs: tuple[str, ...]  # a layer for each of the different activations in the block
    low: np.ndarray  # [inputs, T] float32: their ranges at each step
    high: np.ndarray
    cache_bits: np.ndarray  # [B] what a cache could have
    cache_errors: np.ndarray  # [B, K, T] float32
    cache_sizes: np.ndarray  # [B] bytes of a cache of everything, per row of conditioning
    computed_bytes: int  # of the time embedding's layers, which such a cache replaces where t is all that enters
    vectors: tuple[
        np.ndarray, ...
    ]  # K arrays [T, C_k] float32: the float features, of the first conditioning
    vectors_before: tuple[np.ndarray, ...]
    vectors_after: tuple[np.ndarray, ...]
    losses: np.ndarray  # [iterations] of the learned rounding; empty without one
    note: str = ""  # why its training ended before its time, if it did


NAMED = 4  # float layers that a coverage line names before it counts them


def _bits(bits: int) -> str:
    return "float" if bits == FLOAT else f"{bits} bit"


def _weight_bits(row: PlannedLayer) -> str:
    """Such as "8 bit", or "KMC-4" off the uniform grid."""
    return (
        _bits(row.weights.bits)
        if isinstance(row.weights.format, Uniform)
        else format_name(row.weights)
    )


def _activation_bits(row: PlannedLayer) -> str:
    return _bits(row.activation_bits) if row.bank is None else _bank_bits(row.bank)


def _bank_bits(bank: ActivationQParams) -> str:
    """Such as "8 bit", "8 and 10 bit" where some steps have more, or "8 bit per token" with
    dynamic ranges.
    """
    per = f" per {bank.per_words}" if bank.per else ""
    return f"{' and '.join(map(str, sorted(set(bank.bits.tolist()))))} bit{per}"


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """One quantized image against the float one from the same noise."""

    recipe: str
    prompt: str
    seed: int
    psnr: float  # dB, on images in 0..1; inf when equal
    ssim: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was measured in a comparison, with its context."""

    scores: tuple[ImageScore, ...]
    seconds: dict[str, float]  # by recipe name, "float" included: sampling time of all its images
    bytes: dict[str, int]
    coverage: dict[str, str]  # by recipe name, one line: what stayed in float
    noise_floor: dict[
        str, float
    ]  # PSNR and SSIM of float images against float ones with other seeds
    samples: int
    warnings: tuple[str, ...] = ()
    place: str = ""  # where it ran: device, dtype, offload


@dataclass(frozen=True)
class Execution:
    """A line of coverage in its parts: what is quantized to what, what computed it, and which
    kernels ran it.
    """

    quantized: str
    engine: str  # one of ENGINES
    kernels: tuple[str, ...] = ()  # such as "41 layers on oneDNN int8"; empty if simulated
    fell_back: tuple[str, ...] = ()  # such as "2 in float (it is split and has groups)"

    @classmethod
    def of(cls, coverage: str) -> "Execution":
        """The parts of what `stages.coverage` says, of which a report keeps only the line."""
        for engine in ENGINES:
            quantized, executed, ran = coverage.partition(f"; {engine}: ")
            if executed:
                parts = ran.split("; ")
                slow = tuple(part for part in parts if " in float (" in part)
                return cls(
                    quantized, engine, tuple(part for part in parts if part not in slow), slow
                )
        return cls(coverage, SIMULATED)

    def line(self) -> str:
        """What computed it: "simulated", or "executed: 41 layers on oneDNN int8; ⚠ fell back: 2
        in float (…)".
        """
        said = f"{self.engine}: {', '.join(self.kernels)}" if self.kernels else self.engine
        return f"{said}; ⚠ fell back: {', '.join(self.fell_back)}" if self.fell_back else said


def speed(seconds: float, float_seconds: float) -> str:
    """How many times as fast as the float model, such as "1.83×"; "–" where no time was taken."""
    return f"{float_seconds / seconds:.2f}×" if seconds > 0 else "–"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What a figure of a benchmark means."""

    name: str
    label: str
    unit: str
    higher: bool  # is more better?
    digits: int
    help: str
    paired: bool = True  # a number for each image; otherwise one for a set of images
    times: float = 1.0  # shown values are this times the measure as published


BENCH_MEASURES = {
    measure.name: measure
    for measure in (
        Measure(
            name="psnr",
            label="PSNR",
            unit="dB",
            higher=True,
            digits=2,
            help="peak signal-to-noise ratio against the float image of the same noise",
        ),
        Measure(
            name="ssim",
            label="SSIM",
            unit="",
            higher=True,
            digits=4,
            help="structural similarity to the float image of the same noise",
        ),
        Measure(
            name="distance",
            label="Feature distance",
            unit="",
            higher=False,
            digits=4,
            help="distance of features from those of the float image, over the length of the "
            "latter",
        ),
        Measure(
            name="latent",
            label="Latent error",
            unit="",
            higher=False,
            digits=4,
            help="squared distance of the finished sample from the float one, over the power of "
            "the latter",
        ),
        Measure(
            name="fid",
            label="FID to float",
            unit="",
            higher=False,
            digits=3,
            paired=False,
            help="Fréchet distance of features to those of the float images; biased upwards at "
            "small n",
        ),
        Measure(
            name="kid",
            label="KID to float × 1000",
            unit="",
            higher=False,
            digits=4,
            paired=False,
            times=1000,
            help="kernel distance of features to those of the float images, unbiased: may be "
            "below 0",
        ),
        Measure(
            name="cmmd",
            label="CMMD to float",
            unit="",
            higher=False,
            digits=4,
            paired=False,
            help="Gaussian-kernel distance of unit features to those of the float images, times "
            "1000",
        ),
        Measure(
            name="clip",
            label="CLIP score",
            unit="",
            higher=True,
            digits=2,
            help="100 times the cosine of image and prompt, 0 where negative",
        ),
        Measure(
            name="real fid",
            label="FID to real",
            unit="",
            higher=False,
            digits=3,
            paired=False,
            help="Fréchet distance of features to those of real images: another domain, never "
            "read alone",
        ),
        Measure(
            name="real kid",
            label="KID to real × 1000",
            unit="",
            higher=False,
            digits=4,
            paired=False,
            times=1000,
            help="kernel distance of features to those of real images: another domain",
        ),
        Measure(
            name="real cmmd",
            label="CMMD to real",
            unit="",
            higher=False,
            digits=4,
            paired=False,
            help="Gaussian-kernel distance of unit features to those of real images: another "
            "domain",
        ),
    )
}
FLOOR_NAME = "float, other seeds"  # whose figures are the noise floor of a benchmark


@dataclass(frozen=True, kw_only=True)
class BenchImage:
    """One image of a benchmark against the float one of the same prompt and seed."""

    recipe: str
    domain: str
    number: int  # position among the benchmark's images, which is also its file's name
    prompt: str
    seed: int
    finite: bool  # otherwise it has no values: it is counted, and in no mean
    values: dict[str, float]  # by measure


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured value with its 95 % interval over prompts."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """What one model got in one domain; the noise floor is the row of FLOOR_NAME."""

    recipe: str
    domain: str
    samples: int  # images that the figures are of
    failed: int  # images with numbers that are not finite, left out
    figures: dict[str, Figure]  # by measure
    seconds: float  # of sampling all images of the domain


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """A benchmark with all its context (contract 8)."""

    model: str
    sampler: str
    features: str
    reference: str  # what the real images are; "" without
    benchmark: Benchmark
    rows: tuple[BenchRow, ...]
    images: tuple[BenchImage, ...]
    bytes: dict[str, int]  # by recipe name, "float" included
    coverage: dict[str, str]  # by recipe name, one line
    machine: str  # where the seconds were taken
    warnings: tuple[str, ...] = ()

    def row(self, recipe: str, domain: str) -> BenchRow | None:
        return next(
            (row for row in self.rows if (row.recipe, row.domain) == (recipe, domain)), None
        )

    def floor(self, domain: str, measure: str) -> float:
        """The noise floor: the measure of float images with other seeds; nan if it was not
        measured.
        """
        row = self.row(FLOOR_NAME, domain)
        return row.figures[measure].value if row and measure in row.figures else float("nan")

    @property
    def recipes(self) -> tuple[str, ...]:
        """The rows' models in order: float and its noise floor first."""
        return tuple(dict.fromkeys(row.recipe for row in self.rows))
