"""Figures of the Error over time tab hold the numbers they were given."""

import dataclasses

import numpy as np
import pytest

from dmq.figures import error_over_time as figures
from dmq.figures.style import BLUE, ORANGE
from dmq.results import OverTime, ProbeImage, WindowEffects
from tests.helpers import site


T, P = 10, 3


def made(**changes):
    rng = np.random.default_rng(0)
    return dataclasses.replace(
        OverTime(
            timesteps=tuple(range(T))[::-1],
            coefficients=rng.random(T) + 0.1,
            accumulated={name: rng.random((T, P)) for name in ("low", "high")},
            predicted_x0={name: rng.random((T, P)) for name in ("low", "high")},
            isolated={name: rng.random(T) for name in ("low", "high")},
            mean_bits={"low": 8.4, "high": 8.0},
            watched=(),
            strips={},
        ),
        **changes,
    )


def effects(**changes):
    rng = np.random.default_rng(1)
    return dataclasses.replace(
        WindowEffects(
            timesteps=tuple(range(T)),
            starts=(0, 2, 7),
            fidelity=rng.random((3, P)),
            fidelity_all=1 + rng.random(P),
            clip_score_float=rng.random(P) + 70,
            clip_score_all=rng.random(P) + 69,
            clip_score=rng.random((3, P)) + 69,
            scorer="made up",
        ),
        **changes,
    )


def image(start, end, gain, error, match):
    pixels = np.zeros((2, 2, 3), np.uint8)
    return ProbeImage(
        start=start,
        end=end,
        gain=gain,
        pixels=pixels,
        exact=pixels,
        error=error,
        psnr=20.0,
        match=match,
        match_float=30.0,
    )


def named(figure):
    return {part.name: part for part in figure.data if part.name}


def test_lines_are_means_in_a_band_from_least_to_most():
    found = made()
    figure = figures.accumulated(found)
    for n, name in enumerate(("low", "high")):
        low, high, mean = figure.data[3 * n : 3 * n + 3]
        np.testing.assert_allclose(low.y, found.accumulated[name].min(1), rtol=1e-6)
        np.testing.assert_allclose(high.y, found.accumulated[name].max(1), rtol=1e-6)
        np.testing.assert_allclose(mean.y, found.accumulated[name].mean(1), rtol=1e-6)
        assert (mean.name, high.fill, low.fill) == (name, "tonexty", None)
    assert figure.layout.yaxis.type == "log"
    alone = figures.accumulated(made(accumulated={"low": found.accumulated["low"][:, :1]}))
    assert len(alone.data) == 1, "one image has no band"


def test_no_error_is_drawn_at_the_bottom_and_what_is_not_known_yet_not_at_all():
    errors = np.full((T, P), np.nan)
    errors[:2] = [[0.0] * P, [1.0] * P]
    (*_, mean) = figures.accumulated(made(accumulated={"low": errors})).data
    assert (
        mean.y[:2].tolist() == [np.float32(figures.MIN_ERROR), 1.0] and np.isnan(mean.y[2:]).all()
    )
    nothing = figures.accumulated(made(accumulated={"low": np.full((T, P), np.nan)}))
    assert nothing.layout.yaxis.type == "log"


def test_what_a_sampler_does_not_tell_is_not_drawn():
    assert (
        figures.predicted_x0(made()) is not None
        and figures.predicted_x0(made(predicted_x0={})) is None
    )
    assert figures.weigh(made(coefficients=np.full(T, np.nan))) is None


def test_isolated_errors_are_weighed_by_the_square_of_the_samplers_own_coefficient():
    found = made()
    parts = named(figures.weigh(found))
    for name in ("low", "high"):
        np.testing.assert_allclose(
            parts[name].y, found.coefficients**2 * found.isolated[name], rtol=1e-6
        )
        np.testing.assert_allclose(
            named(figures.isolated(found))[name].y, found.isolated[name], rtol=1e-6
        )
    np.testing.assert_allclose(parts["|cᵢ|"].y, found.coefficients, rtol=1e-6)
    assert parts["|cᵢ|"].yaxis == "y2"


@pytest.mark.parametrize(("most", "dtick"), [(5, "D1"), (50, "D2"), (5000, 1)])
def test_a_logarithmic_axis_has_fewer_labels_the_more_it_spans(most, dtick):
    assert figures.logarithmic([np.array([1.0, np.nan]), np.array([[most]])])["dtick"] == dtick


def test_both_trajectories_have_their_ribbon():
    low, high = -np.arange(T, dtype=float), np.arange(T, dtype=float)
    figure = figures.ranges((low, high), (2 * low, 3 * high))
    ends = [(part.name, part.y.tolist(), part.fill) for part in figure.data]
    assert ends == [
        ("float trajectory", low.tolist(), None),
        ("float trajectory", high.tolist(), "tonexty"),
        ("quantized trajectory", (2 * low).tolist(), None),
        ("quantized trajectory", (3 * high).tolist(), "tonexty"),
    ]


def test_wider_and_narrower_have_colours_of_equal_weight_and_the_chosen_cell_a_frame():
    change = np.array([[0.1, -0.3, 0.0], [0.0, 0.0, 0.2]])
    figure = figures.range_change((site(0), site(1)), change, (1, 2))
    (heat,), (frame,) = figure.data, figure.layout.shapes
    np.testing.assert_allclose(heat.z, change, rtol=1e-6)
    assert heat.zmin == -heat.zmax and 0.2 < heat.zmax <= 0.3
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (1.5, 2.5, 0.5, 1.5)
    assert not figures.range_change((site(0), site(1)), 0 * change).layout.shapes, (
        "nothing moved, nothing chosen"
    )


@pytest.mark.parametrize(("judge", "colour"), [("fidelity", BLUE), ("text", ORANGE)])
def test_a_window_is_worth_what_its_steps_bring_each(judge, colour):
    seen = effects()
    (bars,) = figures.window_gains(seen, judge).data
    np.testing.assert_allclose(bars.y, seen.gains(judge), rtol=1e-5)
    np.testing.assert_allclose(bars.x, [0.5, 4, 8])
    np.testing.assert_allclose(bars.width, 0.94 * np.array([2, 5, 3]))
    decibels = 10 * np.log10(seen.fidelity_all / seen.fidelity)
    won = decibels if judge == "fidelity" else seen.clip_score - seen.clip_score_all
    spread = won.std(1, ddof=1) / np.sqrt(P) / [2, 5, 3]
    np.testing.assert_allclose(bars.error_y.array, spread, rtol=1e-5)
    assert bars.text == ("0 to 1", "2 to 6", "7 to 9")


def test_relaxed_steps_are_shaded_run_by_run():
    figure = figures.window_gains(effects(), "fidelity", (0, 1, 5))
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes] == [(-0.5, 1.5), (4.5, 5.5)]


def test_windows_that_are_not_measured_yet_are_left_out():
    partly = effects().fidelity.copy()
    partly[1:] = np.nan
    (bars,) = figures.window_gains(effects(fidelity=partly), "fidelity").data
    assert np.isfinite(bars.y).tolist() == [True, False, False]
    assert figures.window_gains(effects(clip_score=np.full((3, P), np.nan)), "text") is None
    assert (
        figures.window_gains(effects(fidelity=partly[:, :1], fidelity_all=np.ones(1)), "fidelity")
        is not None
    )


def test_steps_are_written_as_runs():
    assert figures.runs_of(()) == [] and figures.steps_text(()) == ""
    assert (
        figures.steps_text((3,)) == "3" and figures.steps_text((0, 1, 4, 6, 7, 8)) == "0-1, 4, 6-8"
    )


def test_a_probe_has_a_bar_for_each_window_and_gain():
    seen = (image(0, 5, 1, 0.01, 29), image(0, 5, 2, 0.02, 28), image(5, 10, 1, 0.04, 31))
    parts = named(figures.show_probe(seen, "error"))
    assert parts.keys() == {"× 1", "× 2"} and parts["× 1"].x == ("0 to 4", "5 to 9")
    np.testing.assert_allclose(parts["× 1"].y, [0.01, 0.04], rtol=1e-6)
    np.testing.assert_allclose(
        named(figures.show_probe(seen, "match"))["× 1"].y, [1, -1], rtol=1e-6
    )


def test_a_probe_without_error_or_judge():
    none = (image(0, 5, 0, 0.0, np.nan), image(0, 5, 1, 0.5, np.nan))
    assert figures.show_probe(none, "match") is None
    assert figures.show_probe(none, "error").layout.yaxis.type is None, "zero has no logarithm"
