"""Lists of prompts: those that ship in assets/prompts, and a user's own text file with one on
each line.
"""

from pathlib import Path

from ..errors import DmqError
from ..public import check_place, uploads
from ..recipe import MAX_PROMPT, Domain
from . import folders


MAX_LINES = 10_000  # lines
LONGEST = 8_000_000  # bytes of a file


def shipped_domains() -> dict[str, Domain]:
    """The domains of a benchmark that ship, by name.

    "names" are of the kind that emoji-sd was trained on, others than the calibration list's;
    "compositions" and "paraphrases" it never saw."""
    found = (
        folders.ASSETS / "prompts" / f"{name}.txt"
        for name in ("names", "compositions", "paraphrases")
    )
    return {file.stem: read_prompts(file) for file in found}


# stands for the prompt of a model that takes none, so that questions about it are equal
UNPROMPTED = "unprompted"
UNCONDITIONAL = Domain(
    name="unconditional", prompts=("unconditional",)
)  # of a model without prompts: seeds differ


def read_prompts(file: str | Path) -> Domain:
    """The prompts in a text file, one a line, as a domain called like the file. Empty lines are
    skipped.

    Raises DmqError in one line for a file that is missing, no UTF-8, empty, too long, or has a
    prompt that is too long or there twice, with its line; in public mode, for a file that nobody
    uploaded."""
    file = Path(file).expanduser()
    check_place(file, folders.ASSETS, uploads())
    try:
        if file.stat().st_size > LONGEST:
            raise DmqError(
                f"{file}: {file.stat().st_size:,} bytes; at most {LONGEST:,} and {MAX_LINES:,} lines "
                "are read."
            )
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DmqError(
            f"{file}: is no UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8."
        ) from None
    except OSError as error:
        raise DmqError(f"{file}: cannot be read ({error.strerror}).") from None
    lines = text.splitlines()
    if len(lines) > MAX_LINES:
        raise DmqError(
            f"{file}: {len(lines):,} lines; at most {MAX_LINES:,} prompts are read. Take a part of them."
        )
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        prompt = line.strip()
        if len(prompt) > MAX_PROMPT:
            raise DmqError(
                f"{file}, line {number}: {len(prompt)} characters; a prompt has at most "
                f"{MAX_PROMPT}."
            )
        if "\0" in prompt:
            raise DmqError(
                f"{file}, line {number}: this is no text; a prompt file has one prompt on each "
                "line."
            )
        if prompt in seen:
            raise DmqError(
                f"{file}, line {number}: {prompt!r:.60} is there twice, first in line "
                f"{seen[prompt]}."
            )
        if prompt:
            seen[prompt] = number
    if not seen:
        raise DmqError(f"{file}: has no prompts; write one on each line.")
    return Domain(name=file.stem[:60] or "prompts", prompts=tuple(seen))
