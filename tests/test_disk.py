"""What a disk refuses: one line that says where and what next, and nothing half-written."""

import contextlib
import socket
import sys

import gradio as gr
import pytest
from safetensors import SafetensorError

from dmq import cli, jsonio
from dmq.errors import DmqError, disk_error
from dmq.store import folders
from pages import events
from tests.bound import run_bound
from tests.tiny import captured_recipe, runs_in


FULL = OSError(28, "No space left on device")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    with runs_in(tmp_path_factory.mktemp("disk")) as folder:
        made = captured_recipe(folder, steps=2)
        (folder / "recipe.json").write_text(jsonio.dumps(made), encoding="utf-8")
        yield made, folder


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FULL, "a file: the disk is full; make room, or choose another folder"),
        (
            PermissionError(13, "Permission denied", "some/file"),
            "some/file: permission denied; choose another folder",
        ),
        (
            OSError(30, "Read-only file system", "x"),
            "x: read-only file system; choose another folder",
        ),
        (OSError(27, "File too large"), "a file: a file of this size cannot be written here"),
        (
            SafetensorError("I/O error: No space left on device (os error 28)"),
            "a file: the disk is full",
        ),
    ],
    ids=["full", "refused", "read-only", "too large", "safetensors"],
)
def test_errors_of_a_disk_are_one_line(error, said):
    assert str(disk_error(error)).startswith(said)
    assert str(disk_error(error, "place")) == f"place{str(disk_error(error))[said.index(':') :]}"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("(os error 28)"),
        FileNotFoundError(2, "no"),
        SafetensorError("header"),
        OSError("gone"),
    ],
    ids=repr,
)
def test_other_errors_are_not_taken_for_one(error):
    assert disk_error(error, "place") is None


def test_a_full_disk_leaves_what_was_there(tmp_path):
    with folders.write_folder(tmp_path / "x") as part:
        (part / "old").touch()
    with pytest.raises(DmqError, match="x: the disk is full"), folders.write_folder(tmp_path / "x"):
        raise FULL
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "old"]


@contextlib.contextmanager
def limited(size):
    """No file may outgrow `size` bytes meanwhile, by the system's own limit."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of this kind")
@pytest.mark.parametrize(
    "words",
    [["capture", "--again"], ["run", "--prompt", "a", "--name", "x"], ["export"]],
    ids=lambda words: words[0],
)
def test_commands_say_what_real_writers_meet(recipe, words, capsys):
    """A file that outgrows what its process may write stands for a full disk: Parquet, JSON,
    PNG, safetensors.
    """
    folder = recipe[1]
    target = [str(folder / "out")] if words[0] == "export" else []
    with limited(300):
        assert cli.main([words[0], str(folder / "recipe.json"), *target, *words[1:]]) == 1
    *_, said = capsys.readouterr().err.splitlines()  # before it, what the work takes
    assert said.startswith("dmq: ") and "a file of this size cannot be written here" in said
    assert not [path for path in folder.rglob("*") if path.name.startswith((".part-", ".old-"))]
    assert not (folder / "out").exists() and not (folder / "runs" / "x").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no permissions of this kind")
def test_a_run_folder_nobody_may_write_in_is_said_before_anything_is_drawn(
    recipe, tmp_path, monkeypatch
):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    monkeypatch.setenv("DMQ_RUNS", str(closed / "runs"))
    words = [sys.executable, "-m", "dmq.cli", "capture", recipe[1] / "recipe.json"]
    made = run_bound(words)
    assert made.returncode == 1
    assert made.stderr.splitlines()[-1].startswith(
        f"dmq: {closed}: permission denied; choose another folder"
    )
    assert list(closed.iterdir()) == []


def test_no_long_stage_begins_without_room(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(folders, "MIN_FREE_BYTES", 10**18)
    assert cli.main(["capture", str(recipe[1] / "recipe.json")]) == 1
    assert "at least 1000000000000 are needed; make room" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_that_is_a_file_is_said(recipe, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").touch()
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path / "runs"))
    assert cli.main(["capture", str(recipe[1] / "recipe.json")]) == 1
    assert f"{tmp_path / 'runs'}: is no folder" in capsys.readouterr().err


def test_what_is_known_can_be_asked_where_nothing_can_be_written(recipe, monkeypatch, capsys):
    """A stage that has nothing to do needs no room."""
    monkeypatch.setattr(folders, "MIN_FREE_BYTES", 10**18)
    assert cli.main(["capture", str(recipe[1] / "recipe.json")]) == 0


def test_pages_show_it_as_a_message():
    def handler():
        yield 1
        raise FULL

    work = events.show_errors(handler)()
    assert next(work) == 1
    with pytest.raises(gr.Error, match="the disk is full") as caught:
        next(work)
    assert not caught.value.print_exception
    with pytest.raises(ZeroDivisionError):
        events.show_errors(lambda: 1 / 0)()


def test_the_app_opens_where_nothing_can_be_kept_and_says_so(tmp_path, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr("pages.app.launch", lambda **settings: opened.append(settings))
    (tmp_path / "runs").touch()
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path / "runs"))
    assert cli.main(["serve", "--port", "7999"]) == 0 and opened[0]["server_port"] == 7999
    assert "is no folder; choose another folder" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("pages.app.load_opening", lambda: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--port", str(port)]) == 1
    assert f"dmq: port {port} of 127.0.0.1 cannot be opened" in capsys.readouterr().err
