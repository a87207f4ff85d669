"""Distances of temporal features on vectors whose answer is known, and the rows that are asked
for.
"""

import math

import numpy as np
import pytest
import torch

from dmq.errors import DmqError
from dmq.metrics.temporal import cached_features, cosines, relative_errors, shifts
from dmq.models.temporal import conditioning_rows, every_pair
from dmq.quantizers.cache import FeatureTable
from dmq.results import Projection, TemporalBlock


def turned(*degrees: float) -> torch.Tensor:
    """Unit vectors at these angles, [T, 1, 2]."""
    angles = torch.tensor(degrees) * math.pi / 180
    return torch.stack([angles.cos(), angles.sin()], -1)[:, None]


def test_cosines_are_those_of_the_angle_and_of_the_worst_row():
    wanted, made = turned(0, 10, 20), 3 * turned(5, 10, 50)
    assert np.allclose(cosines(made, wanted), np.cos(np.radians([5, 0, 30])), atol=1e-6)
    both = torch.cat([wanted, made], 1)
    assert np.allclose(cosines(both, torch.cat([wanted, wanted], 1)), cosines(made, wanted))


def test_errors_are_relative_to_the_length():
    wanted = torch.tensor([[[3.0, 4.0]], [[0.0, 0.1]]])
    assert np.allclose(relative_errors(wanted * 1.1, wanted), 0.01)
    assert np.allclose(
        relative_errors(torch.cat([wanted, wanted * 1.2], 1), torch.cat([wanted, wanted], 1)), 0.02
    )


def test_a_shift_says_which_step_a_feature_looks_like():
    wanted = turned(0, 10, 20, 30)
    assert shifts(turned(9, 11, 1, 30), wanted).tolist() == [1, 0, -2, 0]
    assert shifts(5 * wanted, wanted).tolist() == [0] * 4
    assert shifts(
        torch.cat([wanted, turned(0, 29, 20, 1)], 1), wanted.repeat(1, 2, 1)
    ).tolist() == [0, 2, 0, -3]


def test_equal_float_features_are_no_mismatch():
    """Two steps whose features are the same: each is nearest to itself."""
    wanted = turned(0, 40, 40, 0)
    assert shifts(wanted, wanted).tolist() == [0] * 4


def test_what_a_cache_makes_of_features_keeps_their_places():
    features = torch.randn(4, 3, 7, generator=torch.Generator().manual_seed(0))
    made = cached_features(features, 6)
    for i in range(4):
        for r in range(3):
            assert torch.equal(made[i, r], FeatureTable(features[i, r][None], 6)(0))


def test_every_step_meets_every_row():
    t, given = every_pair((9, 5), {"a": torch.tensor([[1.0], [2.0], [3.0]])})
    assert t.tolist() == [9, 9, 9, 5, 5, 5] and given["a"][:, 0].tolist() == [1, 2, 3, 1, 2, 3]
    t, given = every_pair((9, 5), {})
    assert t.tolist() == [9, 5] and given == {}


def calls(*rows: list[int], name: str = "class_labels") -> list[dict[str, torch.Tensor]]:
    return [{name: torch.tensor(row)} for row in rows]


def test_distinct_rows_of_conditioning():
    block = TemporalBlock(
        embeddings=("h",),
        projections=(Projection(name="g", block="b", width=1),),
        layers=("g",),
        depends=("t", "class"),
        arguments=("class_labels",),
    )
    assert conditioning_rows(calls([5, 3], [5, 3], [3, 4]), block)["class_labels"].tolist() == [
        5,
        3,
        4,
    ]
    assert conditioning_rows(calls([5, 3], [4, 1]), block, most=2)["class_labels"].tolist() == [
        5,
        3,
    ]
    with pytest.raises(DmqError, match="the pipeline gives no class_labels"):
        conditioning_rows(calls([5], name="else"), block)
