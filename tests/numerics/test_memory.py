"""Freed memory stays with the process, seen by the page faults that do not happen."""

import platform
import subprocess
import sys

import pytest


SCRIPT = """
import resource
import sys
import numpy as np
from dmq.numerics.memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
for n in range(22):
    if n == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [np.ones(2**20) for _ in range(6)]  # 8 MiB each
    held.clear()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    return int(
        subprocess.run(
            [sys.executable, "-c", SCRIPT, how], check=True, capture_output=True, text=True
        ).stdout
    )


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_buffers_are_reused_without_page_faults():
    assert faults("kept") < 200
    assert faults("given back") > 10_000  # else this test tells nothing
