"""The Benchmark tab in Chromium: generated, stopped, gone on with, looked at, and taken home as a
file.
"""

import dataclasses
import shutil

import pytest
from playwright.sync_api import expect

from dmq.evaluation import benchmark
from dmq.progress import run_to_end
from dmq.recipe import Benchmark, Domain, Weights
from dmq.results import FLOOR_NAME
from dmq.store import benchmarks as kept
from tests.browser.test_app import press, toast


pytestmark = pytest.mark.browser


def begin(page):
    """Open the form; it says how long its benchmark will take."""
    page.get_by_role("button", name="A new benchmark").click()
    expect(page.locator("#bench-estimate")).to_contain_text("on this machine")


def test_a_benchmark_is_estimated_stopped_gone_on_with_and_shown(visit, hold, recipe, tmp_path):
    page = visit(dataclasses.replace(recipe, name="bench me"), "benchmark")
    expect(page.locator(".block.dmq-empty:visible")).to_contain_text(
        "No benchmark of this model yet"
    )
    begin(page)
    expect(page.locator("#bench-estimate")).to_contain_text("144 images")
    page.get_by_label("compositions").uncheck()
    expect(page.locator("#bench-estimate")).to_contain_text("96 images")
    page.get_by_label("Images of each list").fill("48")
    page.keyboard.press("Tab")
    expect(page.locator("#bench-estimate")).to_contain_text("192 images")
    with hold("Generate"):
        press(page, "Start the benchmark")
        expect(page.get_by_role("status").filter(has_text="Generate").first).to_be_visible()
        press(page, "Stop, keep what is generated")
        expect(page.get_by_text("Stopped; what was generated is kept.")).to_be_visible()
        (name,) = kept.list_unfinished()
    press(page, "Resume")
    expect(page.get_by_text(f"Done; kept as “{name}”.")).to_be_visible()
    table = page.locator("#bench-table")
    expect(table.locator("tbody th")).to_have_text(["float", FLOOR_NAME, "bench me"])
    row = kept.load_report(name).row("bench me", "names")
    expect(table).to_contain_text(f"{row.figures['ssim'].value:.4f}")
    page.get_by_label("paraphrases", exact=True).check()
    other = kept.load_report(name).row("bench me", "paraphrases")
    expect(table).to_contain_text(f"{other.figures['ssim'].value:.4f}")
    for figure in ("#bench-bytes", "#bench-seconds"):
        expect(page.locator(f"{figure} .main-svg").first).to_be_visible()
    expect(page.locator("#bench-worst img").first).to_be_visible()
    with page.expect_download() as download:
        page.get_by_text("Download the report (HTML)").click()
    download.value.save_as(tmp_path / "report.html")
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    expect(page.locator(".main-svg").first).to_be_visible()
    assert [url for url in fetched if not url.startswith(("file:", "data:", "blob:"))] == [], (
        "nothing is fetched"
    )
    wider = "all => all.some(one => one.querySelector('.main-svg').clientWidth > one.clientWidth)"
    assert not page.locator(".plotly-graph-div").evaluate_all(wider), (
        "figures would lie upon each other"
    )
    assert page.locator("img").count() >= 24 and not page.locator("img").evaluate_all(
        "all => all.some(i => !i.width)"
    )


def test_what_cannot_be_measured_is_told_before_and_after_start(visit, recipe, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    page = visit(dataclasses.replace(recipe, name="few"), "benchmark")
    begin(page)
    page.get_by_label("Images of each list").fill("3")
    page.get_by_label("Seeds of each prompt").click()
    expect(page.locator("#bench-estimate")).to_contain_text("FID needs at least 16 images, got 3")
    press(page, "Start the benchmark")
    expect(toast(page)).to_contain_text("FID needs at least 16 images, got 3")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "bad.txt")
    expect(page.locator("#bench-estimate")).to_contain_text("is no UTF-8 text")


def test_what_ships_of_a_benchmark_is_there_at_once_and_fits_a_narrow_page(visit, recipe):
    """Its report and the worst images, as training/benchmarks.py ships them, without the
    others.
    """
    recipes = tuple(
        dataclasses.replace(recipe, name=f"w{bits}", weights=Weights(bits=bits)) for bits in (8, 2)
    )
    domains = (
        Domain(name="in", prompts=("a", "b", "c")),
        Domain(name="out", prompts=("x", "y", "z")),
    )
    asked = Benchmark(
        domains=domains, sampling=recipe.sampling, measures=("psnr", "ssim", "latent")
    )
    run_to_end(benchmark.run_benchmark(asked, recipes, name="shipped"))
    for part in ("pictures", "rows"):
        shutil.rmtree(kept.folder_of("shipped") / part)
    page = visit(dataclasses.replace(recipe, name="look"), "benchmark")
    expect(page.get_by_label("Finished benchmark")).to_have_value("shipped")
    expect(page.locator("#bench-table tbody th")).to_have_text(["float", FLOOR_NAME, "w8", "w2"])
    expect(page.locator("#bench-worst img")).to_have_count(2 * 2 * 3)
    expect(page.locator("#bench-context")).to_contain_text("noise floor with seeds 1")
    for width in (1400, 420):
        page.set_viewport_size({"width": width, "height": 900})
        expect(page.locator("#bench-seconds .main-svg").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
