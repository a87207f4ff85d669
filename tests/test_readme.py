"""What the README shows must run and exist."""

import re
import shlex

import pytest

from dmq import cli
from dmq.store import folders, runs


TEXT = (folders.ASSETS.parent / "README.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path))
    (code,) = blocks("python")
    assert len(code.strip().splitlines()) <= 6
    space = {}
    exec(code, space)
    assert re.match(r"\d{7}\n.*psnr=", capsys.readouterr().out)
    assert space["denoiser"].plan is not None


@pytest.mark.parametrize(
    "line", [line for block in blocks("sh") for line in block.splitlines() if line[:3] == "dmq"]
)
def test_every_command_is_understood(line):
    words = shlex.split(line, comments=True)[1:]
    given = cli.parser().parse_args(words)
    for name in [*getattr(given, "recipes", []), getattr(given, "recipe", None)]:
        assert name is None or name in runs.shipped_recipes()


def test_every_link_leads_to_a_file():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    assert targets
    assert [target for target in targets if not (folders.ASSETS.parent / target).exists()] == []


def test_the_space_header_names_what_is_installed():
    pinned = (folders.ASSETS.parent / "requirements.txt").read_text("utf-8")
    version = re.search(r"^sdk_version: (.+)$", TEXT, re.MULTILINE)[1]
    assert f"gradio=={version}" in pinned
    assert (folders.ASSETS.parent / re.search(r"^app_file: (.+)$", TEXT, re.MULTILINE)[1]).is_file()


@pytest.mark.parametrize("model", ["emoji-sd", "emoji-ddpm"])
def test_the_tables_of_results_are_what_dmq_bench_prints(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path))
    assert cli.main(["bench", "--name", model, "--markdown"]) == 0
    printed, shown = (
        tables(capsys.readouterr().out),
        {k: v for k, v in tables(TEXT).items() if k.startswith(model)},
    )
    assert shown
    for head, rows in shown.items():
        assert list(rows) == list(printed[head]), "every model is there"
        assert all(row.items() <= printed[head][name].items() for name, row in rows.items())


def tables(text):
    """By the first cell of their heads: rows by name, each as its cells by column."""
    found = {}
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        lines = (
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
        )
        (head, *names), _, *rows = lines
        found[head] = {name: dict(zip(names, cells, strict=True)) for name, *cells in rows}
    return found
