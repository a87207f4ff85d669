"""Nothing that runs on a device mixes its tensors with the CPU's, nor waits for it: each file in
its own process.

What these files do to torch lasts as long as their process.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest


HERE = Path(__file__).parent


@pytest.mark.parametrize(("file", "count"), [("elsewhere.py", 100), ("runtime/fake_device.py", 30)])
def test_nothing_is_mixed_with_tensors_of_the_cpu(file, count):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        str(HERE / file),
    ]
    command += [
        "-o",
        "addopts=--import-mode=importlib",
    ]  # the project's own would make it too quiet to count
    environment = os.environ | {"DMQ_TEST_ELSEWHERE": "1"}
    made = subprocess.run(
        command, cwd=HERE.parent, capture_output=True, encoding="utf-8", env=environment
    )
    assert made.returncode == 0, made.stdout[-6000:]
    assert int(made.stdout.rpartition(" passed")[0].split()[-1]) >= count
