"""What is learned, measured or resolved, one file for each kind; `inputs` says what stands on what.

A new kind is a question (`questions`), how a recipe asks it (`of_recipe`), what it needs (`inputs`),
and a file that registers where it is kept and how it is computed, saved and loaded.
"""

from ..store.artifact import store
from . import (
    block_rounding,
    capture,
    errors,
    group_search,
    inputs,
    layer_codes,
    layer_costs,
    mix_scores,
    model,
    plan,
    progressive_ranges,
    time_rounding,
    windows,
)


__all__ = [
    "block_rounding",
    "capture",
    "errors",
    "group_search",
    "inputs",
    "layer_codes",
    "layer_costs",
    "mix_scores",
    "model",
    "plan",
    "progressive_ranges",
    "store",
    "time_rounding",
    "windows",
]
