"""The pictures of the README: every tab of a running app, light. `python -m tools.screenshots http://127.0.0.1:7860`"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from dmq.runs import shipped_recipes
from pages.links import query


PLACE = Path(__file__).resolve().parent.parent / "assets" / "screenshots"
TABS = ("Start", "Activations", "Time groups", "Temporal", "Reconstruct", "Compare")
WAIT = 120_000  # milliseconds


def main(address: str) -> None:
    PLACE.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 960})
        page.goto(f"{address}/?__theme=light")
        page.get_by_text("Whole pipeline").wait_for(timeout=WAIT)
        for name in TABS:
            page.get_by_role("tab", name=name, exact=True).click()
            if name == "Compare":
                page.get_by_label("Prompts, one per line", exact=True).fill("grinning cat\nred heart\npizza")
                page.get_by_role("button", name="Draw", exact=True).click()
                page.get_by_text("Saved as").wait_for(timeout=WAIT)
            page.wait_for_timeout(7000)
            page.screenshot(path=PLACE / f"{name.lower().replace(' ', '-')}.png")
            if name == "Temporal":  # blocks are learned in one recipe only
                page.goto(f"{address}/{query(shipped_recipes()['BRECQ W4A8'], 'reconstruct')}&__theme=light")
                page.get_by_text("err less than with nearest codes").wait_for(timeout=WAIT)
            if name == "Reconstruct":
                page.goto(f"{address}/?__theme=light")
                page.get_by_text("Whole pipeline").wait_for(timeout=WAIT)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
