"""dmq's W8A8 on its own kernels, with one range for each activation or one for each group of
timesteps.
"""

from collections.abc import Iterable, Iterator
from math import prod

import torch

from dmq.describe import describe_kernels
from dmq.recipe import FLOAT, Override
from dmq.results import Layer
from dmq.runtime.convert import count_kernels, execute_model

from .made import Made
from .subjects import Subject


def make(
    subject: Subject,
    groups: int = 1,
    rest: str = "float32",
    compiling: bool = False,
    dynamic: str = "none",
    like: str = "",
) -> Made:
    """The recipe W8A8 with `groups` uniform groups of steps, or `dynamic` ranges.

    What stays in float is computed in the dtype `rest`; it is as much as `like`, one of KEPT,
    leaves in float."""
    loaded = subject.loaded
    plan = subject.plan(groups, dynamic, tuple(KEPT[like](loaded.info.layers)) if like else ())
    model = execute_model(
        loaded.denoiser, plan, loaded.adapter, rest=getattr(torch, rest), compiling=compiling
    )
    return Made(model, plan.bytes, describe_kernels(*count_kernels(model)))


def kept_by_sdnq(layers: Iterable[Layer]) -> Iterator[Override]:
    """What is float with SDNQ's defaults: thin and small layers, those around transformers and
    of the time.
    """
    for layer in layers:
        outputs, inputs = layer.shape[:2]
        apart = layer.name.endswith((".proj_in", ".proj_out")) or layer.name.startswith(
            "adaln_single."
        )
        if apart or prod(layer.shape) < 16384 or min(outputs, inputs) < 32:
            yield Override(layers=layer.name, weight_bits=FLOAT, activation_bits=FLOAT)
        elif layer.name.startswith("time_embedding") or layer.name.endswith(".time_emb_proj"):
            yield Override(layers=layer.name, activation_bits=FLOAT)


def kept_by_quanto(layers: Iterable[Layer]) -> Iterator[Override]:
    """quanto has int8 weights in convolutions, and inputs as they come."""
    return (
        Override(layers=layer.name, activation_bits=FLOAT)
        for layer in layers
        if len(layer.shape) > 2
    )


def kept_by_torchao(layers: Iterable[Layer]) -> Iterator[Override]:
    """torchao leaves convolutions alone."""
    for layer in layers:
        if len(layer.shape) > 2:
            yield Override(layers=layer.name, weight_bits=FLOAT, activation_bits=FLOAT)


KEPT = {"sdnq": kept_by_sdnq, "quanto": kept_by_quanto, "torchao": kept_by_torchao}
