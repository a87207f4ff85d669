import numpy as np
import pytest
import torch

from dmq.figures import activations as figures
from dmq.figures import quantization_grid
from dmq.figures.distribution import bin_errors, grid_of
from dmq.figures.style import short
from dmq.numerics import affine, histogram
from tests.helpers import random_stats, stats_of, values


SEEN = values(sites=4, steps=8, seed=0, elements=500)
STATS = stats_of(SEEN)


def trace(figure, name):
    return next(part for part in figure.data if part.name and part.name.startswith(name))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("max |x|", lambda x: np.abs(x).max()),
        ("min", np.min),
        ("mean", np.mean),
        ("std", np.std),
        ("kurtosis", lambda x: ((x - x.mean()) ** 4).mean() / x.var() ** 2 - 3),
        ("channel imbalance", lambda x: np.abs(x).max() / np.median(np.abs(x).max(0))),
    ],
)
def test_statistics_equal_those_of_the_values(name, expected):
    want = [[expected(x.astype(float)) for x in rows] for rows in SEEN]
    np.testing.assert_allclose(figures.statistic(STATS, name), want, rtol=1e-3, atol=1e-5)


def test_every_statistic_has_a_value_everywhere_and_an_explanation():
    for name, said in figures.STATISTICS.items():
        assert np.isfinite(figures.statistic(STATS, name)).all() and said.endswith(".")


def test_heat_map_shows_the_statistic_and_says_which_site_a_cell_is():
    figure = figures.heatmap(STATS, [2, 0, 3], "max |x|", (0, 5))
    heat, mark = figure.data
    want = figures.statistic(STATS, "max |x|")[[2, 0, 3]]
    np.testing.assert_allclose(10**heat.z, want, rtol=1e-5)  # these span decades
    assert heat.customdata[:, 0].tolist() == [2, 0, 3]
    assert heat.y[0] == STATS.sites[2].label
    assert "t = 981" in heat.text[0][0] and f"{want[0, 0]:.4g}" in heat.text[0][0]
    assert (mark.x, mark.y) == ((5,), (1,))
    assert figure.layout.xaxis.title.text == "step i (0 is noise)"


def test_colour_labels_are_in_plain_units_and_cover_the_values():
    for name in ("max |x|", "mean", "std"):
        bar = figures.heatmap(STATS, [0, 1, 2, 3], name).data[0].colorbar
        shown = figures.statistic(STATS, name)
        numbers = [float(text) for text in bar.ticktext or ()]
        if numbers:
            assert numbers[0] == pytest.approx(shown.min(), rel=0.01)
            assert numbers[-1] == pytest.approx(shown.max(), rel=0.01)


@pytest.mark.parametrize("rows", [4, 200])
def test_a_heat_map_stays_on_one_page(rows):
    stats = random_stats(sites=4, steps=3)
    figure = figures.heatmap(stats, [k % 4 for k in range(rows)], "max")
    assert figure.layout.height <= 900
    assert len(figure.layout.yaxis2.tickvals) * 12 <= figure.layout.height


def test_percentile_fan_follows_the_values():
    figure = figures.fan(STATS, 0)
    every = [x.ravel() for x in SEEN[0]]
    width = 2.0 ** int(STATS.exponent[0])
    np.testing.assert_allclose(trace(figure, "median").y, [np.median(x) for x in every], atol=width)
    np.testing.assert_allclose(
        trace(figure, "1 – 99 %").y, [np.quantile(x, 0.99) for x in every], atol=2 * width
    )
    np.testing.assert_allclose(trace(figure, "min, max").y, [x.max() for x in every])


def test_ridges_are_the_histograms():
    figure = figures.ridgeline(STATS, 1)
    ridges = [part for part in figure.data if part.name]
    assert [part.name for part in ridges] == [f"step {i}" for i in range(8)]
    for part, x in zip(ridges, SEEN[1], strict=True):
        assert part.customdata.sum() == pytest.approx(1, abs=0.02)
        assert (part.customdata * part.x).sum() == pytest.approx(x.mean(), abs=0.05)


def test_outlier_channels_are_told_apart():
    figure = figures.channels(STATS, 3, 4)
    outliers = trace(figure, "outliers")
    assert outliers.x.tolist() == [0] and outliers.name == "outliers (1)"
    x = SEEN[3][4][:, 0]
    assert outliers.base[0] == x.min() and outliers.base[0] + outliers.y[0] == pytest.approx(
        x.max(), rel=1e-6
    )


@pytest.mark.parametrize(("bits", "symmetric"), [(2, False), (4, False), (4, True), (8, False)])
def test_the_grid_of_the_figures_is_the_grid_of_the_quantizers(bits, symmetric):
    edges = np.linspace(-2, 3, 40)
    for low, high in ((-1.1, 2.0), (0.0, 1.0), (0.5, 2.0), (-1.0, -0.5), (0.0, 0.0)):
        scale, zero = grid_of(low, high, bits, symmetric)
        want = affine.grid(torch.tensor(low), torch.tensor(high), bits, symmetric)
        assert (scale, zero) == pytest.approx(tuple(float(part) for part in want))
        parts = histogram.bin_errors(
            torch.from_numpy(edges), torch.tensor(low), torch.tensor(high), bits, symmetric
        )
        for part, known in zip(bin_errors(edges, scale, zero, bits), parts, strict=True):
            np.testing.assert_allclose(part, known.numpy(), rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize(
    ("low", "high"), [(-2.0, 1.5), (-30.0, 30.0)], ids=["clipping", "covering"]
)
def test_grid_shows_the_error_of_quantizing(low, high):
    figure = quantization_grid.grid(STATS, 0, 5, low, high, 4, False)
    scale, zero = affine.grid(torch.tensor(low), torch.tensor(high), 4, False)
    x = torch.from_numpy(SEEN[0][5])
    error = (
        (affine.fake_quantize(x, scale, zero, 4) - x) ** 2
    ).double() / x.double().square().mean()
    beyond = (x < -zero * scale) | (x > (15 - zero) * scale)
    n = x.numel()
    rounding, clipping = trace(figure, "rounding").y.sum(), trace(figure, "clipping").y.sum()
    assert rounding == pytest.approx((error * ~beyond).sum().item() / n, rel=0.05)
    assert clipping == pytest.approx((error * beyond).sum().item() / n, rel=0.05, abs=1e-12)
    assert trace(figure, "rounding").name == f"rounding {100 * rounding:.3g} %"
    assert trace(figure, "clipping").name == f"clipping {100 * clipping:.3g} %"
    assert trace(figure, "values").y.sum() == pytest.approx(1, abs=0.02)
    inside = np.isfinite(trace(figure, "16 grid").x) if low > -30 else None
    assert inside is None or inside.sum() == 2 * 16


def test_film_has_a_frame_for_every_step_and_stays_small():
    figure = figures.over_time(STATS, 0)
    assert len(figure.frames) == len(figure.layout.sliders[0].steps) == 8
    for frame, x in zip(figure.frames, SEEN[0], strict=True):
        y, centres = frame.data[0].y, figure.data[1].x
        assert len(y) <= 160 and y.sum() == pytest.approx(1, abs=0.005)
        assert (y * centres**2).sum() == pytest.approx((x.astype(float) ** 2).mean(), rel=0.1)
    assert len(figures.over_time(random_stats(sites=1, steps=100, elements=50), 0).to_json()) < 1e6


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
            "down.0.attn.0 · attn1.to_q",
        ),
        ("mid_block.resnets.1.conv2", "mid.res.1 · conv2"),
        (
            "up_blocks.1.attentions.2.transformer_blocks.1.ff.net.0.proj",
            "up.1.attn.2.tb.1 · ff.proj",
        ),
        ("up_blocks.0.upsamplers.0.conv", "up.0.upsample.0 · conv"),
        ("conv_in", "conv_in"),
    ],
)
def test_short_names(name, expected):
    assert short(name) == expected
