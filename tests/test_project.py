"""The files around the code name what exists."""

import re

import pytest

from dmq import __version__
from dmq.store import folders


ROOT = folders.ASSETS.parent
NAMED = re.findall(
    r"`((?:dmq|pages|tests|assets|docs|training|bench|tools|\.ci)/[^`\s]*)`",
    (ROOT / "CONTRIBUTING.md").read_text("utf-8"),
)


def test_contributing_names_paths_that_exist():
    assert len(NAMED) > 30
    assert [path for path in NAMED if not (ROOT / path).exists()] == []


def test_scripts_and_the_makefile_name_paths_that_exist():
    files = [*(ROOT / "tools").glob("*.sh"), ROOT / "Makefile", ROOT / ".ci" / "run"]
    named = [
        path
        for file in files
        for path in re.findall(r"\b((?:tests|tools|dmq|pages)/[\w/.]+)", file.read_text("utf-8"))
    ]
    assert "tests/cli/test_engines.py" in named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_contributing_maps_every_room():
    rooms = {path.parent.name for path in (ROOT / "dmq").glob("*/__init__.py")}
    assert rooms - {path.split("/")[1] for path in NAMED if path.startswith("dmq/")} == set()


def test_pre_commit_has_the_ruff_of_the_tests():
    pinned = re.search(
        r"^ruff==(.+)$", (ROOT / "requirements-dev.txt").read_text("utf-8"), re.MULTILINE
    )[1]
    assert f"rev: v{pinned}\n" in (ROOT / ".pre-commit-config.yaml").read_text("utf-8")


def test_the_citation_is_of_this_version():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


@pytest.mark.parametrize(
    "name", ["PAGES", "ADAPTERS", "SET_MEASURES", "BENCH_MEASURES", "PAIRED", "SETS"]
)
def test_tables_that_contributing_names_are_there(name):
    assert f"`{name}`" in (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    files = [*(ROOT / "dmq").rglob("*.py"), *(ROOT / "pages").rglob("*.py")]
    assert any(
        re.search(rf"^{name}(: .+)? = ", file.read_text("utf-8"), re.MULTILINE) for file in files
    )
