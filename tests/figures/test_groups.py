import numpy as np
import pytest

from dmq.figures import groups as figures
from dmq.figures import images, model
from dmq.recipe import FLOAT, KMeans, Weights
from dmq.results import (
    ActivationQParams,
    GroupErrors,
    Groups,
    ImageScore,
    Layer,
    ModelInfo,
    Plan,
    PlannedLayer,
    Report,
    Site,
)


SITES = tuple(Site(name=f"down_blocks.{s}.conv", point="input", kind="conv") for s in range(3))
SLOT = np.array([[0, 0, 1, 1, 1, 2]] * 3, np.int16)


def errors(rounding, bits=(8, FLOAT, 4)):
    zeros = np.zeros((3, 6))
    return GroupErrors(
        groups=Groups(sites=SITES, slot=SLOT),
        bits=np.repeat(np.array(bits)[:, None], 6, 1),
        low=zeros,
        high=zeros,
        rounding=np.array(rounding, float)[:, None] * np.arange(1, 7),
        clipping=zeros,
        power=np.full((3, 6), 2.0),
    )


LINES = {"current": errors([0.02, 0, 0.06]), "shared": errors([0.2, 0, 0.6])}


def by_name(figure):
    return {part.name: part for part in figure.data}


def test_error_per_step_is_the_mean_over_quantized_sites_in_percent():
    figure = figures.error_per_step(LINES, (2, 5))
    np.testing.assert_allclose(
        by_name(figure)["current"].y, 100 * 0.04 / 2 * np.arange(1, 7), rtol=1e-6
    )
    assert [shape.x0 for shape in figure.layout.shapes] == [1.5, 4.5]
    assert figure.layout.yaxis.type == "log" and "%" in figure.layout.yaxis.title.text


def test_error_per_site_puts_the_worst_on_top_and_leaves_float_out():
    points = by_name(figures.error_per_site(LINES))["shared"]
    assert points.customdata.tolist() == [2, 0] and points.y.tolist() == [0, 1]
    np.testing.assert_allclose(points.x, [100 * 0.3 * 3.5, 100 * 0.1 * 3.5], rtol=1e-6)


def test_error_against_count_marks_the_current_partition():
    parts = by_name(
        figures.error_against_count(
            (1, 2), {"uniform": [0.4, 0.2], "optimal": [0.4, 0.1]}, (2, 0.15)
        )
    )
    np.testing.assert_allclose(parts["optimal"].y, [40, 10], rtol=1e-6)
    assert parts["current"].x == (2,) and parts["current"].y[0] == pytest.approx(15)


def test_no_error_at_all_draws_without_a_logarithm():
    nothing = errors([0, 0, 0], (FLOAT,) * 3)
    assert figures.error_per_step({"current": nothing}).layout.yaxis.type is None
    figures.error_per_site({"current": nothing})
    figures.error_against_count((1,), {"uniform": [0.0], "optimal": [0.0]}, (1, 0.0))


def test_slot_map_is_one_line_for_a_common_partition():
    heat = figures.slot_map(Groups(sites=SITES, slot=SLOT)).data[0]
    assert heat.z.tolist() == [[0, 0, 1, 1, 1, 2]] and heat.text[0][5] == "all layers<br>slot 2"
    own = SLOT.copy()
    own[1] = [0, 1, 1, 2, 2, 2]
    heat = figures.slot_map(Groups(sites=SITES, slot=own)).data[0]
    np.testing.assert_array_equal(heat.z, own)


def layer(name, kind="linear", **more):
    return Layer(
        name=name,
        kind=kind,
        role="other",
        shape=(4, 5),
        bias=False,
        **{"block": "down_blocks.0"} | more,
    )


def test_layers_count_their_weights_by_block():
    made = (layer("a"), layer("b"), layer("c", "conv"), layer("d", block=""))
    info = ModelInfo(
        name="m",
        pipeline="P",
        denoiser="D",
        adapter="unet",
        scheduler="S",
        prompted=False,
        size=(8, 8),
        parameters=80,
        pipeline_parameters=80,
        layers=made,
        fingerprint="",
    )
    parts = by_name(model.layers(info))
    assert list(parts["linear, other"].y) == [40, 20] and list(parts["conv, other"].y) == [20, 0]
    assert list(parts["linear, other"].x) == ["down.0", "outside blocks"]


def test_coverage_says_what_stays_in_float_and_why():
    rows = [
        PlannedLayer(
            layer=layer(name),
            weights=Weights(bits=bits),
            activation_bits=inputs,
            reason=reason,
            weight_bytes=1,
            bias_bytes=0,
            bank=None,
        )
        for name, bits, inputs, reason in (("a", FLOAT, FLOAT, "first layer"), ("b", 4, 8, ""))
    ]
    plan = Plan(
        model="m",
        fingerprint="",
        timesteps=(1,),
        unknown_timestep="error",
        layers=tuple(rows),
        attention=(),
        attention_sites=0,
        vector_bits=FLOAT,
        vector_bytes=0,
        float_bytes=1,
    )
    heat = model.coverage(plan).data[0]
    assert heat.text[1][0] == "a<br>float (first layer)" and heat.text[0][1] == "b<br>8 bits"
    assert list(heat.colorbar.ticktext) == ["4 bits", "8 bits", "float"]


def test_coverage_says_formats_and_ranges_as_they_come():
    bank = ActivationQParams(
        site=Site(name="a", point="input"),
        bits=np.array([8], np.uint8),
        scale=np.zeros(0),
        zero=np.zeros(0),
        slot=np.zeros(1, int),
        dynamic="token",
    )
    row = PlannedLayer(
        layer=layer("a"),
        weights=Weights(bits=3, format=KMeans()),
        activation_bits=8,
        reason="",
        weight_bytes=1,
        bias_bytes=0,
        bank=bank,
    )
    plan = Plan(
        model="m",
        fingerprint="",
        timesteps=(1,),
        unknown_timestep="error",
        layers=(row,),
        attention=(),
        attention_sites=0,
        vector_bits=FLOAT,
        vector_bytes=0,
        float_bytes=1,
    )
    inputs, weights = model.coverage(plan).data[0].text
    assert inputs[0] == "a<br>8 bits (range per token)" and weights[0] == "a<br>3 bits (KMC-3)"


def test_scores_show_every_image_and_the_noise_floor():
    report = Report(
        scores=tuple(
            ImageScore(recipe=who, prompt="cat", seed=k, psnr=psnr, ssim=0.9)
            for who, k, psnr in (("W8", 0, 31.0), ("W8", 1, float("inf")), ("W4", 0, 20.0))
        ),
        seconds={},
        bytes={},
        coverage={},
        noise_floor={"psnr": 12.0, "ssim": 0.3},
        samples=2,
    )
    psnr, ssim = images.psnr(report), images.ssim(report)
    assert list(psnr.data[0].y) == [31.0, 45.0] and "equal to float" in psnr.data[0].text[1]
    assert list(psnr.data[1].y) == [20.0]
    assert list(ssim.data[0].y) == [0.9, 0.9]
    assert [figure.layout.shapes[0].y0 for figure in (psnr, ssim)] == [12.0, 0.3]
