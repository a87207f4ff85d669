"""The Export tab in Chromium, from the sizes to the file; and images that both engines
generate.
"""

import dataclasses
import zipfile

import pytest
from playwright.sync_api import expect

from dmq.store import exports, folders, runs
from dmq.workflow import export
from dmq.workflow.answers import get_plan
from tests.browser.test_app import press, toast


pytestmark = pytest.mark.browser


def test_a_recipe_is_weighed_exported_downloaded_and_found_again(visit, recipe, tmp_path):
    page, plan = visit(recipe, "export"), get_plan(recipe)
    expect(page.locator("#export-sizes tr", has_text="quantized")).to_contain_text(
        f"{plan.bytes:,} bytes"
    )
    press(page, "What runs where")
    expect(page.locator("#export-kernels")).to_contain_text("oneDNN int8")
    page.get_by_label("denoiser only", exact=True).check()
    expect(page.locator(".cm-content", has_text="from_pretrained('FOLDER')")).to_contain_text(
        "UNet2DConditionModel"
    )
    press(page, "Export")
    name = "tiny-sd tiny denoiser"
    with page.expect_download() as download:
        page.locator("#export-file").click()
    assert download.value.suggested_filename == f"{name}.zip"
    download.value.save_as(tmp_path / "it.zip")
    with zipfile.ZipFile(tmp_path / "it.zip") as packed:
        packed.extractall(tmp_path)
    assert (export.check(tmp_path / name).component, exports.exports()) == ("", [name])
    expect(
        page.locator(".cm-content", has_text=str(exports.export_folder(name))).first
    ).to_be_visible()
    page.reload()
    page.get_by_label("Exports", exact=True).click()
    page.get_by_role("option", name=name, exact=True).click()
    expect(page.locator("#export-description")).to_contain_text(
        "dmq checkpoint, denoiser (UNet2DConditionModel)"
    )
    expect(page.locator("#export-file")).to_be_visible()


def test_an_export_that_cannot_be_made_is_one_line_and_the_button_stays(visit, recipe):
    page = visit(dataclasses.replace(recipe, name="gone"), "export")
    page.locator("#export-sizes table").wait_for()
    place = folders.home() / "exports" / "tiny-sd gone"
    place.parent.mkdir(exist_ok=True)
    place.symlink_to("nowhere")  # it is not there for who asks, and cannot be made
    press(page, "Export")
    expect(toast(page)).to_contain_text("tiny-sd gone")
    expect(page.get_by_role("button", name="Export", exact=True)).to_be_visible()


def test_both_engines_draw_and_show_their_seconds(visit, recipe):
    page = visit(dataclasses.replace(recipe, name="twice"), "compare")
    expect(page.get_by_role("spinbutton", name="Guidance", exact=True).first).to_have_value("2")
    page.get_by_label("Engine", exact=True).click()
    page.get_by_role("option", name="both", exact=True).click()
    page.get_by_label("Prompts, one per line", exact=True).fill("a")
    press(page, "Generate")
    page.get_by_text("Saved as").wait_for()
    report = runs.load_report(runs.names()[0])
    for who, engine in (("twice", "simulated"), ("twice, executed", "executed: ")):
        cells = page.locator(
            "#summary tr", has=page.get_by_role("cell", name=who, exact=True)
        ).get_by_role("cell")
        expect(cells.nth(4)).to_have_text(f"{report.seconds[who]:.1f}")
        expect(cells.nth(5)).to_have_text(f"{report.seconds['float'] / report.seconds[who]:.2f}×")
        expect(cells.nth(6)).to_contain_text(engine)
    expect(
        page.locator(".gallery-container").first.get_by_role("button", name="Thumbnail")
    ).to_have_count(3)
