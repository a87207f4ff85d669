"""Where models run: on which device, in which dtype, with which offload. No part of a recipe, which
means the same everywhere.

    Placement    what is wished for: "auto", or a name; that of this process is `chosen()`
    Place        what a wish comes to on this machine for one model: a device, a dtype, an offload

torch is imported by the functions that need it, so that a page or a command line can name a
placement without it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from ..errors import DmqError
from ..public import check_host


if TYPE_CHECKING:
    import torch

AUTO = "auto"
DTYPES = (AUTO, "float32", "bfloat16", "float16")
HALF = ("bfloat16", "float16")
OFFLOADS = ("none", "model", "sequential", "group")
KINDS = ("cuda", "xpu", "mps", "cpu")  # the first that is there is what "auto" takes
VARIABLES = {"device": "DMQ_DEVICE", "dtype": "DMQ_DTYPE", "offload": "DMQ_OFFLOAD"}
ROOM = 1.15  # times the weights: activations and the allocator's own need something, too
# the part of a component that group offload holds on the device at a time is about 1 / GROUPS
GROUPS = 12


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What is wished for. Raises DmqError for names that do not exist anywhere."""

    device: str = AUTO  # such as "cuda", "cuda:1", "cpu"
    dtype: str = AUTO
    offload: str = "none"

    def __post_init__(self) -> None:
        for name, known in (("dtype", DTYPES), ("offload", OFFLOADS)):
            value = getattr(self, name)
            if value not in known:
                raise DmqError(f"{name} is {value!r:.40}, not one of {', '.join(known)}.")
        kind, _, number = self.device.partition(":")
        if self.device != AUTO and (
            kind not in KINDS or (":" in self.device and not number.isdecimal())
        ):
            raise DmqError(
                f"device is {self.device!r:.40}; name {AUTO}, {', '.join(KINDS)}, or cuda:1."
            )


@dataclass(frozen=True)
class Device:
    """A device of this machine."""

    name: str  # "cuda:0"
    label: str  # "NVIDIA L4"
    total: int  # bytes of its memory
    free: int

    def __str__(self) -> str:
        return f"{self.name} ({self.label}, {_gb(self.free)} of {_gb(self.total)} free)"


@dataclass(frozen=True)
class Place:
    """Where and how one model runs; hashable, so that caches may hold it."""

    device: str = "cpu"
    dtype: str = "float32"
    offload: str = "none"

    @property
    def kind(self) -> str:
        """ "cpu", "cuda" …, without the number."""
        return self.device.partition(":")[0]

    @property
    def torch_dtype(self) -> "torch.dtype":
        import torch

        return getattr(torch, self.dtype)

    @property
    def resident(self) -> str:
        """The device on which the weights lie between calls: the CPU where they are offloaded."""
        return self.device if self.offload == "none" else "cpu"

    def line(self) -> str:
        """For reports: "cuda:0 (NVIDIA L4), bfloat16, group offload"."""
        label = next((device.label for device in devices() if device.name == self.device), "")
        parts = [
            f"{self.device} ({label})" if label and self.kind != "cpu" else self.device,
            self.dtype,
        ]
        return ", ".join(parts + ([f"{self.offload} offload"] if self.offload != "none" else []))


# --- the placement of this process ----------------------------------------------------------------


def get_chosen(**instead: str) -> Placement:
    """What $DMQ_DEVICE, $DMQ_DTYPE and $DMQ_OFFLOAD say, but for what is given `instead`; the rest
    is automatic.

    Raises DmqError that names the variable for what exists nowhere.
    """
    made = Placement(**instead)
    for name, variable in VARIABLES.items():
        if (value := os.environ.get(variable, "").strip()) and name not in instead:
            try:
                made = replace(made, **{name: value})
            except DmqError as error:
                raise DmqError(f"${variable}: {error}") from None
    return made


def use(placement: Placement) -> None:
    """Make `placement` that of this process and of those that it starts; raises DmqError for a
    device it lacks, and for a visitor of a public app.

    The environment holds it, since processes that share work read it from there.
    """
    check_host()
    _check_offload(placement.offload, _device_of(placement))
    for field in fields(placement):
        os.environ[VARIABLES[field.name]] = getattr(placement, field.name)


# --- what the machine has -------------------------------------------------------------------------


def devices() -> tuple[Device, ...]:
    """The devices of this machine, the one that "auto" takes first; the CPU is always there,
    last.
    """
    found = [name for kind in KINDS if kind != "cpu" for name in _names(kind)]
    return tuple(Device(name, label_of(name), *_memory(name)) for name in (*found, "cpu"))


def free_memory(device: str) -> int:
    """Bytes that a model could still get on `device`.

    On the CPU a limit of the container counts, too.
    """
    return _memory(device)[1]


def _names(kind: str) -> list[str]:
    import torch

    if kind == "mps":
        return ["mps"] if torch.backends.mps.is_available() else []
    module = getattr(torch, kind, None)
    return (
        [f"{kind}:{n}" for n in range(module.device_count())]
        if module and module.is_available()
        else []
    )


@lru_cache
def label_of(device: str) -> str:
    """What the maker calls a device."""
    import platform

    import torch

    kind, _, number = device.partition(":")
    if kind in ("cuda", "xpu"):
        return getattr(torch, kind).get_device_name(int(number or 0))
    return "Apple GPU" if kind == "mps" else platform.processor() or platform.machine()


def _memory(device: str) -> tuple[int, int]:
    """Bytes in all, and free."""
    import psutil
    import torch

    from ..numerics import devices as known

    kind, _, number = device.partition(":")
    free = known.free_memory(torch.device(device))
    if kind in ("cuda", "xpu"):
        _, total = getattr(torch, kind).mem_get_info(int(number or 0))
    else:
        total = (
            torch.mps.recommended_max_memory() if kind == "mps" else psutil.virtual_memory().total
        )
    return total, total if free is None else free


def can_run(device: str, dtype: str) -> bool:
    """Can `device` compute in `dtype`? Asked by computing."""
    import torch

    if device.startswith("cuda") and dtype == "bfloat16":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        x = torch.ones(2, 2, device=device, dtype=getattr(torch, dtype))
        return bool((x @ x).float().sum().item() == 8)
    except (RuntimeError, TypeError):
        return False


# --- from a wish to a place -----------------------------------------------------------------------


def resolve(
    placement: Placement, weights: Mapping[str, Mapping[str, int]], name: str = "the model"
) -> Place:
    """What `placement` comes to for a model with these `weights`: numbers of each part by the dtype
    of its file.

    Half-precision files stay half on a GPU, and on a CPU where they would not fit otherwise: a CPU
    is fastest in float32. Raises DmqError for a device or dtype that this machine lacks, and for a
    model that does not fit: it says what is needed, what is free, and which offload would do."""
    device = _device_of(placement)
    dtype = _dtype_of(placement, device, weights)
    place = Place(device, dtype, "none" if device == "cpu" else placement.offload)
    _check_offload(placement.offload, device)
    needed, free = needs(place, weights), free_memory(device)
    if needed > free:
        ways = [
            way
            for way in OFFLOADS[1:]
            if device != "cpu" and needs(Place(device, dtype, way), weights) <= free
        ]
        lower = dtype == "float32" and needs(Place(device, "float16"), weights) <= free
        hints = [f"--offload {way}" for way in ways] + (["--dtype bfloat16"] if lower else [])
        advice = (
            f"{' or '.join(hints)} would fit"
            if hints
            else "take a smaller model or a larger device"
        )
        raise DmqError(
            f"{name}: needs {_gb(needed)} on {device} in {dtype}, but only {_gb(free)} are free; "
            f"{advice}."
        )
    return place


def stored_dtype(weights: Mapping[str, Mapping[str, int]]) -> str:
    """The dtype in which most of the numbers of a pipeline are stored."""
    counts: dict[str, int] = {}
    for part in weights.values():
        for dtype, count in part.items():
            counts[dtype] = counts.get(dtype, 0) + count
    return max(counts, key=counts.__getitem__, default="float32")


def _check_offload(offload: str, device: str) -> None:
    if offload != "none" and device == "cpu":
        raise DmqError(
            f"offload {offload!r} is for a GPU, but the model runs on the CPU; leave it out."
        )


def needs(place: Place, weights: Mapping[str, Mapping[str, int]]) -> int:
    """Bytes that the weights and some room for activations take on the device of `place`."""
    size = 4 if place.dtype == "float32" else 2
    parts = [size * sum(part.values()) for part in weights.values()] or [0]
    held = {
        "none": sum(parts),
        "model": max(parts),
        "group": max(parts) // GROUPS,
        "sequential": max(parts) // 50,
    }
    return round(ROOM * held[place.offload])


def _device_of(placement: Placement) -> str:
    """The device that is meant, by number. Raises DmqError if it is not there."""
    if placement.device == "cpu":
        return "cpu"
    found = devices()
    if placement.device == AUTO:
        return found[0].name
    kind = placement.device.partition(":")[0]
    wanted = placement.device if ":" in placement.device or kind in ("mps", "cpu") else f"{kind}:0"
    if wanted not in [device.name for device in found]:
        there = ", ".join(map(str, found))
        raise DmqError(
            f"there is no device {placement.device!r} here; there is {there}. `dmq doctor` says "
            "more."
        )
    return wanted


def _dtype_of(placement: Placement, device: str, weights: Mapping[str, Mapping[str, int]]) -> str:
    if placement.dtype != AUTO:
        if not can_run(device, placement.dtype):
            others = [dtype for dtype in DTYPES[1:] if can_run(device, dtype)]
            raise DmqError(
                f"{device} cannot compute in {placement.dtype}; it can in {', '.join(others)}."
            )
        return placement.dtype
    most = stored_dtype(weights)
    fits = needs(Place(device, "float32", placement.offload), weights) <= free_memory(device)
    if most not in HALF:
        return (
            "float32"
            if fits
            else next((dtype for dtype in HALF if can_run(device, dtype)), "float32")
        )
    if device == "cpu":
        return "float32" if fits else most
    if can_run(device, most):
        return most
    return "float32" if fits else "float16"  # bfloat16 files on a card without it


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
