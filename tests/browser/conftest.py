"""The real app in a process of its own, with tiny models, in a real Chromium.

Nothing here may be skipped.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from dmq.models.tiny import tiny_ddpm
from pages import session
from tests.tiny import captured_recipe, runs_in


ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--no-first-run",
]
PATIENCE = 60_000  # milliseconds until something that should happen is taken to have failed
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder for models and runs; this process reads and writes the same runs as the app."""
    with runs_in(tmp_path_factory.mktemp("app")) as made:
        yield made


@pytest.fixture(scope="session")
def recipe(folder):
    """Six bits in two groups of ten steps, for a tiny prompted model whose statistics are there."""
    return captured_recipe(folder, steps=10)


@pytest.fixture(scope="session")
def unprompted(folder, recipe):
    """The same for a tiny model without prompts, of which nothing is known yet."""
    tiny_ddpm().save_pretrained(folder / "tiny-ddpm", safe_serialization=True)
    return dataclasses.replace(recipe, model=str(folder / "tiny-ddpm"), name="tiny ddpm")


@pytest.fixture(scope="session")
def address(folder, recipe):
    """Where the app answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (folder / "app.log").open("w")
    command = [
        sys.executable,
        "-m",
        "tests.browser.served",
        str(folder / "hold"),
        "serve",
        "--port",
        str(port),
    ]
    app = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}/"
    for _ in range(240):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            break
        except (urllib.error.URLError, OSError):
            assert app.poll() is None, (folder / "app.log").read_text()
            time.sleep(0.5)
    yield url
    app.terminate()
    app.wait(20)
    log.close()
    said = (folder / "app.log").read_text()
    # What users do wrong is told to them, not to the log. (A page that is left while it loads gets
    # a traceback of the web server's own there.)
    assert "/pages/" not in said and "/dmq/" not in said.replace(str(ROOT), ""), said


@pytest.fixture
def hold(folder):
    """`with hold(): …`: stages of the app stand still once something is done, until they are
    stopped or let go on.
    """

    @contextlib.contextmanager
    def held(stage="", snapshot=False):
        (folder / "hold.new").write_text(json.dumps({"stage": stage, "snapshot": snapshot}))
        (folder / "hold.new").rename(folder / "hold")
        try:
            yield
        finally:
            (folder / "hold").unlink()

    return held


@pytest.fixture(scope="session")
def chromium():
    """A browser: $DMQ_CHROMIUM, the system's, or Playwright's own. Having none is a failure."""
    path = (
        os.environ.get("DMQ_CHROMIUM")
        or shutil.which("chromium")
        or shutil.which("chromium-browser")
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """A fresh visitor. What goes wrong in the page's scripts fails the test."""
    context = chromium.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(PATIENCE)
    made = context.new_page()
    wrong: list[str] = []
    made.on("pageerror", lambda error: wrong.append(str(error)))
    yield made
    context.close()
    assert not wrong


@pytest.fixture
def visit(page, address):
    """`visit(recipe, tab)` opens a link and waits until the sidebar has the recipe, in a window
    of `width` pixels.
    """

    def opened(recipe, tab, extra="", width=1400):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(address + session.write_query(recipe, tab) + extra)
        page.locator(".dmq-name", has_text=recipe.name).wait_for(
            state="visible" if width > 768 else "attached"
        )
        return page

    return opened
