"""From `dmq serve` to the first image: python -m bench.start [--beside CHECKOUT]

Prints seconds until the server answers, an image and a heat map are painted. `--beside` serves
another checkout in turns with this one, and prints the ratios."""

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


def once(browser, folder: Path = ROOT) -> tuple[float, float, float]:
    """Seconds of the checkout in `folder` to the first answer, to the model's image on Start, and to the heat map on
    Activations.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as runs:
        begun = time.monotonic()
        command = [sys.executable, "-m", "dmq.cli", "serve", "--port", str(port)]
        env = os.environ | {"DMQ_RUNS": runs, "PYTHONPATH": str(folder)}
        server = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL)
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
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT")
    chosen = parser.parse_args(arguments)
    installed = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    chromium = os.environ.get("DMQ_CHROMIUM") or next(installed, None)  # none: Playwright's own
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        folders = [*([chosen.beside.resolve()] if chosen.beside else []), ROOT]
        rounds = [[once(browser, folder) for folder in folders] for _ in range(chosen.rounds)]
        browser.close()
    for n, name in enumerate(("server answers", "first image", "heat map")):
        columns = [[each[side][n] for each in rounds] for side in range(len(folders))]
        medians = [statistics.median(column) for column in columns]
        for folder, column, median in zip(folders, columns, medians, strict=True):
            all_of = ", ".join(f"{seconds:.1f}" for seconds in column)
            where = f" ({folder.name})" if chosen.beside else ""
            print(f"{name:16} median {median:5.1f} s   all {all_of}{where}")
        if chosen.beside:
            print(f"{'':16} {medians[1] / medians[0]:.2f} times")


if __name__ == "__main__":
    main()
