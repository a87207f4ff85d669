"""The one error type that people see, and what the system's errors about a disk mean to them."""

import errno
import os
import re
from pathlib import Path


class DmqError(Exception):
    """Something the user can fix: shown as one sentence (where, what, what next) in the CLI and
    in the app.
    """


class Refused(DmqError):
    """What a visitor of a public app may not have: the same words whatever was asked, and
    nothing around them.
    """


FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows knows no quota
TOO_LARGE = {errno.EFBIG}
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
ELSEWHERE = "choose another folder ($DMQ_RUNS says where runs are kept)"


def disk_error(error: Exception, place: str | Path = "") -> DmqError | None:
    """What `error` means, if it is about a disk: full, or not to be written; None if it is about
    something else.

    `place` is named, or else the file that the error names.
    """
    code = _system_code(error)
    where = place or getattr(error, "filename", None) or "a file"
    if code in FULL:
        return DmqError(f"{where}: the disk is full; make room, or {ELSEWHERE}.")
    if code in TOO_LARGE:
        return DmqError(f"{where}: a file of this size cannot be written here; {ELSEWHERE}.")
    if code in REFUSED:
        return DmqError(f"{where}: {os.strerror(code).lower()}; {ELSEWHERE}.")
    return None


def _system_code(error: Exception) -> int | None:
    """`errno` of an error, also of one of safetensors, whose text alone tells it."""
    if isinstance(error, OSError):
        return error.errno
    found = (
        re.search(r"\(os error (\d+)\)", str(error))
        if type(error).__name__ == "SafetensorError"
        else None
    )
    # The fourth argument is Windows' own number, which Python translates there and ignores
    # elsewhere.
    return OSError(int(found[1]), "", None, int(found[1])).errno if found else None
