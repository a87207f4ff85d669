"""Images for the README, of a running app, light: `python -m tools.screenshots
http://127.0.0.1:7860 [TAB …]`
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from dmq.store.runs import shipped_recipes
from pages.session import write_query


PLACE = Path(__file__).resolve().parent.parent / "assets" / "screenshots"
TABS = (
    "Start",
    "Activations",
    "Time groups",
    "Temporal",
    "Layers",
    "Rounding",
    "Error over time",
    "Benchmark",
    "Compare",
    "Export",
)
OWN = {  # tabs that show what only one recipe has, with a text that is there when it is shown
    "Temporal": ("W8A6, 8 equal groups", "depend on t"),
    "Rounding": ("BRECQ W4A8", "err less than with nearest codes"),
    "Error over time": ("PCR W4A8", "lines are means"),
    "Export": ("TFMQ-DM W4A8", "× smaller"),
}
WAIT = 120_000  # milliseconds


def main(address: str, *tabs: str) -> None:
    PLACE.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1400, "height": 960})
        for name in tabs or TABS:
            visit(page, address, name)
            if name == "Compare":
                page.get_by_label("Prompts, one per line", exact=True).fill(
                    "grinning cat\nred heart\npizza"
                )
                page.get_by_role("button", name="Draw", exact=True).click()
                page.get_by_text("Saved as").wait_for(timeout=WAIT)
            page.wait_for_timeout(7000)
            page.screenshot(path=PLACE / f"{name.lower().replace(' ', '-')}.png")
        browser.close()


def visit(page: Page, address: str, name: str) -> None:
    """Open a tab, with a recipe that has something to show there."""
    recipe, text = OWN.get(name, (None, "Whole pipeline"))
    link = (
        write_query(shipped_recipes()[recipe], name.lower().replace(" ", "-")) + "&"
        if recipe
        else "?"
    )
    page.goto(f"{address}/{link}__theme=light")
    page.get_by_text(text).first.wait_for(timeout=WAIT)
    page.get_by_role("tab", name=name, exact=True).click()


if __name__ == "__main__":
    main(*sys.argv[1:])
