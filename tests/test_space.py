"""The folder of `make space`: what is in it, that nobody's folder is replaced, and that it runs
by itself.
"""

import dataclasses
import os
import re
import socket
import subprocess
import sysconfig
import time
import tomllib
import urllib.request
import venv
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement

from dmq import jsonio
from dmq.errors import DmqError
from pages import app, session
from tests.visitor import Visitor
from tools import space


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return space.make(tmp_path_factory.mktemp("made") / "space")


def test_it_has_what_the_app_needs_and_nothing_else(folder):
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert {name.partition("/")[0] for name in names} <= {
        "app.py",
        "README.md",
        "LICENSE",
        "requirements.txt",
        "dmq",
        "pages",
        "assets",
        "docs",
        ".gitattributes",
        ".gitignore",
        space.MARK,
    }
    assert {
        "dmq/places.py",
        "pages/app.py",
        "assets/web/app.css",
        "assets/models/emoji-sd/model_index.json",
    } <= names
    text = (folder / "README.md").read_text("utf-8")
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    assert targets and [target for target in targets if not (folder / target).exists()] == [], (
        "no link is broken"
    )
    assert [
        name for name in names if name.startswith("assets/screenshots/") and name not in targets
    ] == []
    assert text.startswith("---\n") and "sdk: gradio\n" in text


def test_large_files_are_in_lfs(folder):
    patterns = [
        line.split()[0] for line in (folder / ".gitattributes").read_text("utf-8").splitlines()
    ]
    large = [
        file for file in folder.rglob("*") if file.is_file() and file.stat().st_size > 1_000_000
    ]
    assert (
        large
        and [file for file in large if not any(file.match(pattern) for pattern in patterns)] == []
    )


def test_torch_is_what_zero_gpu_offers(folder):
    wanted = (folder / "requirements.txt").read_text("utf-8").splitlines()
    (torch,) = (Requirement(line) for line in wanted if line.startswith("torch>"))
    assert torch.specifier.contains("2.11.0") and not torch.specifier.contains("2.12.0"), (
        "the last that it offers"
    )
    tested = tomllib.loads((space.ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "dependencies"
    ]
    assert [
        one
        for one in map(Requirement, tested)
        if one.name == "torch" and one.specifier.contains("2.11.0")
    ]
    assert not [line for line in wanted if line.startswith("gradio")]
    pinned = (space.ROOT / "requirements.txt").read_text("utf-8").split()
    assert {line for line in pinned if not line.startswith(("torch==", "gradio=="))} <= set(wanted)


def test_only_what_was_made_here_is_replaced(folder, tmp_path, capsys):
    (folder / "old").write_text("x")
    space.make(folder)
    assert not (folder / "old").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("x")
    with pytest.raises(DmqError, match="was not made by this command"):
        space.make(mine)
    assert space.main([str(mine)]) == 1 and "stays as it is" in capsys.readouterr().err
    assert [file.name for file in mine.iterdir()] == ["thesis.txt"]
    with pytest.raises(DmqError, match="was not made"):
        space.make(mine / "thesis.txt")
    (folder / ".git").mkdir()
    with pytest.raises(DmqError, match="whose history would go"):
        space.make(folder)
    (folder / ".git").rmdir()


@pytest.fixture
def address(folder, tmp_path):
    """The Space at work: `python app.py` in an environment with the packages and without this
    checkout.
    """
    venv.create(tmp_path / "env", symlinks=os.name != "nt")
    packages = next((tmp_path / "env").rglob("site-packages"))
    # A folder named in a .pth file is searched, but .pth files in it are not read: no editable dmq
    # is found.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {
        "PATH": os.defpath,
        "HOME": str(tmp_path),
        "SPACE_ID": "somebody/dmq",
        "GRADIO_SERVER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "GRADIO_TEMP_DIR": str(tmp_path / "gradio"),
    }
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        python = next(file for file in (tmp_path / "env").glob("*/python*") if file.is_file())
        running = subprocess.Popen([python, "app.py"], cwd=folder, env=env, stdout=log, stderr=log)
        try:
            while True:
                assert running.poll() is None, (tmp_path / "log").read_text("utf-8")
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30).close()
                    break
                except OSError:
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            running.terminate()
            running.wait(20)


def test_it_shows_images_and_compares(folder, address, monkeypatch):
    monkeypatch.setenv("DMQ_PUBLIC", "1")
    visitor = Visitor(app.build(), address)  # the same events in the same order
    visitor.open()
    shown = visitor.fire("start.show")["Sample images"]["value"]
    image = httpx.get(shown["url"], timeout=60).raise_for_status()
    assert image.headers["content-type"].startswith("image/") and len(image.content) > 1000
    recipe = dataclasses.replace(session.OPENING, unknown_timestep="nearest")
    assert "error" not in visitor.fire("sidebar.apply", jsonio.dumps(recipe))
    drawn = visitor.fire("compare.generate", None, "pizza", "0", 2, 4.0, [], None)
    name = drawn["Open an earlier run"]["value"]
    assert [Path(one["image"]["path"]).suffix for one in drawn["Images"]["value"]] == [
        ".png",
        ".png",
    ]
    (kept,) = (folder / "runs" / "visitors").iterdir()
    assert [run.name for run in kept.iterdir()] == [name], "of the visitor alone"
    assert visitor.fire("sidebar.choose_model", None, "/etc")["error"].startswith(
        "this app is open to everybody"
    )
