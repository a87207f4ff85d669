"""Sizes of published models against the constants of the release of Qua2SeDiMo: bytes of all
quantizable weights.
"""

import pytest

from dmq.errors import DmqError
from dmq.models.adapter import LAYERS
from dmq.models.published import PUBLISHED, build_published


SIZES = {  # bytes of the weights at the width of the release, number of layers
    "pixart-xl-2-512": (1_220_456_448, 2, 287),
    "dit-xl-2-512": (1_346_383_872, 2, 201),
    "hunyuan-dit-1.1": (2_999_291_904, 2, 468),
    "sdxl": (5_131_760_640, 2, 794),
    "sd-1.5": (3_436_308_480, 4, 282),
}


def weights(name):
    """Shapes by layer, a layer in several places once.

    Without the four layers of Hunyuan's pooler, whose weights are read by a function: they are
    never called."""
    layers = {n: m for n, m in build_published(name).named_modules() if isinstance(m, LAYERS)}
    return {n: m.weight for n, m in layers.items() if ".pooler." not in n}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_the_release(name):
    size, width, layers = SIZES[name]
    found = weights(name)
    assert len(found) == layers
    assert width * sum(weight.numel() for weight in found.values()) == size


def test_the_release_counts_dits_embedding_of_time_for_every_block():
    """Its constant is 1,433,972,736: 27 copies too many of [1152, 256] and [1152, 1152]."""
    size = 2 * sum(weight.numel() for weight in weights("dit-xl-2-512").values())
    assert size + 2 * 27 * (1152 * 256 + 1152 * 1152) == 1_433_972_736


@pytest.mark.parametrize("name", PUBLISHED)
def test_nothing_is_held_in_memory(name):
    assert all(p.is_meta and not p.requires_grad for p in build_published(name).parameters())


def test_other_names_are_refused_with_those_that_are_known():
    with pytest.raises(
        DmqError, match="'sd-9' is no published model that is known here: pixart-xl-2-512, dit"
    ):
        build_published("sd-9")
