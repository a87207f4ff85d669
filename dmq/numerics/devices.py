"""What a device has room for, and how much of a tensor is worked on at a time there.

A CPU is fastest on pieces that stay in its cache; everywhere else each operation costs a launch, so
that pieces are as large as free memory allows. What is found never depends on the size of pieces,
only how soon."""

import time
from functools import lru_cache
from pathlib import Path

import psutil
import torch
from torch import Tensor


CACHED = 2**18  # float32 values, 1 MB: what stays in a core's cache
LARGEST = 2**26  # of a piece; also where nobody tells how much memory is free
SHARE = (
    2**8
)  # bytes of free memory for each value of a piece: its temporaries, and room for what else is there
LIMITS = (  # of a container: files with the limit and with what is used of it, cgroup v2 and v1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def chunk_size(device: torch.device, cached: int = CACHED) -> int:
    """How many values are worked on together on `device`: `cached` on a CPU, a power of two
    elsewhere.

    >>> chunk_size(torch.device("cpu")), chunk_size(torch.device("cpu"), 2**20)
    (262144, 1048576)
    """
    if device.type == "cpu":
        return cached
    return _chunk_size(device, cached, int(time.monotonic()))


@lru_cache(maxsize=16)
def _chunk_size(
    device: torch.device, cached: int, _second: int
) -> int:  # asking a driver takes time: once a second
    free = free_memory(device)
    size = LARGEST if free is None else min(LARGEST, free // SHARE)
    return max(cached, 1 << (size.bit_length() - 1) if size else 0)


def free_memory(device: torch.device) -> int | None:
    """Bytes that could be had on `device` now; None where it does not tell."""
    if device.type == "cpu":
        return min([psutil.virtual_memory().available, *_container_limits()])
    module = getattr(torch, device.type, None)
    if module is None or not getattr(module, "is_available", lambda: True)():
        return None
    if device.type == "mps":
        return max(0, module.recommended_max_memory() - module.driver_allocated_memory())
    if not hasattr(module, "mem_get_info"):
        return None
    free, _ = module.mem_get_info(device)
    return (
        free + module.memory_reserved(device) - module.memory_allocated(device)
    )  # torch holds on to what was freed


def _container_limits() -> list[int]:
    """Bytes left of what this container may use."""
    found = []
    for limit, used in LIMITS:
        try:
            most, now = (Path(file).read_text("utf-8").strip() for file in (limit, used))
            found += [max(0, int(most) - int(now))] if most != "max" else []
        except (OSError, ValueError):
            continue
    return found


def double(x: Tensor) -> Tensor:
    """`x` in float64, where there is such a thing: of a device without, on the CPU."""
    return (x.cpu() if x.device.type == "mps" else x).double()
