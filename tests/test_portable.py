"""What holds on every system: text is UTF-8, calls of one system alone have a way round, folders
have any name.
"""

import ast
import io
import re
import sys
from pathlib import Path

import pytest

from dmq import cli, jsonio
from dmq.store import runs
from tests.tiny import captured_recipe, runs_in


ROOT = Path(__file__).resolve().parent.parent
LIBRARY = sorted(path for room in ("dmq", "pages") for path in (ROOT / room).rglob("*.py"))
REST = sorted(
    path for room in ("training", "bench", "tools") for path in (ROOT / room).rglob("*.py")
)
# Only POSIX has these modules, and these functions of `os`.
MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
CALLS = {
    "chown",
    "fchmod",
    "fork",
    "getegid",
    "geteuid",
    "getgid",
    "getloadavg",
    "getpgid",
    "getuid",
    "killpg",
    "mkfifo",
    "nice",
    "sched_getaffinity",
    "setsid",
    "statvfs",
    "sysconf",
    "uname",
    "wait",
}


def nameless(tree):
    """Lines that read or write text in whatever encoding the system prefers: on Windows that is
    not UTF-8.
    """
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        function, named = call.func, {keyword.arg for keyword in call.keywords}
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        owner = getattr(getattr(function, "value", None), "id", "")
        texts = [
            x.value
            for x in (*call.args, *(k.value for k in call.keywords))
            if isinstance(x, ast.Constant)
        ]
        modes = [
            text
            for text in texts
            if isinstance(text, str) and re.fullmatch(r"[rwxabt+]{1,3}", text)
        ]
        opens = (
            name in {"open", "fdopen"}
            and owner not in {"Image", "zipfile"}
            and (owner, name) != ("os", "open")
        )
        text = (
            (name == "read_text" and not call.args)
            or (name == "write_text" and len(call.args) < 2)
            or (opens and not any("b" in mode for mode in modes) and name + owner != "openpacked")
            or (
                name in {"NamedTemporaryFile", "TemporaryFile"}
                and any("b" not in mode for mode in modes)
            )
            or (name in {"run", "Popen", "check_output"} and named & {"text", "universal_newlines"})
        )
        if text and "encoding" not in named:
            yield call.lineno


def test_text_is_read_and_written_as_utf_8():
    found = {
        path.name: [*nameless(ast.parse(path.read_text("utf-8")))] for path in [*LIBRARY, *REST]
    }
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    [
        "p.read_text()",
        "p.read_text(errors='replace')",
        "p.write_text(x)",
        "open(p)",
        "p.open('w')",
        "os.fdopen(h, 'w')",
        "subprocess.run(x, text=True)",
        "tempfile.NamedTemporaryFile('w')",
    ],
)
def test_the_rule_finds_text_without_an_encoding(line):
    assert [*nameless(ast.parse(line))] == [1]


@pytest.mark.parametrize(
    "line",
    [
        "p.read_text('utf-8')",
        "p.write_text(x, 'utf-8')",
        "open(p, 'rb')",
        "p.open('r+b')",
        "Image.open(p)",
        "open(p, encoding='utf-8')",
        "os.open(p, os.O_WRONLY)",
        "tempfile.TemporaryFile(dir=p)",
        "stages.run(x)",
    ],
)
def test_the_rule_finds_nothing_else(line):
    assert [*nameless(ast.parse(line))] == []


def test_nothing_stands_on_posix_alone():
    """A call that other systems lack is made where `hasattr` or `sys.platform` was asked, in the
    same file.
    """
    found = []
    for path in LIBRARY:
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [(path.name, name) for name in names if name in MODULES]
            if (
                isinstance(node, ast.Attribute)
                and getattr(node.value, "id", "") == "os"
                and node.attr in CALLS
            ):
                found += (
                    [(path.name, node.attr)] if f'hasattr(os, "{node.attr}")' not in text else []
                )
            if isinstance(node, ast.Attribute) and node.attr in {
                "CDLL",
                "SIGKILL",
                "SIGHUP",
                "SIGUSR1",
            }:
                found += [(path.name, node.attr)] if "sys.platform" not in text else []
    assert found == []


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with spaces and letters of several alphabets, with a tiny model and its recipe in
    it.
    """
    with runs_in(tmp_path_factory.mktemp("Meine Bilder") / "größer ひらがな и т. д.") as folder:
        folder.mkdir()
        recipe = captured_recipe(folder, steps=2)
        (folder / "Rezept für 猫.json").write_text(jsonio.dumps(recipe), "utf-8")
        yield folder


def test_a_journey_through_folders_of_any_name(place, capsys):
    recipe, out = str(place / "Rezept für 猫.json"), place / "Ausgabe für später"
    assert cli.main(["run", recipe, "--prompt", "ein Bär", "--name", "W8A6, 8 best groups?"]) == 1
    assert "cannot name a run" in capsys.readouterr().err
    assert cli.main(["run", recipe, "--prompt", "ein Bär", "--prompt", "猫"]) == 0
    (name,) = runs.names()
    assert runs.load_comparison(name).prompts == ("ein Bär", "猫")
    assert cli.main(["export", recipe, str(out)]) == 0 and cli.main(["check", str(out)]) == 0
    assert cli.main(["show", name]) == 0 and cli.main(["show"]) == 0
    assert f"{out}: sound." in capsys.readouterr().out


def test_a_console_without_its_letters_is_still_written_to(place, monkeypatch):
    told = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(told, encoding="ascii"))
    assert cli.main(["show", str(place / "Rezept für 猫.json"), "--layers"]) == 0
    assert cli.main(["show", str(place / "Rezept für 猫.json"), "--model", "größer"]) == 1
    assert "conv_in" in told.getvalue().decode("ascii")
