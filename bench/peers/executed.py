"""dmq's W8A8 on its own kernels, with one range for each activation or one for each group of timesteps."""

import torch

from dmq.recipe import FLOAT, Override
from dmq.runtime.convert import executed, ran_line

from .made import Made
from .subjects import Subject


# SDNQ leaves projections into and out of transformers as they are, and gives float inputs to layers with few rows.
IN_FLOAT = (
    *(Override(layers=name, weight_bits=FLOAT, activation_bits=FLOAT) for name in ("*proj_in", "*proj_out")),
    *(Override(layers=name, activation_bits=FLOAT) for name in ("time_embedding*", "*time_emb_proj")),
)


def make(
    subject: Subject, groups: int = 1, rest: str = "float32", compiling: bool = False, dynamic: str = "none",
    like_sdnq: bool = False,
) -> Made:
    """The recipe W8A8 with `groups` uniform groups of steps, or `dynamic` ranges.

    What stays in float is computed in the dtype `rest`; `like_sdnq`, that is as much as with SDNQ's defaults.
    """
    plan, loaded = subject.plan(groups, dynamic, IN_FLOAT if like_sdnq else ()), subject.loaded
    model = executed(loaded.denoiser, plan, loaded.adapter, rest=getattr(torch, rest), compiling=compiling)
    return Made(model, plan.bytes, ran_line(model))
