"""TIAR: the rounding of the whole time embedding, learned against its own float outputs.

All linear layers of the block are trained together on all timesteps; no image is needed, and no
other layer is involved. Source: tfm, "TIAR"."""

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..models.adapter import AbstractAdapter
from ..models.borrow import borrow, parameters_of, replace
from ..models.temporal import temporal_features
from ..numerics.backward import backward
from ..numerics.rounding import beta_at
from ..numerics.threads import few_threads
from ..quantizers.codes import WeightCodes, code_arrays, codes_from
from ..recipe import Tiar, Weights
from ..results import TemporalBlock
from .adaround import (
    ITERATIONS_PER_STATE,
    PENALTY,
    Rounding,
    SoftLinear,
    measure_indecision,
    state_of,
)


@dataclass(frozen=True, kw_only=True)
class LearnedRounding:
    """What TIAR found: the codes of every layer that it trained."""

    codes: Mapping[str, WeightCodes]
    losses: (
        np.ndarray
    )  # [iterations] float32: sum over projections of the squared error, without the regulariser
    note: str = ""  # why it ended before its time, if it did


def learn_rounding(
    model: nn.Module,
    adapter: AbstractAdapter,
    block: TemporalBlock,
    formats: Mapping[str, Weights],
    spec: Tiar,
    t: Tensor,
    given: Mapping[str, Tensor],
) -> Generator[tuple[int, int], None, LearnedRounding]:
    """Yield (iterations done, all) while the rounding of the layers in `formats` is learned; return
    what was found.

    `t` [rows] and `given` [rows, ...] are all that the time embedding can be asked; `model` is the float
    denoiser, which stays as it is. Training stops at the first loss that is not finite, with the
    last good state and a note."""
    quantized_model, device = borrow(model), next(model.parameters()).device
    t, given = t.to(device), {name: x.to(device) for name, x in given.items()}
    floats = {name: model.get_parameter(f"{name}.weight") for name in formats}
    with few_threads(floats.values()):
        roundings = {name: Rounding(floats[name], weights) for name, weights in formats.items()}
        for name, rounding in roundings.items():
            bias = parameters_of(model.get_submodule(name))[1]
            replace(quantized_model, name, SoftLinear(bias, rounding))
        with torch.no_grad():
            wanted = temporal_features(model, adapter, block, t, given)
    learned, dtype = (
        [rounding.v for rounding in roundings.values()],
        next(iter(floats.values())).dtype,
    )
    optimiser = torch.optim.Adam(learned, spec.rate, fused=True)
    rows = torch.Generator().manual_seed(spec.seed)
    losses: list[float] = []
    note, kept = "", state_of(roundings)
    for n in range(spec.iterations):
        # The consumer runs between two yields, so the setting of threads must not stay open across
        # one.
        with few_threads(learned), torch.enable_grad():
            some: slice | Tensor = slice(None)
            if len(t) > spec.batch:
                some = torch.randperm(len(t), generator=rows)[: spec.batch].to(device)
            made = temporal_features(
                quantized_model,
                adapter,
                block,
                t[some],
                {name: x[some] for name, x in given.items()},
            )
            pairs = zip(made, wanted, strict=True)
            errors = ((a - b[some]).square().sum(1).mean() for a, b in pairs)
            loss = sum(errors, start=torch.zeros(()))
            beta = beta_at(n / spec.iterations)
            total = (
                loss
                if beta is None
                else loss + PENALTY * measure_indecision(roundings.values(), beta)
            )
            backward(total, learned, dtype)
            losses.append(loss.item())
            if not math.isfinite(total.item()):
                note = f"stopped at iteration {n + 1} of {spec.iterations}: the loss was {total.item()}."
                break
            optimiser.step()
            if n % ITERATIONS_PER_STATE == ITERATIONS_PER_STATE - 1:
                kept = state_of(roundings)
        if n % ITERATIONS_PER_STATE == ITERATIONS_PER_STATE - 1:
            yield n + 1, spec.iterations
    if note:
        for name, v in kept.items():
            roundings[name].v.data = v
    codes = {name: rounding.hardened() for name, rounding in roundings.items()}
    return LearnedRounding(codes=codes, losses=np.array(losses, np.float32), note=note)


def to_arrays(learned: LearnedRounding) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`learned` as numpy arrays and plain data, for a file."""
    arrays, plain = code_arrays(learned.codes)
    return {"losses": learned.losses} | arrays, {"layers": plain, "note": learned.note}


def from_arrays(arrays: Mapping[str, np.ndarray], plain: Mapping[str, Any]) -> LearnedRounding:
    """The inverse of `to_arrays`."""
    return LearnedRounding(
        codes=codes_from(arrays, plain["layers"]), losses=arrays["losses"], note=plain["note"]
    )
