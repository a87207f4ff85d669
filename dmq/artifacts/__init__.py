"""What takes long and is kept, one file for each kind; `inputs` says what stands on what.

A new kind is a question (`questions`), what it needs (`inputs`), and a file that registers where it
is kept and how it is computed, saved and loaded.
"""

from ..store.artifact import Store
from . import capture, group_search, inputs, progressive_ranges, windows
from .questions import Capture, GroupSearch, Progressive, Run, Windows


__all__ = [
    "Capture",
    "GroupSearch",
    "Progressive",
    "Run",
    "Windows",
    "capture",
    "group_search",
    "inputs",
    "progressive_ranges",
    "store",
    "windows",
]

store = Store()
