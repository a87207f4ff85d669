"""The Layers tab in Chromium: a table is measured, looked at from all sides; a budget moves, a
layer is edited.
"""

import dataclasses
import re

import pytest
from playwright.sync_api import expect

from dmq.allocation import budget
from dmq.progress import run_to_end
from dmq.recipe import Budget, KMeans, Sensitivity, Uaq, WeightFormat, format_name
from dmq.workflow.learning import capture_statistics, measure_costs
from dmq.workflow.tables import list_tables
from tests.browser.test_app import in_address, press, toast


pytestmark = pytest.mark.browser


CHOICES = tuple(
    WeightFormat(bits=bits, format=form) for bits in (4, 2) for form in (Uaq(), KMeans())
)


def row_of(page, layer):
    """The cells of a layer in the table of layers; names are in full."""
    rows = page.locator("#budget-layers").get_by_role("row")
    return rows.filter(has=page.get_by_text(layer, exact=True)).first


def write(page, cell, text):
    """Write into a cell of a table."""
    cell.dblclick()
    field = cell.get_by_label("Edit cell")
    field.fill(text)
    expect(field).to_have_value(text)
    page.keyboard.press("Enter")


def test_a_table_is_asked_for_stopped_and_gone_on_with(visit, hold, unprompted):
    run_to_end(capture_statistics(unprompted))
    page = visit(unprompted, "layers")
    expect(page.locator(".block.dmq-empty:visible")).to_contain_text("Nothing is known yet")
    page.locator("#new-table > button").click()
    form = page.locator("#new-table")
    form.get_by_label("Images").first.fill("1")
    form.get_by_label("Steps looked at").first.fill("2")
    page.keyboard.press("Tab")
    with hold():
        press(page, "Measure")
        expect(page.get_by_role("progressbar", name="Progress")).to_be_visible()
        press(page, "Stop, keep finished layers")
        expect(page.get_by_text("Stopped; finished layers were kept")).to_be_visible()
        assert list_tables(unprompted.model) == []
    form.get_by_label("How", exact=True).click()
    page.get_by_role("option", name="fisher").click()
    expect(form.get_by_label("Judged by")).to_have_count(0)
    press(page, "Measure")
    expect(page.locator("#table-context")).to_contain_text("noise error by gradients")
    ((title, _),) = list_tables(unprompted.model)
    expect(page.get_by_label("Table", exact=True)).to_have_value(title)
    expect(page.locator("#layer-figure .main-svg").first).to_be_visible()


def test_a_predictor_can_be_asked_for(visit, recipe):
    page = visit(recipe, "layers")
    page.locator("#learn-mixes > button").click()
    form = page.locator("#learn-mixes")
    for label in ("Random mixes", "Judged by", "Images", "Steps of an image", "Loss", "Epochs"):
        expect(form.get_by_label(label).first).to_be_visible()
    expect(form.get_by_role("button", name="Learn", exact=True)).to_be_visible()
    expect(page.locator("#table-trust")).to_be_hidden()
    form.get_by_label("Random mixes").fill("7")
    page.keyboard.press("Tab")
    press(page, "Learn")
    expect(toast(page).first).to_contain_text("configurations is 7")
    page.set_viewport_size({"width": 420, "height": 900})
    page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")


def test_a_kept_table_is_looked_at_from_all_sides(visit, recipe):
    for how in ("local", "fisher"):
        ask = Sensitivity(choices=CHOICES, how=how, steps=2, images=1, probes=1)
        run_to_end(measure_costs(recipe, ask))
    page = visit(dataclasses.replace(recipe, name="look at layers"), "layers")
    figure = page.locator("#layer-figure")
    bars = figure.locator(".barlayer .point path")
    expect(bars).to_have_count(30)
    bars.first.scroll_into_view_if_needed()
    box = bars.first.bounding_box()  # under what catches clicks for all of them
    page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + box["height"] / 2)
    expect(page.locator("#layer-picked")).to_contain_text("KMC-2")
    marks = {
        "Tree map by block": ".treemaplayer .slice",
        "Layer × choice": ".heatmaplayer image",
        "Layer × step": ".heatmaplayer image",
        "By kind of layer": ".boxlayer .trace",
        "By block": ".boxlayer .trace",
        "By choice": ".boxlayer .trace",
        "Two tables": ".scatterlayer .trace",
    }
    for view, mark in marks.items():
        page.locator("#layer-views").get_by_label(view, exact=True).check()
        expect(figure.locator(mark).first).to_be_attached()
    expect(figure).to_contain_text("Spearman")
    for width in (1400, 420):
        page.set_viewport_size({"width": width, "height": 900})
        expect(page.locator("#budget-strip .main-svg").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width


def test_the_budget_moves_a_layer_is_edited_and_all_of_it_applied(visit, recipe):
    ask = Sensitivity(choices=CHOICES, how="fisher", steps=2, images=1, probes=1)
    table = run_to_end(measure_costs(recipe, ask))
    page = visit(dataclasses.replace(recipe, name="mixed"), "layers")
    expect(page.get_by_label("Table", exact=True)).to_have_value(table.title)
    said, slider = page.locator("#budget-summary"), page.locator("#budget-bits input[type=range]")
    expect(said).to_contain_text("bits a weight on average")
    start = float(slider.input_value())
    slider.focus()
    page.keyboard.press("PageDown")
    moved = "start => document.querySelector('#budget-bits input[type=range]').value < start"
    page.wait_for_function(moved, arg=start)
    bits = float(slider.input_value())
    best = budget.allocate(table, Budget(bits=None, bytes=int(bits * table.num_weights / 8)))
    expect(said).to_contain_text(f"{best.bytes:,} bytes")
    layer, choice = best.layers[0], format_name(best.choices[0])
    cells = row_of(page, layer).get_by_role("gridcell")
    expect(cells.nth(3)).to_contain_text(choice)
    other = "UAQ-4" if choice != "UAQ-4" else "KMC-2"
    write(page, cells.nth(3), other)
    expect(cells.nth(6)).to_contain_text("set by hand")
    expect(page.locator("#budget-rules").get_by_role("gridcell").nth(1)).to_contain_text(other)
    write(page, cells.nth(3), "KMX-4")
    expect(toast(page).first).to_contain_text("'KMX-4' is no choice")
    expect(cells.nth(3)).to_contain_text(other)
    slider.focus()
    page.keyboard.press("PageUp")
    expect(said).not_to_contain_text(f"{best.bytes:,} bytes")
    expect(cells.nth(3)).to_contain_text(other)
    press(page, "Apply to the recipe")
    expect(page.locator(".dmq-name")).to_have_text(re.compile("bits mixed"))
    page.wait_for_function("decodeURIComponent(location.search).includes('bits+mixed')")
    made = {
        over.layers: format_name(WeightFormat(bits=over.weight_bits, format=over.format))
        for over in in_address(page).overrides
    }
    assert len(made) == len(table.layers) and made[layer] == other
    press(page, "Apply and compare images")
    expect(page.get_by_role("tab", name="Compare", exact=True)).to_have_attribute(
        "aria-selected", "true"
    )
    page.wait_for_function("location.search.includes('tab=compare')")
