"""`dmq doctor`: what this machine and this installation can do, looked at and not remembered.

Each part of the report is a list of findings. A finding that dmq cannot do without has a `problem`,
one line with what to do next; what is merely slower or missing is told and no problem."""

import argparse
import importlib
import json
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__, places
from ..errors import DmqError
from ..store import folders, runs


NEEDED = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "gradio",
    "plotly",
    "torchmetrics",
)  # imported to see
INSTRUCTIONS = {  # as dmq says them, and as torch does
    "AVX2": ("avx2",),
    "AVX-512": ("avx512_f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "AMX": ("amx_int8",),
    "bfloat16": ("avx512_bf16", "bf16"),
    "Arm dot product": ("dot",),
    "Arm int8 matrices": ("i8mm",),
    "SVE": ("sve",),
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report."""

    name: str
    said: str
    data: Any  # the same for programs
    problem: str = ""


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Offer the command; `add` makes a parser from name, function and help."""
    one = add(
        "doctor", doctor, "Say what this machine and this installation can do, and what is broken."
    )
    one.add_argument("--json", action="store_true", help="for programs")


def doctor(given: argparse.Namespace) -> None:
    """Print the report. Raises DmqError with all that is broken."""
    report = examine()
    problems = [finding.problem for part in report.values() for finding in part if finding.problem]
    if given.json:
        plain = {
            part: {finding.name: finding.data for finding in findings}
            for part, findings in report.items()
        }
        print(json.dumps({"ok": not problems, "problems": problems} | plain, indent=1))
    else:
        print_report(report)
    if problems:
        raise DmqError("; ".join(problems))


def print_report(report: dict[str, list[Finding]]) -> None:
    """A heading and a line for each finding."""
    width = max(len(finding.name) for part in report.values() for finding in part)
    for part, findings in report.items():
        print(part)
        for finding in findings:
            print(
                f"  {finding.name:{width}}  {finding.said}"
                + ("  (broken)" if finding.problem else "")
            )
    if not any(finding.problem for part in report.values() for finding in part):
        print("All that dmq needs works.")


def examine() -> dict[str, list[Finding]]:
    """All findings by part.

    A part that cannot be looked at, as without torch, is one finding that says why.
    """
    parts = {
        "dmq": installation,
        "packages": packages,
        "processor": processor,
        "devices": devices,
        "kernels": kernels,
        "memory and disk": storage,
        "extras": extras,
    }
    found = {}
    with warnings.catch_warnings(action="ignore"):  # of packages that are looked at
        for name, look in parts.items():
            try:
                found[name] = list(look())
            except Exception as error:  # a doctor must not die of what it finds
                why = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]:.160}"
                found[name] = [Finding(name="not known", said=why, data=why)]
    return found


def installation() -> Iterator[Finding]:
    """Version, folder, what ships."""
    yield Finding(name="version", said=__version__, data=__version__)
    yield Finding(
        name="Python",
        said=f"{platform.python_version()}, {sys.executable}",
        data=platform.python_version(),
    )
    yield Finding(name="system", said=platform.platform(), data=platform.platform())
    there = (places.ASSETS / "web" / "app.css").is_file() and bool(runs.shipped_recipes())
    problem = (
        ""
        if there
        else f"{places.ASSETS}: the files that ship with dmq are missing; install dmq again."
    )
    yield Finding(name="assets", said=str(places.ASSETS), data=str(places.ASSETS), problem=problem)
    from ..models.loading import is_embedded

    yield Finding(
        name="embedded models", said=", ".join(is_embedded()) or "none", data=list(is_embedded())
    )


def packages() -> Iterator[Finding]:
    """Versions of what dmq stands on, whether it can be imported, and whether it was tested with
    that version.
    """
    ranges = {
        requirement.name: requirement.specifier
        for requirement in requirements()
        if not requirement.marker
    }
    for name in dict.fromkeys([*NEEDED, *sorted(ranges)]):
        try:
            version = metadata.version(name)
            if name in NEEDED:
                importlib.import_module(name)
        except Exception as error:  # a broken package may raise anything
            missing = isinstance(error, metadata.PackageNotFoundError)
            why = "not installed" if missing else f"not to be imported ({error})"
            problem = f"{name} is {why:.160}; run: pip install {name}{ranges.get(name, '')}"
            yield Finding(
                name=name, said=why, data={"version": None, "tested": False}, problem=problem
            )
            continue
        tested = (
            not ranges or name not in ranges or ranges[name].contains(version, prereleases=True)
        )
        note = "" if tested else f"  (tested with {ranges[name]})"
        yield Finding(name=name, said=version + note, data={"version": version, "tested": tested})


def extras() -> Iterator[Finding]:
    """Which optional packages are there, by the extra that installs them, and a compiler."""
    asked = [requirement for requirement in requirements() if requirement.marker]
    for extra in metadata.metadata("dmq").get_all("Provides-Extra", []) if asked else ():
        names = [one.name for one in asked if one.marker.evaluate({"extra": extra})]
        missing = [name for name in names if not _is_installed(name)]
        said = (
            f"pip install {' '.join(missing)}" if missing else "all there"
        )  # no name of dmq's: it is on no index
        yield Finding(name=extra, said=said, data={"missing": missing})
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++", "cl"))), None)
    said = compiler or "none; models cannot be compiled (torch.compile)"
    yield Finding(name="C++ compiler", said=said, data=compiler)


def requirements() -> list[Any]:
    """What the installed dmq asks for, as `packaging` reads it; empty in a checkout that was
    never installed.
    """
    from packaging.requirements import Requirement

    try:
        return [Requirement(line) for line in metadata.requires("dmq") or []]
    except metadata.PackageNotFoundError:
        return []


def processor() -> Iterator[Finding]:
    """What the processor is called and which instructions torch finds on it."""
    import torch

    seen = instructions()
    name = processor_name()
    yield Finding(name="name", said=name, data=name)
    there = [known for known, has in seen.items() if has]
    yield Finding(name="instructions", said=", ".join(there) or "none that matter here", data=seen)
    level = (
        torch.backends.cpu.get_cpu_capability()
    )  # less than the processor's where ATEN_CPU_CAPABILITY says so
    yield Finding(name="torch uses", said=level, data=level)
    threads = torch.get_num_threads()
    yield Finding(name="threads", said=f"{threads} of {os.cpu_count()} cores", data=threads)


def processor_name() -> str:
    """What the maker calls the processor, as far as this system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    named = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""
    )
    return named or platform.processor() or platform.machine()


def instructions() -> dict[str, bool]:
    """Which of INSTRUCTIONS this processor has."""
    import torch

    table = torch.cpu.get_capabilities()
    return {
        known: any(bool(table.get(key)) for key in keys) for known, keys in INSTRUCTIONS.items()
    }


def devices() -> Iterator[Finding]:
    """The devices of this machine with their memory and number formats, and the one that is
    taken.
    """
    from ..models import placement

    for device in placement.devices():
        formats = [dtype for dtype in placement.DTYPES[1:] if placement.can_run(device.name, dtype)]
        data = {
            "label": device.label,
            "total": device.total,
            "free": device.free,
            "dtypes": formats,
        }
        yield Finding(
            name=device.name,
            said=f"{device.label}, {size(device.free)} of {size(device.total)} free; "
            f"{', '.join(formats)}",
            data=data,
        )
    try:
        wish = placement.get_chosen()
        placement.use(wish)
        first = placement.devices()[0].name if wish.device == placement.AUTO else wish.device
        yield Finding(name="taken", said=first, data=first)
    except DmqError as error:
        yield Finding(name="taken", said=str(error), data=None, problem=str(error))


def kernels() -> Iterator[Finding]:
    """Which kernel multiplies whole numbers on each device, tried on codes whose products are
    known.
    """
    import torch
    from torch import nn

    from ..models import placement
    from ..runtime.kernels import kernel_for, lacks_onednn
    from ..runtime.sums import SENTENCES, onednn_sums
    from ..runtime.whole_weights import WholeWeight

    lacks = lacks_onednn()
    yield Finding(
        name="oneDNN int8", said=lacks or f"runs here, {SENTENCES[onednn_sums()]}", data=not lacks
    )
    draw = torch.Generator().manual_seed(0)
    for device in placement.devices():
        for layer in (nn.Linear(64, 64, bias=False), nn.Conv2d(64, 64, 3, bias=False)):
            values = torch.randint(-63, 64, layer.weight.shape, generator=draw, dtype=torch.int8)
            shape = (20, 64) if isinstance(layer, nn.Linear) else (2, 64, 8, 8)
            codes = torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
            layer.weight.data = values.float()
            whole = WholeWeight(
                values=values.to(device.name), scale=torch.ones(64, device=device.name), offset=None
            )
            kernel = kernel_for(layer.to(device.name), whole)
            name = f"{type(layer).__name__} on {device.name}"
            if isinstance(kernel, str):
                yield Finding(name=name, said=f"in float ({kernel})", data=None)
                continue
            with torch.no_grad():
                right = layer.cpu()(codes.float())
                made = kernel(codes.to(device.name), 1.0, 0, None, torch.float32).cpu()
            # At most 576 * 255 * 63 < 2^24: both are whole numbers that float32 holds exactly.
            advice = "use the engine 'simulated', and report this."
            wrong = (
                ""
                if torch.equal(made, right)
                else f"{kernel.name} computes wrong sums on {device.name}; {advice}"
            )
            yield Finding(name=name, said=kernel.name, data=kernel.name, problem=wrong)


def storage() -> Iterator[Finding]:
    """Memory, and the run folder with its disk."""
    from ..models import placement

    free = placement.free_memory("cpu")
    yield Finding(name="free memory", said=size(free), data=free)
    folder = folders.home()
    try:
        folders.check_writable()
        problem = ""
    except DmqError as error:
        problem = str(error)
    said = f"{folder.absolute()}, {'can be written' if not problem else 'cannot be used'}"
    yield Finding(name="run folder", said=said, data=str(folder.absolute()), problem=problem)
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    disk = shutil.disk_usage(there).free
    yield Finding(name="free disk", said=size(disk), data=disk)


def size(count: int) -> str:
    """A number of bytes as people say it."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
