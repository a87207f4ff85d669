"""What choices cost in each layer, measured or predicted, and what a budget chose."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..recipe import WeightFormat, format_name
from .model import Layer


@dataclass(frozen=True, kw_only=True, eq=False)
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
        left: dict[str, Any] = {
            part: None if values is None else values[:, some] for part, values in held.items()
        }
        return replace(self, choices=tuple(self.choices[c] for c in some), **left)

    def only(self, names: Collection[str]) -> "SensitivityTable":
        """The table of some of the layers."""
        rows = [n for n, layer in enumerate(self.layers) if layer.name in names]
        parts = ("bytes", "cost", "spread", "per_step", "local")
        held = {part: getattr(self, part) for part in parts}
        some: dict[str, Any] = {
            part: None if values is None else values[rows] for part, values in held.items()
        }
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
class Prediction:
    """How well one way to predict labels does on mixes that it was not fitted to; means over
    folds, nan: no such.
    """

    name: str  # "graph network", "ridge on choices", …
    srcc: float  # Spearman's correlation of predictions with labels
    spread: float  # its standard error over the folds
    # The same once average bits are regressed out of both.
    partial_srcc: float = field(metadata={"was": "quality"})
    ndcg: float
    tau: float  # Kendall's correlation between the scores of two folds


@dataclass(frozen=True, kw_only=True)
class SubgraphScores:
    """The scores of a piece's choices: M mixes of its K weight layers."""

    piece: str
    kind: str
    layers: tuple[str, ...]  # K
    mixes: np.ndarray  # [M, K] int16: positions among the choices
    scores: np.ndarray  # [M] float32, mean over folds
    spread: np.ndarray  # [M] float32, standard error over folds
    complete: bool  # all mixes, or some at random


@dataclass(frozen=True, kw_only=True, eq=False)
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
    pieces: tuple[SubgraphScores, ...]
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
