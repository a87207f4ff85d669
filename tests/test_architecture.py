"""The import rows of docs/decisions.md as a test: a module may import its own room and the rows above it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent

ROWS = [
    {"errors", "places"},
    {"public"},
    {"recipe", "jsonio"},
    {"results", "numerics"},
    {"runs", "figures", "trajectory", "models", "engine", "store"},
    {"capture", "quantizers"},
    {"calibration", "reconstruction", "allocation", "runtime", "metrics"},
    {"checkpoint"},
    {"stages"},
    {"commands"},
    {"cli"},
]
ROW_OF = {name: row for row, names in enumerate(ROWS) for name in names}
SAME_ROW = {("jsonio", "recipe")}  # jsonio reads Recipe unless told otherwise
PAGES_USE = {"public", "stages", "runs", "figures", "results", "recipe", "jsonio", "errors"}
WITHOUT_TORCH = {"errors", "places", "public", "recipe", "jsonio", "results", "runs", "figures"}

LIBRARY = sorted(path for path in (ROOT / "dmq").rglob("*.py") if path != ROOT / "dmq/__init__.py")
PAGES = sorted((ROOT / "pages").rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Absolute dotted names of all that `path` imports, wherever in the file."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            names |= {".".join([*base, alias.name]) for alias in node.names}
    return names


def rooms(path: Path) -> set[str]:
    used = (name.split(".") for name in imports(path) if name.startswith("dmq."))
    return {parts[1] for parts in used if parts[1] != "__version__"}


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_library_imports_point_down(path):
    own = path.relative_to(ROOT).with_suffix("").parts[1]
    assert own in ROW_OF, f"give {own} a row"
    used = {name for name in rooms(path) - {own} if (own, name) not in SAME_ROW}
    assert {name for name in used if ROW_OF[name] >= ROW_OF[own]} == set()
    above = {name for name in imports(path) if name.split(".")[0] in {"gradio", "pages", "app"}}
    # The one exception: `dmq serve` starts the app.
    assert above - ({"pages.app.launch"} if own == "cli" else set()) == set()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_are_thin(path):
    assert rooms(path) <= PAGES_USE
    assert not {name.split(".")[0] for name in imports(path)} & {"torch", "diffusers", "transformers", "training"}


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_models_knows_diffusers(path):
    room = path.relative_to(ROOT).with_suffix("").parts[1]
    if room != "models":
        assert not {name for name in imports(path) if name.split(".")[0] in {"diffusers", "transformers"}}


@pytest.mark.parametrize("path", [*LIBRARY, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_training_and_tests_are_never_imported(path):
    assert not {name.split(".")[0] for name in imports(path)} & {"training", "tests", "bench"}


@pytest.mark.parametrize("room", sorted(WITHOUT_TORCH))
def test_plain_rooms_do_not_import_torch(room):
    check = "import sys, importlib; importlib.import_module(sys.argv[1]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check, f"dmq.{room}"], cwd=ROOT).returncode == 0


def test_the_app_is_up_before_torch():
    check = "import sys, pages.app; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0


def test_the_torch_check_can_fail():
    check = "import sys, torch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 1
