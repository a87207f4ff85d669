"""The folders of an answer: one's own, which is written, then the one that ships."""

from pathlib import Path

from ..store import folders


def own_and_shipped(kind: str, name: str) -> tuple[Path, Path]:
    """`name` in the run folder's `kind` (captures, searches, …), and among what ships."""
    return folders.home() / kind / name, folders.ASSETS / "runs" / name
