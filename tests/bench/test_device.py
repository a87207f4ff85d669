"""bench.device at its smallest size: every phase gives its figures, and what was measured is not
measured again.
"""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from bench import device
from bench.sizes.made import SIZES, filled
from bench.sizes.phases import PHASES, Job
from dmq.models.placement import Placement
from dmq.models.published import build_published
from dmq.models.tiny import FAMILIES
from dmq.models.weights_on_disk import count_weights


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A job in an empty folder."""
    work = tmp_path_factory.mktemp("device")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DMQ_RUNS", str(work / "runs"))
        yield Job(size="tiny", side=16, steps=3, rounds=1, work=str(work))


@pytest.fixture(autouse=True)
def placement(monkeypatch):
    """What says where models run is as before afterwards."""
    for name, value in asdict(Placement()).items():
        monkeypatch.setenv(device.VARIABLES[name], value)


@pytest.fixture(scope="module")
def figures(job):
    """All phases, in one process."""
    return {name: phase(job) for name, phase in PHASES.items()}


def test_the_folder_is_in_half_precision(figures, job):
    counted = count_weights(Path(job.work) / "model")
    assert {part: sum(count.values()) for part, count in counted.items()} == figures["make"][
        "numbers"
    ]
    assert {dtype for count in counted.values() for dtype in count} == {"float16"}


def test_what_is_compared_was_made_in_turn(figures):
    ways = {name: [*found["step"]] for name, found in figures.items() if "step" in found}
    assert ways == {
        "sample": ["plain"],
        "capture": ["plain", "without attention", "capture"],
        "simulate": ["plain", "simulated"],
        "execute": ["plain", "executed"],
        "reload": ["W4"],
    }
    for name in ways:
        found = figures[name]
        base = next(iter(found["step"].values()))
        assert found["ratio"] == pytest.approx(
            {way: took / base for way, took in found["step"].items()}
        )


def test_plans_and_exports_have_the_bytes_of_each_other(figures):
    bytes_ = figures["groups"]
    assert bytes_["W4 bytes"] < bytes_["W8A8 bytes"] < bytes_["float bytes"]
    assert figures["export"]["bytes"] == bytes_["W4 bytes"]
    assert figures["fisher"]["choices"] == 2 and figures["fisher"]["layers"] > 50


def test_every_phase_has_a_line(figures):
    for name, found in figures.items():
        row = device.line(name, found | {"took": 1.0, "peak": 2e9, "device peak": None})
        assert row.startswith(name) and "2.00" in row and len(row) > 40, row
    assert device.line("make", {"failed": "no room"}) == "make      failed: no room"


def test_a_phase_that_was_measured_is_not_measured_again(
    job, figures, monkeypatch, capsys, tmp_path
):
    done, measured = [], {"took": 1, "peak": 1, "device peak": 2}
    monkeypatch.setattr(
        device,
        "run",
        lambda name, job, environment: done.append((name, environment["DMQ_DTYPE"])) or measured,
    )
    asked = [
        "--tiny",
        "--steps",
        "3",
        "--dtype",
        "float16",
        "--work",
        job.work,
        "--out",
        str(tmp_path / "out.json"),
    ]
    device.main([*asked, "--phases", "groups"])
    device.main([*asked, "--phases", "groups", "fisher"])
    assert done == [("groups", "float16"), ("fisher", "float16")]
    assert [*json.loads((tmp_path / "out.json").read_text())["phases"]] == ["groups", "fisher"]
    with pytest.raises(SystemExit, match=r"^error: \S+: was measured with another side\. [^\n]*$"):
        device.main([*asked, "--side", "32"])


def test_what_a_phase_needs_is_made_first(tmp_path):
    assert device.needed("make", tmp_path) == []
    assert device.needed("reload", tmp_path) == ["make", "capture", "export"]
    (tmp_path / "model").mkdir()
    assert device.needed("sample", tmp_path) == []
    assert device.needed("fisher", tmp_path) == ["capture"]


@pytest.mark.parametrize(
    ("script", "why"), [("exit 3", "ended with 3"), ("kill -9 $$", "killed by signal 9, most")]
)
def test_a_phase_that_ends_says_why(script, why, job, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(device.sys, "executable", str(python))
    assert device.run("make", job, {})["failed"].startswith(why)


@pytest.mark.parametrize("asked", [["--device", "tpu"], ["--steps", "1"], ["--out", __file__]])
def test_mistakes_get_one_line(asked):
    with pytest.raises(
        SystemExit, match=r"^error: [^\n]*(tpu|at least 2|not a file of this bench)[^\n]*$"
    ):
        device.main(["--tiny", *asked])


def test_weights_are_filled_in_half_precision_and_keep_the_size_of_what_goes_through(monkeypatch):
    monkeypatch.setattr("bench.sizes.made.BLOCK", 997)
    model = filled(FAMILIES["SD"])
    assert {p.dtype for p in model.parameters()} == {SIZES["tiny"][0]().unet.dtype}
    weight = model.mid_block.resnets[0].conv1.weight.float()
    assert weight.flatten(1).square().sum(1).sqrt().mean().item() == pytest.approx(1, abs=0.1)
    assert len(weight.flatten(1).unique(dim=0)) == len(weight)
    assert model.conv_norm_out.weight.eq(1).all() and model.conv_out.bias.eq(0).all()


def test_sizes_are_those_of_the_published_models():
    assert sum(p.numel() for p in build_published("sd-1.5").parameters()) == 859_520_964
    assert asdict(Placement()).keys() == device.VARIABLES.keys()
