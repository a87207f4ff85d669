import numpy as np
import pytest

from dmq.figures import images
from dmq.metrics import pixel


def noise(seed, shape=(32, 32, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("step", [1, 10, 100])
def test_psnr_of_a_constant_offset_is_known(step):
    a = np.full((8, 8, 3), 50, np.uint8)
    assert pixel.psnr(a, a + np.uint8(step)) == pytest.approx(20 * np.log10(255 / step))


def test_equal_images():
    a = noise(0)
    assert pixel.psnr(a, a) == float("inf")
    assert pixel.ssim(a, a) == pytest.approx(1)


def test_ssim_equals_the_formula_written_out():
    a, b = noise(1, (24, 24, 3)), noise(2, (24, 24, 3))
    b = ((a.astype(int) + b) // 2).astype(np.uint8)
    x = np.arange(11) - 5
    window = np.exp(-(x**2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    c1, c2 = 0.01**2, 0.03**2
    values = []
    for channel in range(3):
        p, q = (np.pad(m[..., channel] / 255, 5, mode="reflect") for m in (a, b))
        for i in range(24):
            for j in range(24):
                u, v = p[i : i + 11, j : j + 11], q[i : i + 11, j : j + 11]
                mu, mv = (window * u).sum(), (window * v).sum()
                su, sv = (window * u * u).sum() - mu**2, (window * v * v).sum() - mv**2
                suv = (window * u * v).sum() - mu * mv
                values.append(
                    (2 * mu * mv + c1) * (2 * suv + c2) / ((mu**2 + mv**2 + c1) * (su + sv + c2))
                )
    assert pixel.ssim(a, b) == pytest.approx(np.mean(values), abs=2e-4)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differ in shape"):
        pixel.psnr(noise(0), noise(0, (16, 16, 3)))


def test_difference_is_black_where_equal_and_symmetric():
    a, b = noise(3), noise(4)
    b[:16] = a[:16]
    seen = images.difference(a, b, gain=1)
    assert not seen[:16].any()
    assert np.array_equal(seen, images.difference(b, a, gain=1))
    assert np.array_equal(seen, np.abs(a.astype(int) - b))
