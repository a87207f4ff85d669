"""The float model: as it is, with bfloat16 where autocast thinks it safe, and compiled."""

from typing import Any

import torch
from torch import Tensor

from .made import Made, StandIn, float_bytes
from .subjects import Subject


def make(subject: Subject, how: str) -> Made:
    """The subject's denoiser run `how`: "eager", "autocast" or "compile"."""
    denoiser = subject.loaded.denoiser
    if how == "autocast":
        return Made(_Autocast(denoiser), float_bytes(denoiser, 2), "bytes: a file in bf16")
    return Made(torch.compile(denoiser) if how == "compile" else denoiser, float_bytes(denoiser, 4))


class _Autocast(StandIn):
    """The denoiser under autocast, float32 outside."""

    def __init__(self, denoiser: torch.nn.Module) -> None:
        super().__init__(denoiser, self._call)
        self.denoiser = denoiser

    def _call(self, *args: Any, **kwargs: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.denoiser(*args, **kwargs)[0].float()
