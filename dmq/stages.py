"""The former home of what the README showed: it works for one more release, with a warning that says
where it is now."""

import warnings
from importlib import import_module
from typing import Any


_NOW = {
    "capture": "dmq.workflow.learning.capture_statistics",
    "compare": "dmq.evaluation.compare.compare_images",
    "computed": "dmq.workflow.answers.get_model",
    "errors": "dmq.workflow.answers.get_errors",
    "finish": "dmq.progress.run_to_end",
    "plan": "dmq.workflow.answers.get_plan",
    "prepare": "dmq.workflow.steps.carry_out",
    "quantize": "dmq.workflow.answers.get_simulated",
}


def __getattr__(name: str) -> Any:
    if name not in _NOW:
        raise AttributeError(f"module 'dmq.stages' has no attribute {name!r}")
    module, _, now = _NOW[name].rpartition(".")
    message = f"dmq.stages.{name} is {_NOW[name]} now; the former name goes with the next release"
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return getattr(import_module(module), now)
