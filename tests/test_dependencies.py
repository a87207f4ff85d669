"""What the wheel asks for agrees with what the requirements files pin, and covers what is
imported.
"""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement


ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
FILES = {extra: f"requirements-{extra}.txt" for extra in ("bench", "cluster", "train", "dev")}


def pinned(name):
    """Versions by package, of a requirements file and those that it names."""
    found = {}
    for line in (ROOT / name).read_text("utf-8").splitlines():
        if line.startswith("-r "):
            found |= pinned(line[3:])
        elif line:
            package, version = re.fullmatch(r"([\w-]+)==([\w.]+)", line).groups()
            found[package] = version
    return found


def asked(extra):
    """The packages of an extra, by name, and those of the extras that it names."""
    found = set()
    for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
        found |= (
            set().union(*map(asked, requirement.extras))
            if requirement.name == "dmq"
            else {requirement.name}
        )
    return found


def test_every_pin_is_inside_a_range_with_two_ends():
    ranges = {one.name: one.specifier for one in map(Requirement, PROJECT["dependencies"])}
    pins = pinned("requirements.txt")
    assert ranges.keys() == pins.keys()
    for name, specifier in ranges.items():
        assert specifier.contains(pins[name]), name
        assert sorted(part.operator for part in specifier) == ["<", ">="], name


@pytest.mark.parametrize("extra", FILES)
def test_extras_are_what_their_files_pin(extra):
    assert asked(extra) == pinned(FILES[extra]).keys() - pinned("requirements.txt").keys()


def test_whatever_is_imported_is_asked_for():
    """By the name of the package that brings it; what another one surely brings is named with
    that.
    """
    brought = {"huggingface_hub": "diffusers", "packaging": "gradio", "psutil": "accelerate"}
    brought |= {"tokenizers": "transformers"}
    own = {
        "dmq",
        "pages",
        "spaces",
        *sys.stdlib_module_names,
    }  # Hugging Face brings spaces to where it is needed
    optional = {
        name.replace("-", "_")
        for extra in PROJECT["optional-dependencies"]
        for name in asked(extra)
    }
    needed = {one.name for one in map(Requirement, PROJECT["dependencies"])}
    packages = metadata.packages_distributions()
    for path in [*(ROOT / "dmq").rglob("*.py"), *(ROOT / "pages").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {name.partition(".")[0] for name in names} - own - optional:
                given = {one.lower() for one in packages.get(name, [name])}
                assert given & needed or brought.get(name) in needed, f"{path.name} imports {name}"
