"""What is learned in the app: groups of timesteps, the rounding of the time embedding and of blocks;
in Chromium.
"""

import contextlib
import dataclasses

import pytest
from playwright.sync_api import expect

from dmq.recipe import BlockReconstruction, LearnedGroups, Temporal, Tiar, UniformGroups, Weights
from dmq.workflow.answers import get_blocks_by_now, has_blocks, has_search, has_time_rounding
from tests.browser.test_app import in_address, press, stop, toast


pytestmark = pytest.mark.browser


SPEC = LearnedGroups(count=2, iterations=12, trajectories=2, batch=1, refits=1)


def test_groups_are_learned_watched_and_used(visit, recipe):
    page = visit(dataclasses.replace(recipe, name="learned", grouping=SPEC), "time-groups")
    expect(page.locator(".block.dmq-empty:visible")).to_contain_text("still to be learned")
    page.locator("#search > button").click()
    press(page, "Search")
    expect(page.get_by_role("progressbar", name="Progress")).to_be_visible()
    expect(page.locator("#search-summary")).to_contain_text("Noise error")
    expect(page.get_by_text("Done; the groups are kept.")).to_be_visible()
    for figure in ("#search-entropy", "#search-map"):
        expect(page.locator(f"{figure} .main-svg").first).to_be_visible()
    press(page, "Use these groups")
    page.wait_for_function("decodeURIComponent(location.search).includes('LearnedGroups')")
    made = in_address(page)
    assert made.grouping == SPEC
    assert has_search(made)
    expect(page.locator("#total-error")).to_contain_text("2 learned groups")


def test_a_search_can_be_stopped_or_finished_early(visit, recipe):
    spec = dataclasses.replace(SPEC, iterations=100_000, seed=1)  # hours
    wanted = dataclasses.replace(recipe, name="long", grouping=spec)
    page = visit(wanted, "time-groups")
    page.locator("#search > button").click()
    press(page, "Search")
    expect(page.locator("#search-summary")).to_contain_text("noise error")
    stop(page, "Stop the search")
    expect(page.get_by_text("Stopped; nothing was kept.")).to_be_visible()
    assert not has_search(wanted)
    finish = page.get_by_role("button", name="Finish now, keep the result", exact=True)
    press_until(page, "Search", finish)  # the summary is still that of the search before
    expect(page.get_by_role("progressbar", name="Progress")).to_be_visible()
    finish.click()
    expect(page.locator("#search-summary")).to_contain_text("It ended early")
    assert has_search(wanted)


def test_the_time_embedding_is_seen_learned_and_run_alone(visit, recipe):
    spec = Temporal(rounding=Tiar(iterations=50))
    wanted = dataclasses.replace(
        recipe, name="time", weights=Weights(bits=4), grouping=UniformGroups(count=2), temporal=spec
    )
    page = visit(wanted, "temporal")
    said = page.locator("#temporal-summary")
    expect(said).to_contain_text("still to be learned")
    press(page, "Learn the rounding")
    expect(said).to_contain_text("as all other layers")
    expect(said).not_to_contain_text("still to be learned")
    assert has_time_rounding(wanted)
    heat, cell = page.locator("#temporal-after .nsewdrag").first, page.locator("#temporal-cell")
    heat.scroll_into_view_if_needed()
    box = heat.bounding_box()
    page.mouse.click(box["x"] + 0.95 * box["width"], box["y"] + 0.1 * box["height"])
    expect(cell).to_contain_text("step 9")
    expect(page.locator("#temporal-vectors .main-svg").first).to_be_visible()
    press(page, "Run with the time embedding alone quantized")
    expect(page.locator("#temporal-deviation .main-svg").first).to_be_visible()


def test_a_cache_of_the_time_embedding_is_one_choice_away(visit, recipe):
    page = visit(dataclasses.replace(recipe, name="plain"), "temporal")
    expect(page.locator("#temporal-summary")).to_contain_text("Worst cosine")
    page.get_by_label("Quantize the time embedding separately").check()
    page.get_by_label("Time embedding: cache").click()
    page.get_by_role("option", name="Cache the features").click()
    expect(page.locator("#temporal-summary")).to_contain_text(
        "100 % of the features come from the cache"
    )
    page.wait_for_function("decodeURIComponent(location.search).includes('Cache')")
    assert in_address(page).temporal.cache.bits == 8


def press_until(page, name, wanted):
    """Press again if nothing came of it: Gradio drops a click that comes before it has noticed
    the end of a run.
    """
    button = page.get_by_role("button", name=name, exact=True)
    for _ in range(20):
        if button.is_visible():
            button.click()
        with contextlib.suppress(AssertionError):
            expect(wanted).to_be_visible(timeout=8000)
            return
    expect(wanted).to_be_visible()


def test_blocks_are_learned_stopped_and_gone_on_with(visit, hold, recipe):
    spec = BlockReconstruction(iterations=150, images=1, batch=2)
    wanted = dataclasses.replace(
        recipe, name="blocks", weights=Weights(bits=3), reconstruction=spec
    )
    page = visit(wanted, "reconstruct")
    expect(page.locator(".block.dmq-empty:visible")).to_contain_text("still to be learned")
    with hold(snapshot=True):
        press(page, "Learn the blocks")
        expect(page.locator("#blocks-summary")).to_contain_text("Not all blocks are learned yet")
        press(page, "Stop, keep finished blocks")
        expect(page.get_by_text("Stopped; finished blocks were kept.")).to_be_visible()
        assert not has_blocks(wanted)
    before = list(get_blocks_by_now(wanted).after)
    assert before
    press_until(page, "Learn the other blocks", page.get_by_text("Learned.", exact=True))
    expect(page.locator("#blocks-summary")).to_contain_text("5 blocks err less")
    expect(page.locator("#blocks-errors .main-svg").first).to_be_visible()
    expect(page.get_by_role("button", name="Learn the other blocks", exact=True)).to_be_hidden()
    assert has_blocks(wanted)


def test_block_reconstruction_is_one_tick_away_and_a_conflict_is_told(visit, recipe):
    page = visit(dataclasses.replace(recipe, name="plain", temporal=Temporal()), "reconstruct")
    expect(page.locator(".block.dmq-empty:visible")).to_contain_text("Tick the box")
    page.get_by_label("Learn the rounding block by block").check()
    page.wait_for_function("decodeURIComponent(location.search).includes('BlockReconstruction')")
    assert in_address(page).reconstruction == BlockReconstruction()
    page.get_by_label("Also what the blocks make of the time").check()
    expect(toast(page)).to_contain_text("set reconstruction.time to false, or temporal to null")
