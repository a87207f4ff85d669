"""`dmq doctor` says what is there, and fails for what is broken."""

import json
import os
import platform
import sys
from importlib import metadata

import pytest
import torch
from packaging.requirements import Requirement

from dmq import __version__, cli, places
from dmq.cli import doctor
from dmq.models import placement
from dmq.runtime import kernels
from dmq.store import folders
from tests.bound import run_bound


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path / "runs"))
    for variable in placement.VARIABLES.values():
        monkeypatch.setenv(variable, "auto" if variable != "DMQ_OFFLOAD" else "none")
    return tmp_path / "runs"


def asked(capsys, code=0):
    """The report as programs get it, and what is said on standard error."""
    assert cli.main(["doctor", "--json"]) == code
    said = capsys.readouterr()
    return json.loads(said.out), said.err


def test_it_says_what_is_there(capsys, home):
    report, said = asked(capsys)
    assert report["ok"] and report["problems"] == [] and said == ""
    assert (
        report["dmq"]["version"] == __version__
        and report["dmq"]["Python"] == platform.python_version()
    )
    assert (
        report["dmq"]["assets"] == str(places.ASSETS)
        and "emoji-sd" in report["dmq"]["embedded models"]
    )
    assert report["packages"]["torch"]["version"] == metadata.version("torch")
    assert report["processor"]["instructions"]["VNNI"] == torch.cpu._is_vnni_supported()
    assert report["processor"]["torch uses"] == torch.backends.cpu.get_cpu_capability()
    assert (
        report["devices"]["cpu"]["dtypes"][0] == "float32"
        and 0 < report["memory and disk"]["free memory"]
    )
    assert report["kernels"]["oneDNN int8"] == (kernels.lacks_onednn() == "")
    assert report["memory and disk"]["run folder"] == str(home) and not home.exists(), (
        "it only looks"
    )


def test_it_says_it_to_people_too(capsys):
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "dmq" and lines[1].split() == ["version", __version__]
    assert lines[-1] == "All that dmq needs works."
    assert not any("not known" in line or "broken" in line for line in lines)


def test_a_kernel_that_adds_up_wrongly_is_found(capsys, monkeypatch):
    class Wrong:
        name = "wrong"

        def __init__(self, layer, weight):
            self.layer, self.weight = layer, weight

        def __call__(self, codes, scale, zero, bias, dtype):
            return torch.nn.functional.linear(codes.float(), self.weight.values.float()) + 1

    monkeypatch.setattr(
        kernels,
        "kernel_for",
        lambda layer, weight: Wrong(layer, weight) if layer.weight.ndim == 2 else "none",
    )
    report, said = asked(capsys, 1)
    assert (
        report["kernels"]["Linear on cpu"] == "wrong" and "wrong computes wrong sums on cpu" in said
    )
    assert report["kernels"]["Conv2d on cpu"] is None, (
        "a layer without a kernel is computed in float"
    )


def test_a_device_that_is_not_there_is_broken(capsys, monkeypatch):
    monkeypatch.setenv("DMQ_DEVICE", "xpu:7")
    _, said = asked(capsys, 1)
    assert said.startswith("dmq: there is no device 'xpu:7' here")


def test_a_package_that_is_missing_or_broken_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)  # `import plotly` fails
    version = metadata.version

    def without(name):
        if name == "torchmetrics":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor.metadata, "version", without)
    report, said = asked(capsys, 1)
    assert (
        report["packages"]["plotly"]
        == report["packages"]["torchmetrics"]
        == {"version": None, "tested": False}
    )
    assert "torchmetrics is not installed; run: pip install torchmetrics" in said
    assert "plotly is not to be imported" in said and len(said.splitlines()) == 1


def test_a_version_that_was_not_tested_is_told_and_not_broken(capsys, monkeypatch):
    wanted = [
        Requirement("torch>=99,<100"),
        Requirement("numpy>=1"),
        Requirement('nothing-of-it; extra == "bench"'),
    ]
    monkeypatch.setattr(doctor, "requirements", lambda: wanted)
    report, _ = asked(capsys)
    assert not report["packages"]["torch"]["tested"] and report["packages"]["numpy"]["tested"]
    assert cli.main(["doctor"]) == 0
    assert "(tested with" in capsys.readouterr().out


def test_extras_say_what_they_would_add(capsys, monkeypatch):
    wanted = [
        Requirement('no-such-package; extra == "bench"'),
        Requirement('numpy; extra == "train"'),
    ]
    monkeypatch.setattr(doctor, "requirements", lambda: wanted)
    monkeypatch.setattr(doctor.metadata, "metadata", lambda name: Extras())
    report, _ = asked(capsys)
    assert report["extras"]["bench"] == {"missing": ["no-such-package"]}
    assert report["extras"]["train"] == {"missing": []}


class Extras:
    def get_all(self, name, default):
        return ["bench", "train"]


def test_assets_that_are_missing_are_broken(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(places, "ASSETS", tmp_path)
    _, said = asked(capsys, 1)
    assert f"{tmp_path}: the files that ship with dmq are missing; install dmq again." in said


def test_without_room_a_run_folder_is_broken(capsys, monkeypatch):
    monkeypatch.setattr(folders, "MIN_FREE_BYTES", 10**18)
    report, said = asked(capsys, 1)
    assert "make room" in said and report["memory and disk"]["free disk"] < 10**18


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no permissions of this kind")
def test_a_read_only_run_folder_is_broken(home):
    home.mkdir(mode=0o555)
    code = "import sys; from dmq import cli; cli.doctor.packages = list; sys.exit(cli.main())"
    made = run_bound(
        [sys.executable, "-c", code, "doctor"], env=os.environ | {"DMQ_RUNS": str(home)}
    )
    assert made.returncode == 1 and made.stderr.startswith(f"dmq: {home}: permission denied")
    assert "run folder" in made.stdout and "(broken)" in made.stdout


def test_a_part_that_cannot_be_looked_at_leaves_the_others(capsys, monkeypatch):
    def fails():
        raise RuntimeError("no such thing\nin many lines")

    monkeypatch.setattr(doctor, "processor", fails)
    report, _ = asked(capsys)
    assert (
        report["processor"] == {"not known": "RuntimeError: no such thing"}
        and "cpu" in report["devices"]
    )
