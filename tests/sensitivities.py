"""Made-up sensitivity tables that look like real ones: costs fall with bits and differ by layer
over decades.
"""

import dataclasses

import numpy as np

from dmq.recipe import KMeans, Uaq, WeightFormat
from dmq.results import Layer, Prediction, PredictorResult, SensitivityTable


CHOICES = tuple(
    WeightFormat(bits=bits, format=form) for bits in (4, 3, 2) for form in (Uaq(), KMeans())
)
PREDICTIONS = (
    Prediction(
        name="graph network", srcc=0.8125, spread=0.03, partial_srcc=0.517, ndcg=0.904, tau=0.62
    ),
    Prediction(
        name="ridge on <choices>", srcc=0.8, spread=0.021, partial_srcc=0.498, ndcg=0.889, tau=0.7
    ),
    Prediction(
        name="average bits",
        srcc=0.25,
        spread=0.05,
        partial_srcc=float("nan"),
        ndcg=0.5,
        tau=float("nan"),
    ),
)
ROLES = ("first", "attention", "feedforward", "residual", "time", "last")


def random_table(
    layers: int = 12, steps: int = 5, seed: int = 0, **changes: object
) -> SensitivityTable:
    """A table of CHOICES for `layers` layers in blocks of four; `changes` replace its fields."""
    rng = np.random.default_rng(seed)
    made = tuple(
        Layer(
            name=f"down_blocks.{n // 4}.attentions.{n % 4}.to_q",
            kind="linear",
            role=ROLES[n % len(ROLES)],
            block=f"down_blocks.{n // 4}" if n else "",
            shape=(8 * (1 + n % 5), 64),
            bias=True,
        )
        for n in range(layers)
    )
    bits = np.array([choice.bits for choice in CHOICES])
    cost = (
        10.0 ** rng.uniform(-5, -2, (layers, 1))
        * 4.0 ** (4 - bits)
        * rng.uniform(0.8, 1.2, (layers, len(bits)))
    )
    per_step = (
        None if not steps else cost[:, :, None] * rng.uniform(0.5, 1.5, (layers, len(bits), steps))
    )
    sizes = (
        np.array([layer.num_weights for layer in made])[:, None] * bits // 8
        + 4 * np.arange(len(bits))
        + 40
    )
    table = SensitivityTable(
        title=f"noise error, made up {seed}",
        kind="measured",
        unit="part of the power",
        model="tiny",
        fingerprint="0",
        layers=made,
        choices=CHOICES,
        bytes=sizes.astype(np.int64),
        cost=cost,
        spread=0.1 * cost,
        timesteps=tuple(float(t) for t in np.linspace(981, 1, steps)),
        per_step=per_step,
    )
    return dataclasses.replace(table, **changes)


def random_predictor(table: SensitivityTable, mixes: int = 20, seed: int = 0) -> PredictorResult:
    """A predictor whose scores are those of `table`, negated, and whose ridge regression finds its
    costs.

    It has evidence of a network and of two controls, of which the first is as good.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(table.choices), (mixes, len(table.layers))).astype(np.int16)
    labels = -np.take_along_axis(table.cost, chosen.T.astype(int), 1).sum(0)
    return PredictorResult(
        model=table.model,
        fingerprint=table.fingerprint,
        layers=table.layers,
        types=("",) * len(table.layers),
        choices=table.choices,
        bytes=table.bytes,
        local=np.abs(table.cost),
        label="made up",
        mixes=chosen,
        labels=labels,
        again=labels[:3] + 0.5,
        average_bits=np.linspace(2.5, 3.5, mixes),
        fold=np.zeros(mixes, np.int16),
        predicted=labels,
        predictions=PREDICTIONS,
        op_scores=-table.cost,
        op_spread=0.1 * table.cost,
        pieces=(),
        ridge=-table.cost,
        ridge_spread=0.1 * table.cost,
    )
