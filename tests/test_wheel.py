"""What `pip install dmq-….whl` gives: the commands and the app with all that ships, from a folder
nobody may write in.

The environment is a new one that sees the packages which are installed here, but nothing of this
checkout."""

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import venv
import zipfile
from pathlib import Path

import httpx
import pytest
from gradio_client import Client
from PIL import Image, ImageChops

from dmq import __version__, jsonio
from dmq.store import folders, runs
from tests.bound import bound, run_bound


ROOT = Path(__file__).resolve().parent.parent
RECIPE = "W8A6, 8 best groups"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy, since setuptools leaves a folder behind and would pack what
    it finds there.
    """
    folder = tmp_path_factory.mktemp("built")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    named = (
        subprocess.run(listed, cwd=ROOT, capture_output=True, check=True)
        .stdout.decode()
        .split("\0")
    )
    for name in filter(None, named):
        source, target = ROOT / name, folder / "source" / name
        if source.is_file():  # one that was deleted is still listed until that is committed
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    left = folder / "source" / "build" / "lib" / "dmq" / "left_by_an_earlier_build.py"
    left.parent.mkdir(parents=True)
    left.touch()
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--wheel-dir",
        folder,
        "--config-settings=--build-option=--compression=stored",
        folder / "source",
    ]
    subprocess.run(pip, check=True, env=bare(), timeout=240)
    (file,) = folder.glob("dmq-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel):
    """The folder of programs of an environment with this wheel; its path has spaces and a letter
    that is no ASCII.
    """
    place = wheel.parent / "Öl und Wasser"
    venv.create(place, symlinks=os.name != "nt")
    scripts = Path(
        sysconfig.get_path("scripts", "venv", {"base": str(place), "installed_base": str(place)})
    )
    packages = next(place.rglob("site-packages"))
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--python",
        scripts / "python",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-compile",
        wheel,
    ]
    subprocess.run(pip, check=True, env=bare(), timeout=120)
    # A folder named in a .pth file is searched, but .pth files in it are not read: no editable dmq
    # is found.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    with read_only(packages):
        yield scripts


@contextlib.contextmanager
def read_only(folder):
    every = [folder, *folder.rglob("*")]
    for path in every:
        path.chmod(path.stat().st_mode & ~0o222)
    yield
    for path in every:
        path.chmod(path.stat().st_mode | 0o200)


def bare(**more):
    """This environment without what would lead to the checkout."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DMQ_"))
    } | more


@pytest.fixture
def elsewhere(tmp_path):
    """A current folder that knows nothing of dmq."""
    place = tmp_path / "ein Ordner, höher"
    place.mkdir()
    return place


def test_everything_that_ships_is_in_the_wheel_and_nothing_else(wheel):
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "assets"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = [
        name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()
    ]
    shipped = {f"dmq/{name}" for name in names if not name.startswith("assets/screenshots/")}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    assert (
        len(shipped) > 100 and {name for name in held if name.startswith("dmq/assets/")} == shipped
    )
    assert {name.partition("/")[0] for name in held} == {
        "dmq",
        "pages",
        f"dmq-{__version__}.dist-info",
    }
    assert "dmq/left_by_an_earlier_build.py" not in held
    assert {
        f"pages/{file.relative_to(ROOT / 'pages').as_posix()}"
        for file in (ROOT / "pages").rglob("*.py")
    } <= held


def test_it_is_the_wheel_that_is_imported_and_it_cannot_be_written_to(installed, elsewhere):
    code = (
        "import dmq.places, json, os, pages; from importlib.metadata import version; at = "
        "dmq.places.ASSETS; print(json.dumps([str(at), dmq.__file__, pages.__file__, "
        "version('dmq'), os.access(at, os.W_OK)]))"
    )
    made = run_bound([installed / "python", "-c", code], cwd=elsewhere, env=bare())
    assets, package, app, version, writable = json.loads(made.stdout)
    assert (
        Path(assets) == Path(package).parent / "assets"
        and installed.parent in Path(package).parents
    )
    assert installed.parent in Path(app).parents and version == __version__ and not writable


def test_a_recipe_runs(installed, elsewhere):
    made = run_bound(
        [installed / "dmq", "run", RECIPE, "--prompt", "pizza", "--name", "first"],
        cwd=elsewhere,
        env=bare(OMP_NUM_THREADS="1"),
        timeout=200,
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("first: ") and RECIPE in made.stdout
    assert sorted(path.name for path in (elsewhere / "runs" / "first" / "pictures").iterdir()) == [
        "0",
        "1",
    ]


def test_the_app_opens_with_what_ships(installed, elsewhere):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    log = (elsewhere / "log").open("w", encoding="utf-8")
    command = bound([installed / "dmq", "serve", "--port", url.rpartition(":")[2]])
    app = subprocess.Popen(
        command, cwd=elsewhere, env=bare(OMP_NUM_THREADS="1"), stdout=log, stderr=log
    )
    try:
        page = waited_for(app, url, elsewhere / "log")
        client = Client(url, verbose=False)
        assert "window.gradio_config" in page and client.config["title"] == "dmq"
        plan = client.predict(recipe=jsonio.dumps(runs.shipped_recipes()[RECIPE]), api_name="/plan")
        assert 0 < plan["bytes"] < plan["float_bytes"]
        head = next(
            one["props"]["head"] for one in client.config["components"] if one["props"].get("head")
        )
        script = head.split('"')[1]
        with urllib.request.urlopen(f"{url}/{script}", timeout=60) as plotly:
            assert b"plotly.js" in plotly.read(200)
        shown = Image.open(io.BytesIO(first_image(url, client.config))).convert("RGB")
        ships = Image.open(folders.ASSETS / "models" / "emoji-sd" / "samples.png").convert("RGB")
        assert shown.size == ships.size and ImageChops.difference(shown, ships).getbbox() is None
    finally:
        app.terminate()
        app.wait(20)
        log.close()


def waited_for(app, url, log):
    """The page at `url` once `app` gives it."""
    while app.poll() is None:
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(url, timeout=30) as page,
        ):
            return page.read().decode()
        time.sleep(0.2)
    raise AssertionError(log.read_text("utf-8"))


def first_image(url, config):
    """The bytes of the image on the first page, asked for as the page does when it opens."""
    (image,) = (
        one["id"] for one in config["components"] if one["props"].get("elem_id") == "model-image"
    )
    event = next(one for one in config["dependencies"] if image in one["outputs"])
    asked = {
        "data": [None] * len(event["inputs"]),
        "fn_index": event["id"],
        "session_hash": "first",
    }
    with httpx.Client(base_url=f"{url}/gradio_api/", timeout=120) as visitor:
        visitor.post("queue/join", json=asked).raise_for_status()
        with visitor.stream("GET", "queue/data", params={"session_hash": "first"}) as answers:
            said = (
                json.loads(line[5:]) for line in answers.iter_lines() if line.startswith("data:")
            )
            answer = next(one["output"] for one in said if one["msg"] == "process_completed")
        value = answer["data"][event["outputs"].index(image)]
        return visitor.get(value["value"]["url"]).raise_for_status().content
