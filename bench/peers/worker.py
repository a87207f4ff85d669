"""One row in a process of its own: makes its model, then sleeps until it is told to work a round.

    python -m bench.peers.worker SUBJECT WORK MODULE SETTINGS OUT THREADS

Says one JSON object a line: {"made": seconds, "bytes", "note", "peak"} or {"failed": why}, then for
each number n that it reads {"seconds", "peak"}, having left what it computed in OUT/n.npy. Peaks
are megabytes of resident memory, that of making the model apart from that of working with it."""

import ctypes
import gc
import importlib
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.peers.subjects import opened


def main(subject: str, work: str, module: str, settings: str, out: str, threads: str) -> None:
    say = _reporter()
    warnings.simplefilter("ignore")
    torch.set_num_threads(int(threads))
    torch.set_grad_enabled(False)
    try:
        begun = time.perf_counter()
        place = opened(subject, Path(work))
        made = importlib.import_module(f"bench.peers.{module}").make(place, **json.loads(settings))
        run = place.work(made.denoiser)
        size, note = made.bytes, made.note
        if made.denoiser is not place.loaded.denoiser:
            del place, made
            gc.collect()
        run(0)  # compiles, allocates, fills caches
        took = time.perf_counter() - begun
        peak = _peak()
        _forget_peak()
        say({"made": took, "bytes": size, "note": note, "peak": peak})
        for line in sys.stdin:
            n = int(line)
            begun = time.perf_counter()
            answer = run(n)
            took = time.perf_counter() - begun
            np.save(Path(out) / f"{n}.npy", answer.float().numpy())
            say({"seconds": took, "peak": _peak()})
    except Exception as error:  # whatever a peer raises is what its row says
        say({"failed": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:200]})
        raise


def _reporter() -> Any:
    """Writes to what was stdout; whatever else prints there goes to stderr from now on."""
    stream = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    return lambda message: stream.write(json.dumps(message) + "\n")


def _peak() -> float:
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


def _forget_peak() -> None:
    """Give back what was freed, and let the peak begin anew at what is held now."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
