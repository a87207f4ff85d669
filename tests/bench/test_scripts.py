"""Every script of the bench runs: each is started with settings that take seconds. What they print
is their business.

A new script must be given such settings here, or the test fails.
"""

import importlib
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from dmq.models.placement import VARIABLES, Placement
from dmq.models.tiny import tiny_sd
from tests.tiny import runs_in


SCRIPTS = sorted(
    file.stem
    for file in (Path(__file__).parents[2] / "bench").glob("*.py")
    if file.stem != "__init__"
)
FEW = ["--steps", "2", "--seeds", "1", "--images", "1"]
TINY = {  # what each is called with; MODEL is a tiny pipeline, WORK an empty folder
    "budget": ["--layers", "6", "8", "--budgets", "3"],
    "capture": ["--models", "emoji-ddpm", "--steps", "1", "--repeats", "1"],
    "codebook": ["--model", "MODEL", "--channels", "1", "--starts", "1"],
    "device": ["--tiny", "--phases", "sample"],
    "interactive": ["--sites", "3", "--steps", "8", "--moves", "20", "--threads", "1", "--made-up"],
    "journey": ["--repeats", "1"],
    "kernels": ["--rounds", "1"],
    "layers": [
        "--model",
        "MODEL",
        "--bits",
        "3.7",
        "--activations",
        "32",
        *FEW,
        "--images",
        "16",
        "--rows",
        "UAQ alone",
        "fisher",
    ],
    "memory": ["--tiny"],
    "progress": [
        "--model",
        "MODEL",
        "--settings",
        "W4A6",
        "--samples",
        "1",
        *FEW,
        "--steps",
        "5",
        "--rows",
        "float",
        "progressive",
    ],
    "simulate": ["--subjects", "MODEL", "--rounds", "1"],
    "speed": [
        "--subjects",
        "unet",
        "--rows",
        "fp32 eager",
        "--rounds",
        "1",
        "--threads",
        "1",
        "--small",
        "--work",
        "WORK",
    ],
    "start": ["--rounds", "1"],
    "time": [
        "--model",
        "MODEL",
        "--settings",
        "W4A8",
        "--tables",
        "grouping",
        "--samples",
        "1",
        *FEW,
        "--groups",
        "2",
        "--learned",
        "none",
        "--fast",
        "--block-iterations",
        "0",
    ],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny pipeline in a folder."""
    with runs_in(tmp_path_factory.mktemp("bench")) as folder:
        tiny_sd().save_pretrained(folder / "model", safe_serialization=True)
        yield folder / "model"


@pytest.fixture(autouse=True)
def threads():
    """Scripts choose how many threads torch has; tests get theirs back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def placement(monkeypatch):
    """What says where models run is as before afterwards."""
    for name, value in asdict(Placement()).items():
        monkeypatch.setenv(VARIABLES[name], value)


@pytest.fixture
def smaller(monkeypatch):
    """Sizes of what has no settings for them."""
    capture, kernels = (importlib.import_module(f"bench.{name}") for name in ("capture", "kernels"))
    monkeypatch.setattr(capture, "EMBEDDED", {"emoji-ddpm": capture.EMBEDDED["emoji-ddpm"]})
    for name, shapes in {
        "LINEAR": [(24, 64, 16)],
        "CONVS": [(16, 16, 8)],
        "ATTENTION": [],
        "CODED": [(2, 8)],
    }.items():
        monkeypatch.setattr(kernels, name, shapes)
    monkeypatch.setattr(kernels, "GROUP", 32)


def test_each_script_has_settings():
    assert [*TINY] == SCRIPTS


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.browser) if name == "start" else name
        for name in SCRIPTS
    ],
)
def test_it_runs(name, model, smaller, tmp_path, monkeypatch, capsys):
    script = importlib.import_module(f"bench.{name}")
    given = [{"MODEL": str(model), "WORK": str(tmp_path)}.get(word, word) for word in TINY[name]]
    monkeypatch.setattr("sys.argv", [name, *given])
    if name == "codebook" and find_spec("sklearn") is None:
        with pytest.raises(
            SystemExit, match=r"^error: scikit-learn is not installed: pip install [^\n]*$"
        ):
            script.main()
        return
    script.main()
    printed = capsys.readouterr().out
    assert printed.count("\n") > 1 and "failed" not in printed


def test_simulation_is_timed_on_calls_of_every_family(tmp_path, capsys):
    """What a denoiser is called with differs: a U-Net takes its text as a third argument, PixArt
    as a second one.
    """
    from bench import simulate
    from dmq.models.tiny_pipelines import tiny_pipeline

    tiny_pipeline("PixArt-alpha").save_pretrained(tmp_path / "pixart", safe_serialization=True)
    simulate.main(["--subjects", str(tmp_path / "pixart"), "--rounds", "1", "--side", "16"])
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[1:3] for row in rows] == [["1", "2"], ["8", "16"]]
