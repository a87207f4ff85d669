"""The import rows of docs/decisions.md as a test: a module may import its own room and the rows
above it.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent

ROWS = [
    {"errors", "places", "progress"},
    {"public"},
    {"recipe", "jsonio"},
    {"results", "numerics"},
    {"describe"},
    {"figures", "trajectory", "models", "engine", "store"},
    {"capture", "quantizers"},
    {"calibration", "reconstruction", "allocation", "runtime", "metrics"},
    {"checkpoint"},
    {"artifacts"},
    {"workflow"},
    {"evaluation"},
    {"cli", "stages"},
]
ROW_OF = {name: row for row, names in enumerate(ROWS) for name in names}
SAME_ROW = {("jsonio", "recipe")}  # jsonio reads Recipe unless told otherwise
PAGES_USE = {
    "allocation",
    "describe",
    "errors",
    "evaluation",
    "figures",
    "jsonio",
    "models",
    "progress",
    "public",
    "recipe",
    "results",
    "artifacts",
    "store",
    "workflow",
}
PAGES_USE_OF_MODELS = {"dmq.models.libraries", "dmq.models.placement", "dmq.models.work_plan"}
WITHOUT_TORCH = {
    "errors",
    "places",
    "progress",
    "public",
    "recipe",
    "jsonio",
    "results",
    "describe",
    "store",
    "figures",
}

LIBRARY = sorted(path for path in (ROOT / "dmq").rglob("*.py") if path != ROOT / "dmq/__init__.py")
PAGES = sorted((ROOT / "pages").rglob("*.py"))
OTHERS = sorted(path for room in ("bench", "training") for path in (ROOT / room).rglob("*.py"))


def imports(path: Path, *, when_run: bool = False) -> set[str]:
    """Absolute dotted names of all that `path` imports, wherever in the file; `when_run`: but
    for type checkers.
    """
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    names = set()
    for node in _nodes(ast.parse(path.read_text(encoding="utf-8")), when_run):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            names |= {".".join([*base, alias.name]) for alias in node.names}
    return names


def _nodes(tree: ast.AST, when_run: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if when_run and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _nodes(node, when_run)


def rooms(path: Path) -> set[str]:
    used = (name.split(".") for name in imports(path) if name.startswith("dmq."))
    return {parts[1] for parts in used if parts[1] != "__version__"}


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module(path: Path) -> str:
    return label(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """The groups of names of which each leads to all others, by Tarjan's algorithm
    (SIAM J. Comput. 1 (2), 1972).
    """
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in edges[name]:
            if other not in order:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == order[name]:
            start = stack.index(name)
            group = set(stack[start:])
            del stack[start:]
            found.extend([group] if len(group) > 1 else [])

    for name in edges:
        if name not in order:
            visit(name)
    return found


def test_a_circle_is_found():
    edges = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a", "e"}}
    assert circles(edges) == [{"b", "c"}]


def test_files_import_each_other_in_no_circle():
    """A package's own `__init__` is left out: it names what is in its files, which do not need
    it.
    """
    files = {
        module(path): path for path in [*LIBRARY, *PAGES, *OTHERS] if path.name != "__init__.py"
    }
    edges = {}
    for name, path in files.items():
        used = imports(path, when_run=True)
        edges[name] = {
            other
            for other in files
            if other in used or any(n.startswith(f"{other}.") for n in used)
        }
    assert circles(edges) == []


def test_library_imports_point_down():
    wrong = []
    for path in LIBRARY:
        own = path.relative_to(ROOT).with_suffix("").parts[1]
        assert own in ROW_OF, f"give {own} a row"
        used = {name for name in rooms(path) - {own} if (own, name) not in SAME_ROW}
        wrong += [f"{label(path)}: {name}" for name in used if ROW_OF[name] >= ROW_OF[own]]
        above = {name for name in imports(path) if name.split(".")[0] in {"gradio", "pages", "app"}}
        # The one exception: `dmq serve` starts the app.
        wrong += [
            f"{label(path)}: {name}"
            for name in above - ({"pages.app.launch"} if own == "cli" else set())
        ]
    assert wrong == []


def test_pages_are_thin():
    wrong = {label(path): rooms(path) - PAGES_USE for path in PAGES}
    for path in PAGES:
        used = {name for name in imports(path) if name.startswith("dmq.models")}
        wrong[f"{label(path)}, models"] = {
            name for name in used if not PAGES_USE_OF_MODELS & {name, name.rpartition(".")[0]}
        }
    heavy = {"torch", "diffusers", "transformers", "training"}
    wrong |= {
        f"{label(path)}, all": {n.split(".")[0] for n in imports(path)} & heavy for path in PAGES
    }
    assert {name: used for name, used in wrong.items() if used} == {}


def test_only_models_knows_diffusers():
    others = [path for path in LIBRARY if path.relative_to(ROOT).parts[1] != "models"]
    used = {
        label(path): {n.split(".")[0] for n in imports(path)} & {"diffusers", "transformers"}
        for path in others
    }
    assert {name: found for name, found in used.items() if found} == {}


def test_training_and_tests_are_never_imported():
    beside = {"training", "tests", "bench"}
    used = {
        label(path): {n.split(".")[0] for n in imports(path)} & beside
        for path in [*LIBRARY, *PAGES]
    }
    assert {name: found for name, found in used.items() if found} == {}


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


def test_no_file_is_longer_than_450_lines():
    """Tests that share one costly fixture may be: split, it would be made twice."""
    rooms = ("dmq", "pages", "bench", "training", "tools", "examples")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    assert len(files) > 250
    long = {
        str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in files
    }
    assert {name: lines for name, lines in long.items() if lines > 450} == {}
