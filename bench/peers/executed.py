"""dmq's W8A8 on its own kernels, with one range for each activation or one for each group of timesteps."""

import torch

from dmq.runtime.convert import executed, ran_line

from .made import Made
from .subjects import Subject


def make(subject: Subject, groups: int, rest: str = "float32", compiling: bool = False) -> Made:
    """The recipe W8A8 with `groups` uniform groups of steps; what stays in float is computed in the dtype `rest`."""
    plan, loaded = subject.plan(groups), subject.loaded
    model = executed(loaded.denoiser, plan, loaded.adapter, rest=getattr(torch, rest), compiling=compiling)
    return Made(model, plan.bytes, ran_line(model))
