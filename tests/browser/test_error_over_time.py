"""Error over time in Chromium: ranges that are set, stopped and gone on with, windows, curves, the
probe.
"""

import contextlib
import dataclasses
import re

import pytest
from playwright.sync_api import expect

from dmq.evaluation import error_curves, probe
from dmq.progress import run_to_end
from dmq.recipe import Comparison, PerStep, Probe, Progressive, Relaxing
from dmq.workflow.answers import count_finished_calls, has_ranges
from dmq.workflow.learning import calibrate_ranges, capture_statistics
from tests.browser.test_app import in_address, press, toast
from tests.browser.test_learned import press_until


pytestmark = pytest.mark.browser


def test_setting_ranges_is_stopped(visit, hold, recipe):
    few = dataclasses.replace(
        recipe.calibration, samples=3, batch=1
    )  # of which nothing is captured yet
    wanted = dataclasses.replace(recipe, name="long", calibration=few, progressive=Progressive())
    run_to_end(capture_statistics(wanted))
    page = visit(wanted, "error-over-time")
    part = page.locator("#trajectory-ranges")
    expect(part.locator(".block.dmq-empty")).to_contain_text("still to be set")
    with hold():
        press(page, "Calibrate")
        expect(part.get_by_role("progressbar", name="Progress")).to_be_visible()
        press(page, "Stop, keep finished calls")
        expect(page.get_by_text("Stopped; finished denoiser calls were kept.")).to_be_visible()
        expect(part.get_by_role("button", name="Calibrate")).to_be_visible()
        assert not has_ranges(wanted)


def test_setting_ranges_goes_on_and_what_moved_is_looked_at(visit, recipe):
    wanted = dataclasses.replace(recipe, name="walk", grouping=PerStep(), progressive=Progressive())
    with contextlib.closing(calibrate_ranges(wanted)) as work:
        next(progress for progress in work if count_finished_calls(wanted) == 4)
    page = visit(wanted, "error-over-time")
    expect(page.locator("#trajectory-ranges .block.dmq-empty")).to_contain_text(
        "4 denoiser calls are finished"
    )
    press(page, "Calibrate the other steps")
    expect(page.locator("#trajectory-ranges-summary")).to_contain_text(
        "Set on 2 images at 10 denoiser calls"
    )
    assert has_ranges(wanted)
    heat, cell = (
        page.locator("#trajectory-ranges-map .nsewdrag").first,
        page.locator("#trajectory-ranges-cell"),
    )
    heat.scroll_into_view_if_needed()
    box = heat.bounding_box()
    page.mouse.click(box["x"] + 0.95 * box["width"], box["y"] + 0.02 * box["height"])
    expect(cell).to_contain_text(re.compile(r"time.linear_\d, step 9"))
    expect(page.locator("#trajectory-ranges-ribbons .main-svg").first).to_be_visible()


def test_windows_are_measured_curves_drawn_and_a_window_probed(visit, recipe):
    wanted = dataclasses.replace(
        recipe, name="along", relaxing=Relaxing(where="auto", windows=2, images=1)
    )
    page = visit(wanted, "error-over-time")
    press(page, "Measure the windows")
    said = page.locator("#relaxing-summary")
    expect(said).to_contain_text("fidelity decided")
    expect(said).to_contain_text("6.80 bits on average")
    expect(page.locator("#relaxing-fidelity .main-svg").first).to_be_visible()
    page.locator("#relaxing").get_by_label("Part of the steps").first.fill("0.5")
    page.keyboard.press("Tab")
    expect(said).to_contain_text("8.00 bits on average")
    page.wait_for_function("decodeURIComponent(location.search).includes('0.5')")
    made = in_address(page)
    assert made.relaxing == dataclasses.replace(wanted.relaxing, fraction=0.5)

    page.get_by_label("Prompts to follow, one per line").fill("a\nb")
    press_until(
        page, "Generate along the steps", page.get_by_text("Generated; the answer is kept.")
    )
    expect(page.locator("#error-over-time-summary")).to_contain_text("2 images (a, b), seeds 0")
    for figure in ("accumulated", "predicted-x0", "isolated", "weighed"):
        expect(page.locator(f"#error-over-time-{figure} .main-svg").first).to_be_visible()
    expect(page.locator("#error-over-time-strip .thumbnail-item")).to_have_count(2 * 9)
    assert error_curves.find_error_curves(
        Comparison(prompts=("a", "b"), sampling=made.sampling), (made,)
    )

    page.get_by_label("Prompt to probe").fill("a")
    page.get_by_label("Gains, such as 1, 2, 4").fill("much")
    press(page, "Probe")
    expect(toast(page)).to_contain_text("gains must be numbers")
    page.get_by_label("Gains, such as 1, 2, 4").fill("3")
    page.locator("#probe").get_by_label("Windows").first.fill("2")
    page.keyboard.press("Tab")
    press_until(page, "Probe", page.get_by_text("Probed; the answer is kept."))
    expect(page.locator("#probe-grid .thumbnail-item")).to_have_count(4)
    assert len(probe.find_probe(made, Probe(windows=2, gains=(3.0,), prompt="a"))) == 2
