import dataclasses

import numpy as np
import pytest

from dmq.figures import temporal as figures
from dmq.results import Projection, TemporalBlock, TemporalErrors


NAMES = ("down_blocks.0.resnets.0", "mid_block.resnets.1", "up_blocks.1.resnets.0")
BLOCK = TemporalBlock(
    embeddings=("time_embedding",),
    projections=tuple(
        Projection(name=f"{name}.time_emb_proj", block=name[:11], width=4) for name in NAMES
    ),
    layers=("time_embedding.linear_1", *(f"{name}.time_emb_proj" for name in NAMES)),
    depends=("t",),
)
T, K = 5, 3


def made(**changes):
    rng = np.random.default_rng(0)
    share = rng.random((K, T)).astype(np.float32)
    features = tuple(rng.normal(size=(T, 4)).astype(np.float32) for _ in range(K))
    errors = TemporalErrors(
        block=BLOCK,
        timesteps=(4, 3, 2, 1, 0),
        conditionings=1,
        cosine_before=1 - 0.1 * share,
        cosine_computed=1 - 0.01 * share,
        cosine_after=np.ones((K, T), np.float32),
        shift_before=np.array([[0, 2, 0, -3, 0]] * K, np.int32),
        shift_after=np.zeros((K, T), np.int32),
        error_before=share,
        error_computed=0.1 * share,
        error_cached=0.01 * share,
        cached=np.array([[True] * T, [False] * T, [True, False] * 2 + [True]]),
        inputs=BLOCK.layers[:2],
        low=-np.ones((2, T), np.float32),
        high=np.arange(2 * T, dtype=np.float32).reshape(2, T),
        cache_bits=np.array([4, 8, 16]),
        cache_errors=np.stack([share, 0.1 * share, 0 * share]),
        cache_sizes=np.array([1000, 2000, 4000]),
        computed_bytes=3000,
        vectors=features,
        vectors_before=tuple(2 * f for f in features),
        vectors_after=features,
        losses=np.array([3.0, 2.0, 1.0]),
    )
    return dataclasses.replace(errors, **changes)


def by_name(figure):
    return {part.name: part for part in figure.data}


def test_cosines_share_one_scale_and_rounding_errors_do_not_stretch_it():
    maps = {state: figures.cosine_map(made(), state).data[0] for state in figures.STATES}
    assert len({(part.zmin, part.zmax) for part in maps.values()}) == 1
    np.testing.assert_allclose(
        10 ** np.asarray(maps["before"].z), 1 - made().cosine_before, rtol=1e-3
    )
    assert np.asarray(maps["after"].z).max() == pytest.approx(np.log10(figures.MIN_COSINE_ERROR))


def test_the_chosen_cell_is_framed():
    (frame,) = figures.cosine_map(made(), "before", (2, 3)).layout.shapes
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (2.5, 3.5, 1.5, 2.5)
    assert not figures.shift_map(made(), "before").layout.shapes


def test_shifts_are_symmetric_around_right():
    before, after = (figures.shift_map(made(), state).data[0] for state in ("before", "after"))
    assert (before.zmin, before.zmax) == (after.zmin, after.zmax) == (-3, 3)
    assert np.asarray(before.z)[0].tolist() == [0, 2, 0, -3, 0]


def test_the_selection_shows_both_errors():
    part = figures.selection_map(made()).data[0]
    assert np.asarray(part.z).tolist() == made().cached.astype(int).tolist()
    np.testing.assert_allclose(
        np.asarray(part.customdata)[1, 2], [made().error_computed[1, 2], made().error_cached[1, 2]]
    )


def test_every_different_input_has_a_band():
    figure = figures.ranges(made())
    assert len(figure.data) == 2 * 2
    assert figure.data[3].y.tolist() == [5, 6, 7, 8, 9] and figure.data[3].fill == "tonexty"


def test_the_cache_stands_beside_what_it_replaces():
    parts = by_name(figures.cache_bits(made(), 8))
    np.testing.assert_allclose(
        parts["error of the cache"].y, made().cache_errors.mean((1, 2)), rtol=1e-6
    )
    assert parts["size of the cache, kB"].y.tolist() == [1, 2, 4]
    assert set(parts["size of the layers, kB"].y) == {3.0}
    assert parts["error when computed"].y[0] == pytest.approx(made().error_computed.mean())


def test_a_cell_shows_its_own_vectors_in_one_order():
    parts = by_name(figures.vectors(made(), 1, 4))
    wanted = np.sort(made().vectors[1][4])[::-1]
    np.testing.assert_allclose(parts["float"].y, wanted)
    np.testing.assert_allclose(parts["before"].y, 2 * wanted)


def test_deviation_and_loss_keep_their_values():
    figure = figures.deviation({"before": np.array([0.0, 0.1]), "recipe": np.array([0.01, 0.02])})
    assert by_name(figure)["before"].y.tolist() == pytest.approx([figures.MIN_COSINE_ERROR, 0.1])
    assert figures.rounding_loss(made().losses).data[0].y.tolist() == [3, 2, 1]
    assert len(figures.rounding_loss(np.ones(30_000)).data[0].y) <= 1000


def test_names_say_where_a_feature_goes():
    assert figures.feature_name(BLOCK.projections[0]) == "down.0 · res.0"
