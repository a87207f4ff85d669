"""Processes that may not write where file permissions forbid it, as users may not but root may."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


# Root passes over permissions by a capability (CAP_DAC_OVERRIDE, 1) that no child has once it left
# the bounding set.
WITHOUT = "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"


def bound(command: Sequence[str | Path]) -> list[str]:
    """`command`, an absolute path and its arguments, to be run as somebody whom file permissions
    bind.
    """
    plain = [str(part) for part in command]
    return (
        [sys.executable, "-c", WITHOUT, *plain]
        if hasattr(os, "geteuid") and os.geteuid() == 0
        else plain
    )


def run_bound(command: Sequence[str | Path], **settings: Any) -> subprocess.CompletedProcess:
    """What `bound(command)` says and how it ends, as text in UTF-8."""
    return subprocess.run(
        bound(command), capture_output=True, encoding="utf-8", check=False, **settings
    )
