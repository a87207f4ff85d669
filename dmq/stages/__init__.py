"""From a recipe to statistics, a plan, a quantized model, images and a report: what pages, CLI
and Python call.

What only reads finished statistics returns at once (`errors`, `plan`); what runs a model is a
generator that yields `Progress` (and `Image`s), whose value comes with its end (`finish`), and
which can be closed at any time."""

from ..models.libraries import load
from ..models.placement import AUTO, DTYPES, OFFLOADS, Placement
from ..models.work_plan import (
    WorkPlan,
    chosen_placement,
    devices,
    memory_line,
    plan_capture,
    plan_work,
    use_placement,
)
from ..progress import FLOAT_NAME, GeneratedImage, Progress, run_to_end
from .benchmarks import Estimate, bench, benchmark_of, check_benchmark, estimate, joined
from .blocks import blocks_so_far, reconstruct
from .blocks_kept import blocks_result, reconstructed
from .budgets import allocate, limits, pareto, with_allocation
from .capturing import capture
from .drift import deviation
from .duration import gpu_seconds
from .engines import BOTH, COMPUTED, computed_as, plain_name, with_engine
from .executing import Placed, placed
from .exporting import check, export
from .findings import Inversion, inversions
from .hub import push, push_hindrance
from .images import check_sampling, compare, difference, run
from .known import captured, for_model, info, statistics, temporal_block
from .learning import learn_mix
from .local import error_curves, errors, table
from .mixing import resolved
from .over_time import kept_over_time, kept_probe, last_over_time, last_probe, over_time, probe
from .planning import computed, coverage, plan, quantize
from .predictor import predict
from .predictor_kept import predictor_result
from .preparing import asked_steps, missing, prepare
from .progressive import calibrate, measure_windows
from .range_change import RangeChange, range_change
from .relaxing import RelaxedChoice, mean_activation_bits, relaxed_choices
from .searches import search, search_result, search_spec, searched
from .sensitivity import agreement, sensitivity
from .sensitivity_kept import load_table, sensitivity_table, tables
from .time_embedding import learn_temporal, temporal_errors, temporal_learned
from .trajectory_ranges import (
    calibrated,
    calls_kept,
    progressive_ranges,
    relaxed,
    seen_statistics,
    window_effects,
    windows_known,
    windows_measured,
)
from .weights_kept import has_learned_weights, learned_weights, weights_result
from .weights_learned import learn_weights, weight_variants


finish = run_to_end  # its former name

__all__ = [
    "AUTO",
    "BOTH",
    "COMPUTED",
    "DTYPES",
    "FLOAT_NAME",
    "OFFLOADS",
    "Estimate",
    "GeneratedImage",
    "Inversion",
    "Placed",
    "Placement",
    "Progress",
    "RangeChange",
    "RelaxedChoice",
    "WorkPlan",
    "agreement",
    "allocate",
    "asked_steps",
    "bench",
    "benchmark_of",
    "blocks_result",
    "blocks_so_far",
    "calibrate",
    "calibrated",
    "calls_kept",
    "capture",
    "captured",
    "check",
    "check_benchmark",
    "check_sampling",
    "chosen_placement",
    "compare",
    "computed",
    "computed_as",
    "coverage",
    "deviation",
    "devices",
    "difference",
    "error_curves",
    "errors",
    "estimate",
    "export",
    "finish",
    "for_model",
    "gpu_seconds",
    "has_learned_weights",
    "info",
    "inversions",
    "joined",
    "kept_over_time",
    "kept_probe",
    "last_over_time",
    "last_probe",
    "learn_mix",
    "learn_temporal",
    "learn_weights",
    "learned_weights",
    "limits",
    "load",
    "load_table",
    "mean_activation_bits",
    "measure_windows",
    "memory_line",
    "missing",
    "over_time",
    "pareto",
    "placed",
    "plain_name",
    "plan",
    "plan_capture",
    "plan_work",
    "predict",
    "predictor_result",
    "prepare",
    "probe",
    "progressive_ranges",
    "push",
    "push_hindrance",
    "quantize",
    "range_change",
    "reconstruct",
    "reconstructed",
    "relaxed",
    "relaxed_choices",
    "resolved",
    "run",
    "run_to_end",
    "search",
    "search_result",
    "search_spec",
    "searched",
    "seen_statistics",
    "sensitivity",
    "sensitivity_table",
    "statistics",
    "table",
    "tables",
    "temporal_block",
    "temporal_errors",
    "temporal_learned",
    "use_placement",
    "weight_variants",
    "weights_result",
    "window_effects",
    "windows_known",
    "windows_measured",
    "with_allocation",
    "with_engine",
]
