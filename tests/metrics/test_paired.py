"""Paired measures against their definitions, image by image."""

import numpy as np
import pytest

from dmq.metrics import paired, pixel


def test_every_pair_is_measured_on_its_own():
    rng = np.random.default_rng(0)
    floats = [rng.integers(0, 256, (16, 16, 3), np.uint8) for _ in range(3)]
    ours = [floats[0], rng.integers(0, 256, (16, 16, 3), np.uint8), np.roll(floats[2], 1, 0)]
    found = paired.pixels(ours, floats)
    assert found["psnr"].tolist() == [pixel.psnr(a, b) for a, b in zip(ours, floats, strict=True)]
    assert found["psnr"][0] == np.inf and found["ssim"][0] == pytest.approx(1)
    assert found["ssim"].tolist() == [pixel.ssim(a, b) for a, b in zip(ours, floats, strict=True)]
    with pytest.raises(ValueError):
        paired.pixels(ours[:2], floats)


def test_relative_errors_are_of_each_row_and_over_the_floats_power():
    floats = np.arange(1, 25, dtype=np.float32).reshape(2, 3, 2, 2)
    error = paired.relative_error(floats * np.float32(1.5), floats)
    assert error == pytest.approx([0.25, 0.25]) and error.dtype == np.float64
    assert paired.feature_distance(floats * np.float32(1.5), floats) == pytest.approx([0.5, 0.5])
    assert paired.relative_error(floats, floats * 2) == pytest.approx([0.25, 0.25]), (
        "the second one's power"
    )
