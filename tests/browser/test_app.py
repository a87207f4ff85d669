"""What a visitor does, with mouse, keyboard and links, in the real app."""

import dataclasses
import io
import json
import re
import time
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image
from playwright.sync_api import expect

from dmq import jsonio
from dmq.recipe import ManualGroups, Sampling, SharedRange, UniformGroups
from dmq.store import runs
from dmq.workflow.answers import get_errors, has_capture
from pages import session
from tests.browser.conftest import PATIENCE


pytestmark = pytest.mark.browser


LONG = "a red heart between two cats, under a sun behind clouds"  # more than a line below an image


def in_address(page):
    """The recipe of the address bar."""
    return jsonio.loads(parse_qs(urlsplit(page.url).query)["recipe"][0])


def boundary(page, group=2):
    """The handle before a group."""
    return page.get_by_role("slider", name=f"First step of group {group}", exact=True)


def drag(page, handle, share):
    """Drag a boundary to a share of the strip."""
    strip, box = page.locator(".strip").bounding_box(), handle.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, strip["y"] + strip["height"] / 2)
    page.mouse.down()
    page.mouse.move(strip["x"] + share * strip["width"], strip["y"] + 70, steps=6)
    page.mouse.up()


def toast(page):
    """The message on the page."""
    return page.locator(".toast-body")


def press(page, name):
    """Click the button of that name."""
    page.get_by_role("button", name=name, exact=True).click()


def stop(page, name):
    """Click the button of that name at once: a mouse waits until it no longer moves, and by then
    the work is done.
    """
    page.get_by_role("button", name=name, exact=True).dispatch_event("click")


def write_recipe(page, text):
    """Write into the JSON editor and apply."""
    page.get_by_role("button", name="Recipe as JSON").click()
    page.locator(".cm-content[contenteditable=true]").first.click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(text)
    press(page, "Apply")


# --- time groups ----------------------------------------------------------------------------------


def test_dragging_a_boundary_changes_the_errors_and_the_link(visit, recipe):
    page = visit(recipe, "time-groups")
    expect(boundary(page)).to_have_attribute("aria-valuenow", "5")
    total = page.locator("#total-error")
    expect(total).to_contain_text("2 equal groups")
    page.locator("#error-per-step .js-plotly-plot").wait_for()
    curve = "document.querySelector('#error-per-step .js-plotly-plot').data.map(t => JSON.stringify(t.y))"
    before = page.evaluate(curve)
    drag(page, boundary(page), 0.8)
    expect(boundary(page)).to_have_attribute("aria-valuenow", "8")
    expect(total).to_contain_text("2 groups of the 10 steps cut by hand")
    made = dataclasses.replace(recipe, grouping=ManualGroups(boundaries=(8,)))
    expect(total).to_contain_text(f"{100 * get_errors(made).total:.3g} %")
    page.wait_for_function(
        f"before => JSON.stringify({curve}) !== JSON.stringify(before)", arg=before
    )
    page.wait_for_function("decodeURIComponent(location.search).includes('ManualGroups')")
    assert in_address(page).grouping == ManualGroups(boundaries=(8,))


def test_the_keyboard_moves_removes_and_adds_boundaries(visit, recipe):
    page = visit(recipe, "time-groups")
    boundary(page).focus()
    page.keyboard.press("ArrowRight")
    expect(boundary(page)).to_have_attribute("aria-valuenow", "6")
    expect(page.locator("#total-error")).to_contain_text("cut by hand")
    expect(boundary(page)).to_be_focused()
    page.keyboard.press("Home")
    expect(boundary(page)).to_have_attribute("aria-valuenow", "1")
    page.keyboard.press("Delete")
    expect(page.locator("#total-error")).to_contain_text("1 group of the 10 steps")
    press(page, "Split the longest")
    expect(boundary(page)).to_have_attribute("aria-valuenow", "5")
    press(page, "Per step")
    expect(boundary(page, 10)).to_have_attribute("aria-valuenow", "9")
    press(page, "Shared")
    expect(page.locator(".cut")).to_have_count(0)


# --- activations ----------------------------------------------------------------------------------


def test_a_click_on_the_heat_map_shows_that_layer_and_step(visit, recipe):
    page = visit(recipe, "activations")
    title, heat = page.locator("#layer-title"), page.locator("#heat .nsewdrag").first
    heat.wait_for()
    expect(title.locator("h3")).not_to_be_empty()
    before = title.inner_text()
    box = heat.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.95, box["y"] + box["height"] * 0.2)
    expect(title).to_contain_text("step 9 of 10")
    expect(title.locator("h3")).not_to_have_text(before.splitlines()[0])
    page.locator("#activations-grid .js-plotly-plot").wait_for()
    slider = page.get_by_role("slider", name="Step (0 is noise)")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(title).to_contain_text("step 8 of 10")


def test_the_bits_of_the_sidebar_reach_the_open_tab(visit, recipe):
    page = visit(recipe, "activations")
    expect(page.locator("#layer-title")).to_contain_text("6 bits")
    page.get_by_label("Activation bits", exact=True).click()
    page.get_by_role("option", name="4", exact=True).click()
    expect(page.locator(".dmq-name")).to_have_text("W8A4 2 equal groups")
    expect(page.locator("#layer-title")).to_contain_text("grid of 4 bits")
    page.wait_for_function("decodeURIComponent(location.search).includes('\"bits\":4')")
    assert in_address(page).activations.bits == 4


def test_a_class_that_opens_the_same_link_at_once_sees_the_page(chromium, address, recipe):
    rooms = [
        chromium.new_context() for _ in range(4)
    ]  # pages of one visitor would wait for each other's connections
    pupils = [room.new_page() for room in rooms]
    for page in pupils:
        page.goto(address + session.write_query(recipe, "activations"), wait_until="commit")
    for page in pupils:
        expect(page.locator("#layer-title")).to_contain_text("6 bits")
        page.locator("#activations-grid .js-plotly-plot").wait_for(timeout=PATIENCE)
        expect(toast(page)).to_have_count(0)
    for room in rooms:
        room.close()


# --- the sidebar ----------------------------------------------------------------------------------


def test_the_table_of_layers_is_filled_when_opened_can_be_searched_and_follows(visit, recipe):
    page = visit(recipe, "start")
    cells = page.locator("#layers").get_by_role("gridcell")
    page.get_by_role("button", name="What every layer gets").click()
    search = page.locator("#layers").get_by_placeholder("Search")
    search.fill("conv_out")
    expect(cells).to_have_count(7)
    expect(cells.nth(5)).to_have_text("last layer")
    search.fill("mid_block.resnets.0.conv1")
    expect(cells.nth(2)).to_have_text("6 bit")
    page.get_by_label("Activation bits", exact=True).click()
    page.get_by_role("option", name="4", exact=True).click()
    search.fill("mid_block.resnets.0.conv1")
    expect(cells.nth(2)).to_have_text("4 bit")


def test_on_a_phone_nothing_is_cut_off_and_the_bits_are_two_touches_away(visit, recipe):
    page = visit(recipe, "start", width=420)
    button = page.locator(".sidebar .toggle-button")
    expect(page.locator(".sidebar.open")).to_have_count(0)
    for name in ("Start", "Activations", "Time groups", "Compare"):
        tab = page.get_by_role("tab", name=name, exact=True)
        expect(tab).to_be_visible()
        tab.click()
        expect(tab).to_have_attribute("aria-selected", "true")
        page.wait_for_timeout(1500)  # figures measure themselves after the tab is shown
        assert page.evaluate("document.documentElement.scrollWidth") <= 420
        assert (
            button.evaluate("e => getComputedStyle(e, '::after').content") == '"Model, bits, size"'
        )
        expect(button).to_be_in_viewport(ratio=1)
    button.click()
    expect(page.get_by_label("Activation bits", exact=True)).to_be_in_viewport(ratio=1)


# --- links ----------------------------------------------------------------------------------------


def test_a_link_restores_model_recipe_and_tab(visit, recipe):
    wanted = dataclasses.replace(
        recipe, name="from a link", grouping=ManualGroups(boundaries=(2, 7))
    )
    page = visit(wanted, "time-groups")
    expect(page.get_by_role("tab", name="Time groups", exact=True)).to_have_attribute(
        "aria-selected", "true"
    )
    expect(page.get_by_label("Model", exact=True)).to_have_value(recipe.model)
    expect(boundary(page, 2)).to_have_attribute("aria-valuenow", "2")
    expect(boundary(page, 3)).to_have_attribute("aria-valuenow", "7")
    page.get_by_role("tab", name="Compare", exact=True).click()
    page.wait_for_function("location.search.includes('tab=compare')")
    assert in_address(page) == wanted
    page.reload()
    expect(page.locator(".dmq-name")).to_have_text("from a link")
    expect(page.get_by_role("tab", name="Compare", exact=True)).to_have_attribute(
        "aria-selected", "true"
    )


@pytest.mark.parametrize("linked", ["start", "compare"])
def test_a_tab_that_is_clicked_while_the_page_loads_stays_open(page, address, recipe, linked):
    held, loading = [], True
    page.route("**/queue/join*", lambda route: held.append(route) if loading else route.continue_())
    page.goto(address + session.write_query(recipe, linked))
    clicked = page.get_by_role("tab", name="Time groups", exact=True)
    clicked.click()
    page.wait_for_timeout(500)
    assert held, "the page is still loading"
    loading = False
    for route in held:
        route.continue_()
    expect(page.locator("#total-error")).to_contain_text("2 equal groups")
    page.wait_for_function("location.search.includes('tab=time-groups')")
    expect(clicked).to_have_attribute("aria-selected", "true")
    assert in_address(page) == recipe


def test_light_and_dark_both_read_well(visit, recipe):
    contrast = {}
    for theme in ("light", "dark"):
        page = visit(recipe, "time-groups", f"&__theme={theme}")
        label = page.locator("#error-per-step .xtick text").first
        label.wait_for()
        ink = label.evaluate("e => getComputedStyle(e).fill")
        box = page.locator("#error-per-step").bounding_box()
        page.mouse.wheel(0, box["y"] - 300)
        box = page.locator("#error-per-step").bounding_box()
        shot = page.screenshot(clip={"x": box["x"] + 2, "y": box["y"] + 2, "width": 4, "height": 4})
        with Image.open(io.BytesIO(shot)) as corner:
            ground = sum(corner.convert("RGB").getpixel((1, 1)))
        contrast[theme] = ground - sum(int(part) for part in re.findall(r"\d+", ink)[:3])
    assert contrast["light"] > 300
    assert contrast["dark"] < -300


# --- compare --------------------------------------------------------------------------------------


def test_a_comparison_is_drawn_scored_saved_and_opened_again(visit, recipe):
    page = visit(recipe, "compare")
    expect(page.get_by_role("spinbutton", name="Guidance", exact=True).first).to_have_value("2")
    page.get_by_label("Prompts, one per line", exact=True).fill(f"a\n{LONG}")
    press(page, "Generate")
    page.get_by_text("Saved as").wait_for()
    expect(page.locator("#summary")).to_contain_text("Noise floor")
    expect(page.locator("#summary")).to_contain_text("an impression, no measurement")
    name = runs.names()[0]
    assert len(runs.load_report(name).scores) == 2
    assert runs.load_recipes(name) == (recipe,)
    expect(page.locator(".slider-wrap").first).to_be_visible()
    gallery = page.locator(".gallery-container").first
    expect(gallery.get_by_role("button", name="Thumbnail")).to_have_count(4)
    caption = gallery.locator(".caption-label").last
    expect(caption).to_have_text(f"tiny · {LONG} · seed 0")
    assert caption.evaluate(
        "e => e.scrollWidth <= e.clientWidth && e.scrollHeight <= e.clientHeight + 1"
    )
    wrap, last = gallery.locator(".grid-wrap").bounding_box(), caption.bounding_box()
    assert (
        0 <= wrap["y"] + wrap["height"] - last["y"] - last["height"] < 30
    )  # neither cut off nor followed by nothing
    page.get_by_label("Compare with recipes", exact=True).click()
    expect(page.get_by_role("option", name="W8A8, one range", exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    page.reload()
    page.get_by_label("Open an earlier run", exact=True).click()
    page.get_by_role("option", name=name, exact=True).click()
    expect(page.locator("#summary")).to_contain_text("Noise floor")


def test_a_model_without_prompts_asks_for_none(visit, unprompted):
    page = visit(unprompted, "compare")
    page.get_by_label("Seeds, such as 0, 1 or 0-3", exact=True).wait_for()
    expect(page.get_by_label("Prompts, one per line", exact=True)).to_be_hidden()


# --- long work ------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", ["stop", "reload"])
def test_a_capture_that_is_stopped_or_left_leaves_nothing_behind(
    visit, hold, recipe, folder, leave
):
    wanted = dataclasses.replace(
        recipe, name="long", sampling=Sampling(steps=12, guidance=2.0), grouping=SharedRange()
    )
    page = visit(wanted, "time-groups")
    expect(page.locator(".block.dmq-empty:visible")).to_contain_text("Nothing captured yet")
    with hold():
        press(page, "Capture")
        expect(page.get_by_role("progressbar", name="Progress")).to_be_visible()
        expect(page.locator(".dmq-progress", has_text="s left")).to_be_visible()
        if leave == "stop":
            press(page, "Stop capture")
            expect(page.get_by_text("Stopped; nothing was saved.")).to_be_visible()
        else:
            page.reload()
        expect(page.get_by_role("button", name="Capture", exact=True)).to_be_visible()
        assert not has_capture(wanted)
        ended = time.monotonic() + PATIENCE / 1000
        while left := [
            path.name for path in (folder / "runs").rglob(".*")
        ]:  # until the server has noticed
            assert time.monotonic() < ended, left
            time.sleep(0.1)
    assert not has_capture(wanted)


def test_a_capture_fills_the_empty_tab(visit, unprompted):
    wanted = dataclasses.replace(
        unprompted, sampling=Sampling(steps=4), grouping=UniformGroups(count=2)
    )
    page = visit(wanted, "time-groups")
    press(page, "Capture")
    expect(boundary(page)).to_have_attribute("aria-valuenow", "2")
    assert has_capture(wanted)


def test_two_visitors_with_different_models_do_not_disturb_each_other(
    visit, recipe, unprompted, chromium, address
):
    page = visit(recipe, "start")
    other = chromium.new_context().new_page()
    other.goto(address + "?tab=start&recipe=" + jsonio.dumps(unprompted, short=True))
    expect(other.locator(".dmq-name")).to_have_text("tiny ddpm", timeout=60_000)
    expect(other.get_by_text("UNet2DModel,")).to_be_visible(timeout=60_000)
    expect(page.locator(".dmq-name")).to_have_text("tiny")
    expect(page.get_by_text("UNet2DConditionModel,")).to_be_visible()
    other.context.close()


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wrong_folders(folder):
    (folder / "no-pipeline").mkdir()
    pickled = folder / "pickled" / "unet"
    pickled.mkdir(parents=True)
    (pickled.parent / "model_index.json").write_text(
        (folder / "tiny-ddpm" / "model_index.json").read_text()
    )
    (pickled / "config.json").write_text(
        (folder / "tiny-ddpm" / "unet" / "config.json").read_text()
    )
    (pickled / "diffusion_pytorch_model.bin").write_bytes(b"no pickle is opened")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("emoji-ds", "emoji-sd"),
        ("FOLDER/no-pipeline", "model_index.json"),
        ("FOLDER/pickled", "pickle, which dmq never"),
        ("nobody/nothing-here", "network"),
        ("", "no model named"),
    ],
    ids=["unknown", "no pipeline", "pickle", "hub without network", "empty"],
)
def test_a_model_that_cannot_be_loaded_is_one_line(
    visit, recipe, unprompted, wrong_folders, folder, name, says
):
    page = visit(recipe, "start")
    page.get_by_role("button", name="Another model").click()
    page.get_by_label("Folder or Hub id", exact=True).fill(name.replace("FOLDER", str(folder)))
    press(page, "Load")
    expect(toast(page)).to_contain_text(says)
    expect(page.locator(".dmq-name")).to_have_text(recipe.name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"wieghts": {}}, "did you mean 'weights'"),
        ({"weights": {"bits": 99}}, "bits is 99"),
        ({"grouping": {"kind": "ManualGroups", "boundaries": [7, 3]}}, "must rise strictly"),
        ({"grouping": {"kind": "ManualGroups", "boundaries": [70]}}, "must lie in 1 to"),
    ],
    ids=["misspelt", "bits", "unsorted", "outside"],
)
def test_a_wrong_recipe_is_one_line(visit, recipe, change, says):
    page = visit(recipe, "start")
    write_recipe(page, json.dumps(jsonio.to_minimal_data(recipe) | change))
    expect(toast(page)).to_contain_text(says)
    expect(page.locator(".dmq-name")).to_have_text(recipe.name)


@pytest.mark.parametrize(
    ("prompt", "seeds", "says"),
    [
        ("  ", "0", "prompt is empty"),
        ("x" * 10_000, "0", "10000 characters"),
        ("a", "zero", "seeds must be"),
        ("a", "0-999999999", "at most"),
        ("a", "", "at least one"),
    ],
    ids=["empty", "long", "no number", "too many", "no seed"],
)
def test_a_wrong_wish_is_one_line_and_the_button_stays(visit, recipe, prompt, seeds, says):
    page = visit(recipe, "compare")
    expect(page.get_by_role("spinbutton", name="Guidance", exact=True).first).to_have_value("2")
    page.get_by_label("Prompts, one per line", exact=True).fill(prompt)
    page.get_by_label("Seeds, such as 0, 1 or 0-3", exact=True).fill(seeds)
    press(page, "Generate")
    expect(toast(page)).to_contain_text(says)
    expect(page.get_by_role("button", name="Generate", exact=True)).to_be_visible()


def test_a_broken_link_says_so_and_opens_the_default(page, address):
    page.goto(address + '?recipe={"wieghts":{}}&tab=nowhere')
    expect(toast(page)).to_contain_text("did you mean 'weights'")
    expect(page.locator(".dmq-name")).to_have_text(session.OPENING.name)


def test_a_link_to_a_former_tab_name_opens_it_and_is_written_anew(page, address):
    page.goto(address + "?tab=take-away")
    expect(page.get_by_role("tab", name="Export")).to_have_attribute("aria-selected", "true")
    page.wait_for_function("location.search.includes('tab=export')")
