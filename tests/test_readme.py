"""What the README shows must run and exist."""

import re
import shlex

import pytest

from dmq import cli, runs


TEXT = (runs.ASSETS.parent / "README.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path))
    (code,) = blocks("python")
    assert len(code.strip().splitlines()) <= 6
    space = {}
    exec(code, space)
    assert "of 133 layers W8A6" in capsys.readouterr().out
    assert space["denoiser"].plan is not None


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines() if line[:3] == "dmq"])
def test_every_command_is_understood(line):
    words = shlex.split(line, comments=True)[1:]
    given = cli.parser().parse_args(words)
    for name in [*getattr(given, "recipes", []), getattr(given, "recipe", None)]:
        assert name is None or name in runs.shipped_recipes()


def test_every_link_leads_to_a_file():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    assert targets
    assert [target for target in targets if not (runs.ASSETS.parent / target).exists()] == []


def test_the_space_header_names_what_is_installed():
    pinned = (runs.ASSETS.parent / "requirements.txt").read_text("utf-8")
    version = re.search(r"^sdk_version: (.+)$", TEXT, re.MULTILINE)[1]
    assert f"gradio=={version}" in pinned
    assert (runs.ASSETS.parent / re.search(r"^app_file: (.+)$", TEXT, re.MULTILINE)[1]).is_file()
