"""From a recipe to statistics, a plan, a quantized model, pictures and a report: what pages, CLI and Python call.

What only reads finished statistics returns at once (`errors`, `plan`); what runs a model is a generator that yields
`Progress` (and `Picture`s), whose value comes with its end (`finish`), and which can be closed at any time.
"""

from .blocks import blocks_so_far, reconstruct
from .blocks_kept import blocks_result, reconstructed
from .drift import deviation
from .known import capture, captured, for_model, info, load, statistics, temporal_block
from .local import error_curves, errors, table
from .pictures import check_sampling, compare, difference, run
from .planning import plan, quantize
from .progress import FLOAT_NAME, Picture, Progress, finish
from .searches import search, search_result, search_spec, searched
from .time_path import learn_temporal, temporal_errors, temporal_learned


__all__ = [
    "FLOAT_NAME",
    "Picture",
    "Progress",
    "blocks_result",
    "blocks_so_far",
    "capture",
    "captured",
    "check_sampling",
    "compare",
    "deviation",
    "difference",
    "error_curves",
    "errors",
    "finish",
    "for_model",
    "info",
    "learn_temporal",
    "load",
    "plan",
    "quantize",
    "reconstruct",
    "reconstructed",
    "run",
    "search",
    "search_result",
    "search_spec",
    "searched",
    "statistics",
    "table",
    "temporal_block",
    "temporal_errors",
    "temporal_learned",
]
