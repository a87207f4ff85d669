"""Nothing that runs on a device mixes its tensors with the CPU's: what `tests/elsewhere.py` demands."""

import os
import subprocess
import sys
from pathlib import Path


def test_nothing_is_mixed_with_tensors_of_the_cpu():
    file = Path(__file__).with_name("elsewhere.py")
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", str(file)]
    command += ["-o", "addopts=--import-mode=importlib"]  # the project's own would make it too quiet to count
    environment = os.environ | {"DMQ_TEST_ELSEWHERE": "1"}
    made = subprocess.run(command, cwd=file.parents[1], capture_output=True, encoding="utf-8", env=environment)
    assert made.returncode == 0, made.stdout[-6000:]
    assert int(made.stdout.rpartition(" passed")[0].split()[-1]) >= 100
