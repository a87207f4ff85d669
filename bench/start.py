"""From `dmq serve` to the first image: seconds until the server answers, an image and a heat
map are painted.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from playwright.sync_api import sync_playwright


ROOT = Path(__file__).resolve().parent.parent
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def once(browser) -> tuple[float, float, float]:
    """Seconds to the first answer, to the model's image on Start, and to the heat map on
    Activations.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as runs:
        begun = time.monotonic()
        command = [sys.executable, "-m", "dmq.cli", "serve", "--port", str(port)]
        server = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"DMQ_RUNS": runs}, stdout=subprocess.DEVNULL
        )
        try:
            url = f"http://127.0.0.1:{port}"
            while True:
                try:
                    urlopen(url, timeout=1).close()
                    break
                except (URLError, TimeoutError, ConnectionError):
                    time.sleep(0.05)
            answered = time.monotonic() - begun
            page = browser.new_page()
            page.goto(url)
            page.locator("img:visible").first.wait_for()
            imaged = time.monotonic() - begun
            page.get_by_role("tab", name="Activations").click()
            page.locator(".dmq-plot .heatmaplayer image, .dmq-plot .heatmaplayer").first.wait_for(
                state="attached"
            )
            plotted = time.monotonic() - begun
            page.close()
        finally:
            server.terminate()
            server.wait()
    return answered, imaged, plotted


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args(arguments)
    installed = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    chromium = os.environ.get("DMQ_CHROMIUM") or next(installed, None)  # none: Playwright's own
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        rounds = [once(browser) for _ in range(chosen.rounds)]
        browser.close()
    for name, column in zip(
        ("server answers", "first image", "heat map"), zip(*rounds, strict=True), strict=True
    ):
        print(
            f"{name:16} median {statistics.median(column):5.1f} s   all "
            f"{', '.join(f'{s:.1f}' for s in column)}"
        )


if __name__ == "__main__":
    main()
