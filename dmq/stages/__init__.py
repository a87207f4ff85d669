"""From a recipe to statistics, a plan, a quantized model, images and a report: what pages, CLI
and Python call.

What only reads finished statistics returns at once (`errors`, `plan`); what runs a model is a
generator that yields `Progress` (and `Image`s), whose value comes with its end (`finish`), and
which can be closed at any time."""

from importlib import import_module
from typing import Any

from .blocks import blocks_so_far, reconstruct
from .blocks_kept import blocks_result, reconstructed
from .capturing import capture
from .known import captured, for_model, info, statistics, temporal_block
from .learning import learn_mix
from .local import error_curves, errors, table
from .mixing import resolved
from .planning import computed, coverage, plan, quantize
from .predictor import predict
from .predictor_kept import predictor_result
from .preparing import asked_steps, missing, prepare
from .progressive import calibrate, measure_windows
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


# What is kept elsewhere, by its file: a name here, or "name here=name there".
_PLACES = {
    "progress": "FLOAT_NAME GeneratedImage Progress run_to_end finish=run_to_end",
    "models.placement": "AUTO DTYPES OFFLOADS Placement",
    "models.libraries": "load",
    "models.work_plan": "WorkPlan chosen_placement devices=list_devices plan_capture plan_work"
    " memory_line=describe_memory use_placement",
    "figures.images": "difference",
    "allocation.budget": "allocate limits pareto",
    "workflow.bit_allocation": "with_allocation=apply_allocation",
    "workflow.export": "check export=write_export",
    "workflow.gpu_time": "gpu_seconds=estimate_gpu_seconds",
    "workflow.hub": "push push_hindrance",
    "workflow.relaxation": "RelaxedChoice mean_activation_bits relaxed_choices=compare_relaxations",
    "evaluation.benchmark": "bench=run_benchmark benchmark_of=make_benchmark check_benchmark",
    "evaluation.benchmark_estimate": "Estimate estimate=estimate_benchmark",
    "evaluation.checks": "check_sampling",
    "evaluation.compare": "compare=compare_images run=run_comparison",
    "evaluation.engines": "BOTH COMPUTED=ENGINE_CHOICES Placed=KernelAssignment"
    " computed_as=with_engines placed=assign_kernels plain_name=strip_engine with_engine",
    "evaluation.error_curves": "kept_over_time=find_error_curves"
    " last_over_time=find_last_error_curves over_time=measure_error_curves",
    "evaluation.joined_benchmarks": "joined=join_benchmarks",
    "evaluation.probe": "kept_probe=find_probe last_probe=find_last_probe probe=run_probe",
    "evaluation.range_change": "RangeChange range_change=compare_ranges",
    "evaluation.rank_inversions": "Inversion inversions=find_inversions",
    "evaluation.time_embedding_drift": "deviation=measure_drift",
}
_PLACE_OF = {
    name.partition("=")[0]: (module, name.rpartition("=")[2])
    for module, names in _PLACES.items()
    for name in names.split()
}


def __getattr__(name: str) -> Any:
    """What is kept elsewhere, imported when it is first asked for."""
    if name not in _PLACE_OF:
        raise AttributeError(f"module 'dmq.stages' has no attribute {name!r}")
    module, there = _PLACE_OF[name]
    globals()[name] = value = getattr(import_module(f"dmq.{module}"), there)
    return value


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
